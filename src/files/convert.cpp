// The same LoRA for another program.
#include <algorithm>
#include <set>

#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "files/convert_metadata.h"
#include "files/convert_write.h"
#include "files/progress.h"
#include "io/atomic_file.h"
#include "io/atomic_folder.h"
#include "io/public_call.h"
#include "kinds/kinds.h"
#include "loaders/locate_lora.h"
#include "loaders/metadata.h"
#include "loaders/read_lora.h"

namespace lora {

namespace {

namespace fs = std::filesystem;

// ---- Before the work ------------------------------------------------------------------------------------------------

std::string lower_extension(const fs::path& path) {
  auto extension = path.extension().string();
  for (auto& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return extension;
}

bool is_safetensors_name(const std::string& extension) { return extension == ".safetensors" || extension == ".sft"; }

// Whether programs take a file of this name for a pickle, or for no LoRA at all.
bool is_of_another_container(const std::string& extension) {
  static const std::set<std::string> kOthers = {".bin", ".ckpt", ".gguf", ".json",   ".msgpack", ".onnx",
                                                ".pkl", ".pt",   ".pth",  ".pickle", ".png",     ".zip"};
  return kOthers.contains(extension);
}

// The options, and whether the output can be written: a bad one is told before the work.
void check_options(const fs::path& out, const ConvertOptions& options) {
  auto target = parse_target(options.to);
  check(!options.approximate || *options.approximate > 0, ErrorKind::usage, "--rank {}: at least 1 was expected",
        options.approximate.value_or(0));
  check(!options.approximate || is_dotted(target), ErrorKind::usage,
        "the format {} stores every kind of layer; leave out the approximation", options.to);
  check(!out.empty(), ErrorKind::usage, "the name of the output is empty");
  auto extension = lower_extension(out);
  if (target == Target::peft) {
    check(!fs::exists(out) || fs::is_directory(out), ErrorKind::io, "{}: is a file; for peft, name a folder",
          out.string());
    check(!is_safetensors_name(extension) && !is_of_another_container(extension), ErrorKind::usage,
          "{}: the format peft is a folder, with a folder for each component; name a folder", out.string());
    AtomicFolder(out, peft_folder_rules());
    return;
  }
  check(!is_of_another_container(extension), ErrorKind::usage,
        "{}: the output is a safetensors file, so its name must not end with {}; name a file that ends with "
        ".safetensors",
        out.string(), extension);
  AtomicFile{out};
}

void check_layers(const LoraFile& file) {
  check(!file.layers.empty(), ErrorKind::bad_key, "{}: there is no layer of a LoRA in it that is understood{}",
        file.source, file.unmatched.empty() ? "" : "; the first key: " + file.unmatched.front().key);
  std::vector<std::string> halves;
  for (const auto& layer : file.layers)
    if (!missing_of(layer.tensors).empty()) halves.push_back(layer.name());
  check(halves.empty(), ErrorKind::bad_key, "{}: {} with one half of a pair: {}; the file is incomplete", file.source,
        counted(halves.size(), "layer"), listing(halves, 3));
}

// An adapter for another component in PEFT's folder would be read together with this one.
void check_other_components(const LoraFile& file, const fs::path& out) {
  for (const auto& component : peft_components()) {
    bool own = std::any_of(file.layers.begin(), file.layers.end(), [&](auto& l) { return l.component == component; });
    check(own || !fs::exists(out / component / kAdapterConfig), ErrorKind::conflict,
          "{}: it has an adapter for {}, which {} does not have, and both would be read as one. Write to a new folder, "
          "or remove the old adapter first",
          out.string(), component, file.source);
  }
}

// ---- The work -------------------------------------------------------------------------------------------------------

void add_notes(const LoraFile& file, const ConvertOptions& options, Conversion& done) {
  done.notes = file.notes;
  std::vector<std::string> left;
  for (const auto& [key, reason] : file.unmatched) left.push_back(key);
  if (!left.empty())
    done.notes.push_back(fmt::format("left out: {} that {} not understood: {}", counted(left.size(), "key"),
                                     left.size() == 1 ? "is" : "are", listing(left, 3)));
  std::set<std::string> words;
  for (const auto& embedding : file.embeddings) words.insert(embedding.word);
  if (is_dotted(parse_target(options.to)) && !words.empty())
    done.notes.push_back(fmt::format("left out: the embeddings of {}, which a LoRA file of {} cannot hold",
                                     listing({words.begin(), words.end()}), options.to));
}

std::vector<Spelled> spell_file(const std::vector<LoraLayer>& layers, const LoraFile& file, const std::string& target) {
  try {
    return spell(layers, parse_target(target), file.base_model);
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", file.source, error.what());
  }
}

void take(const Writer& writer, Conversion& done) {
  done.files = writer.files();
  done.notes.insert(done.notes.end(), writer.notes().begin(), writer.notes().end());
}

// How well the approximated layers were met, and a word where nothing had to be done.
void take(const Planner& planner, const ConvertOptions& options, Conversion& done) {
  done.approximated = planner.errors().size();
  for (const auto& [layer, error] : planner.errors()) {
    done.mean_error += error / double(done.approximated);
    if (error > done.largest_error) done.largest_error = error, done.worst = layer;
  }
  if (options.approximate && done.approximated == 0)
    done.notes.push_back(fmt::format("no layer had to be approximated: the format {} stores all of them", options.to));
  if (planner.folded() > 0)
    done.notes.push_back(fmt::format("{} with a Tucker core became plain factors: the same change, but for rounding",
                                     counted(planner.folded(), "convolution")));
}

// The strengths go into the metadata.
void convert_dotted(const LoraFile& file, const fs::path& out, const ConvertOptions& options, Conversion& done,
                    const ToolProgress& progress) {
  Planner planner(file, options);
  Writer writer(file, options, progress, &planner);
  std::vector<LoraLayer> layers;
  Writer::Makers makers;
  for (const auto& layer : file.layers) {
    auto plan = planner.plan(layer);
    layers.push_back(std::move(plan.layer));
    makers.push_back(std::move(plan.make));
  }
  writer.add(spell_file(layers, file, options.to), std::move(makers));
  for (auto& layer : layers) layer = as_peft(std::move(layer));
  auto fields = adapter_fields_of(layers, file);
  if (options.to == "peft")
    writer.write_folders(out, fields);
  else
    writer.write_file(out, diffusers_metadata(kept_metadata(file, done.notes), file, layers, fields));
  take(planner, options, done);
  take(writer, done);
}

void convert_native(const LoraFile& file, const fs::path& out, const ConvertOptions& options, Conversion& done,
                    const ToolProgress& progress) {
  Writer writer(file, options, progress, nullptr);
  auto spelled = spell_file(file.layers, file, options.to);
  size_t number = spelled.empty() ? 0 : spelled.back().number + 1;
  for (const auto& [word, component, key, vectors] : file.embeddings) {
    LoraLayer layer{.component = component, .path = fmt::format("the word \"{}\"", word)};
    layer.tensors = {{"", vectors}};
    spelled.push_back({component, key, "", vectors.scalar_type(), vectors.sizes().vec(),
                       [vectors = vectors] { return vectors; }, [layer] { return layer; }, number++});
  }
  writer.add(spelled);
  writer.write_file(out, kohya_metadata(kept_metadata(file, done.notes), file));
  take(writer, done);
}

Conversion convert(const LoraFile& file, const fs::path& out, const ConvertOptions& options,
                   const ToolProgress& progress) {
  check_layers(file);
  if (options.to == "peft") check_other_components(file, out);
  Conversion done{.files = {}, .layers = file.layers.size()};
  add_notes(file, options, done);
  bool dotted = is_dotted(parse_target(options.to));
  (dotted ? convert_dotted : convert_native)(file, out, options, done, progress);
  if (options.to != "peft" && !is_safetensors_name(lower_extension(out)))
    done.notes.push_back("the name of the output does not end with .safetensors; some programs do not list such files");
  return done;
}

}  // namespace

Conversion convert_lora(const LoraSource& source, const fs::path& out, const ConvertOptions& options) {
  return public_call([&] {
    check_options(out, options);
    auto file = read_lora(source, options.read);
    drop_not_finite(file);
    return named(file.source, [&] { return convert(file, out, options, as_callers(options.progress)); });
  });
}

}  // namespace lora
