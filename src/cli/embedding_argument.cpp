#include "embedding_argument.h"

#include "check.h"
#include "lora_argument.h"
#include "output.h"

namespace lora::cli {

EmbeddingArgument parse_embedding_argument(const std::string& text) {
  check_is_no_url(text);
  const auto [file, token] = split_after_file(text);
  check(token != "", ErrorKind::usage, "--embedding {}: the token after the colon is empty. Give one, or no colon.",
        text);
  return {.text = text, .file = file, .token = token.value_or("")};
}

std::vector<LoadReport> load_embeddings(DiffusionPipeline& pipe, const std::vector<EmbeddingArgument>& embeddings) {
  std::vector<LoadReport> reports;
  for (const auto& embedding : embeddings) {
    const LoraPlace place(embedding.file);
    reports.push_back(pipe.load_textual_inversion(
        place.source(),
        {.token = embedding.token, .hub = place.hub_options(embedding.cache_dir), .weight_name = place.weight_name()}));
    const auto& report = reports.back();
    if (embedding.token.empty())
      note(fmt::format("{}: its word for prompts is \"{}\"", embedding.file, report.embeddings.front()));
    note(report);
  }
  return reports;
}

}  // namespace lora::cli
