// TextualInversionLoaderMixin: words without layers, in the registry beside the adapters.
#include "lora/textual_inversion.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "adapters/finite.h"
#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "dialects/textual_inversion.h"
#include "io/public_call.h"
#include "loaders/bundled_words.h"
#include "loaders/locate_lora.h"
#include "loaders/registry_of.h"

namespace lora {

namespace {

struct ReadInversion {
  TextualInversion inversion;
  std::string label;   // of the source, for messages
  std::string called;  // the word, where the caller gives none
  std::vector<std::string> notes;
};

TextualInversion read_form(const StateDict& tensors, const std::string& label) {
  if (auto read = read_textual_inversion(tensors)) return std::move(*read);
  std::vector<std::string> keys;
  for (const auto& [key, tensor] : tensors) keys.push_back(key);
  fail(
      ErrorKind::bad_key,
      "{}: not a textual inversion. Such a file has the vectors of one word, as string_to_param, emb_params or clip_l, "
      "or as its only key. This file has: {}",
      label, keys.empty() ? "nothing" : listing(keys, 4));
}

ReadInversion read_source(const LoraSource& source, const LoadTextualInversionOptions& options) {
  if (const auto* tensors = source.state_dict()) {
    auto inversion = read_form(*tensors, source.label());
    auto called = inversion.token.empty() ? inversion.name : inversion.token;
    return {std::move(inversion), source.label(), std::move(called), {}};
  }
  check(source.path(), ErrorKind::usage, "{}: is a LoRA, which load_lora_weights takes", source.label());
  const auto found = locate_lora(source,
                                 {.hub = options.hub,
                                  .subfolder = options.subfolder,
                                  .weight_name = options.weight_name,
                                  .use_safetensors = options.use_safetensors},
                                 kTextualInversionFiles);
  auto inversion = read_form(load_state_dict(found.path), found.label);
  auto called = inversion.token.empty() ? found.path.stem().string() : inversion.token;
  return {std::move(inversion), found.label, std::move(called), found.notes};
}

bool reads_text(const AdapterRegistry::Component& component) { return component.parts->vocabulary != nullptr; }

// The words of a file by component, in parts without layers. Lists in the report what no text encoder takes.
AdapterParts stage_words(const ReadInversion& read, const std::string& token, const std::string& text_encoder,
                         const AdapterRegistry& registry, LoadReport& report) {
  const auto& components = registry.components();
  AdapterParts parts(components.size());
  auto has = [&](const std::string& name) {
    return std::any_of(components.begin(), components.end(), [&](auto& c) { return c.name == name; });
  };
  for (auto embedding : read.inversion.embeddings) {
    if (!text_encoder.empty()) embedding.component = text_encoder;
    const auto& name = embedding.component;
    if (!has(name) && text_encoder.empty()) {
      check(read.inversion.names_encoders, ErrorKind::bad_shape,
            "{}: does not say for which text encoder it is, and this model has no {}; nothing was loaded", read.label,
            name);
      check(name != "text_encoder_2", ErrorKind::bad_shape,
            "{}: is for a model with two CLIP text encoders, such as SDXL (it has {}). This model has one; nothing was "
            "loaded",
            read.label, embedding.key);
      report.unmatched.push_back({embedding.key, fmt::format("the pipeline has no {}", name)});
      continue;
    }
    const auto c = registry.index_of(name);
    check(reads_text(components[c]), ErrorKind::usage, "text_encoder is \"{}\", which reads no text", name);
    auto rows = rows_for(embedding, components[c], read.label);
    check(all_finite(rows), ErrorKind::bad_file, "{}: {} contains NaN or infinity; nothing was loaded", read.label,
          embedding.key);
    check(!parts[c], ErrorKind::bad_key, "{}: has vectors for {} twice; nothing was loaded", read.label, name);
    auto part = std::make_shared<Adapter>();
    part->words.emplace(token, std::move(rows));
    parts[c] = std::move(part);
  }
  check(std::any_of(parts.begin(), parts.end(), [](auto& part) { return part != nullptr; }), ErrorKind::bad_shape,
        "{}: no text encoder of this model takes its vectors; nothing was loaded", read.label);
  return parts;
}

void note_other_encoders(const AdapterParts& parts, const std::string& token, const AdapterRegistry& registry,
                         LoadReport& report) {
  for (size_t c = 0; c < parts.size(); ++c)
    if (const auto& component = registry.components()[c]; !parts[c] && reads_text(component))
      report.notes.push_back(
          fmt::format("{} gets no vectors from the file, and reads \"{}\" as text", component.name, token));
}

void check_is_not_loaded(const AdapterState& state, const std::string& token, const std::string& source) {
  for (const auto& loaded : state.textual_inversions)
    check(loaded->name != token, ErrorKind::conflict,
          "{}: the word \"{}\" is loaded already. Unload it with unload_textual_inversion first, or give another token",
          source, token);
}

}  // namespace

LoadReport TextualInversionLoaderMixin::load_textual_inversion(const LoraSource& source,
                                                               const LoadTextualInversionOptions& options) {
  return public_call([&] {
    auto& registry = registry_of(*this);
    const auto read = read_source(source, options);
    const auto token = options.token.empty() ? read.called : options.token;
    check(!token.empty(), ErrorKind::usage, "{}: nothing names the word. Give a token", read.label);
    LoadReport report{.source = read.label,
                      .dialect = read.inversion.form,
                      .embeddings = {token},
                      .unmatched = read.inversion.unmatched,
                      .notes = read.notes};
    check(options.text_encoder.empty() || !read.inversion.names_encoders, ErrorKind::usage,
          "{}: names its text encoders. Leave text_encoder out", read.label);
    const auto parts = stage_words(read, token, options.text_encoder, registry, report);
    note_other_encoders(parts, token, registry, report);
    registry.change([&](AdapterState& state) {
      check_is_not_loaded(state, token, read.label);
      check_new_words(parts, state, "", read.label, /*are_no_tokens=*/true);
      state.add_textual_inversion(token, parts);
    });
    return report;
  });
}

void TextualInversionLoaderMixin::unload_textual_inversion(const OneOrMany<std::string>& tokens) {
  public_call([&] {
    registry_of(*this).change([&](AdapterState& state) {
      std::vector<std::string> loaded;
      for (const auto& each : state.textual_inversions) loaded.push_back(each->name);
      for (const auto& token : tokens)
        check(std::find(loaded.begin(), loaded.end(), token) != loaded.end(), ErrorKind::not_found,
              "the word \"{}\" was not loaded by load_textual_inversion; {}", token,
              loaded.empty() ? "no word was" : "these were: " + listing(loaded));
      state.remove_textual_inversions(tokens.empty() ? loaded : tokens.values());
    });
  });
}

}  // namespace lora
