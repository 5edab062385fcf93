#pragma once
// Embeddings of textual inversion on the command line.
#include <string>
#include <vector>

#include "lora/pipeline.h"

namespace lora::cli {

// One embedding: "toy.pt", or "toy.pt:TOKEN" with the word that prompts have for it.
struct EmbeddingArgument {
  std::string text;         // as given
  std::string file, token;  // `token` is empty where none is given
  std::string cache_dir;    // of downloads; empty: the usual one
};

// Throws Error{usage} for a web address, and for a token that is empty.
EmbeddingArgument parse_embedding_argument(const std::string& text);

// Loads embeddings into a pipeline. Notes the word of each one without a token, and what the load leaves out.
std::vector<LoadReport> load_embeddings(DiffusionPipeline& pipe, const std::vector<EmbeddingArgument>& embeddings);

}  // namespace lora::cli
