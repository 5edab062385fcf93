#include "files/convert.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "files/convert_metadata.h"
#include "files/low_rank.h"
#include "files/published_models.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "loaders/metadata.h"

namespace lora {

namespace {

namespace fs = std::filesystem;

bool is_dotted(const std::string& target) { return target == "diffusers" || target == "peft"; }

std::string label(const NamedModule& layer) { return layer.component + "." + layer.path; }

// ---- What a target of plain factors can say -------------------------------------------------------------------------

enum class Way { as_it_is, fold_core, approximate, base_needed, no_factors };

Way way_of(const NamedModule& layer) {
  auto kind = kind_of(layer);
  const auto& m = layer.tensors;
  if (kind == "LoRA" || kind == "LoRA with biases") return Way::as_it_is;
  if (kind == "LoRA with a Tucker core") return Way::fold_core;
  if (kind == "DoRA") {
    auto by_input = m.find("dora_scale");
    return by_input != m.end() && by_input->second.size(0) != by_input->second.numel() ? Way::base_needed
                                                                                       : Way::as_it_is;
  }
  if (depends_on_base(kind)) return Way::base_needed;
  bool is_matrix = kind.starts_with("Lo") || (kind == "full difference" && m.at("diff").dim() > 1);
  return is_matrix ? Way::approximate : Way::no_factors;
}

void refuse(const std::vector<NamedModule>& layers, const ConvertOptions& options, const std::string& source) {
  std::map<std::string, std::vector<std::string>> kinds, based, factorless;
  for (const auto& layer : layers) {
    auto way = way_of(layer);
    if (way == Way::approximate && !options.approximate) kinds[kind_of(layer)].push_back(label(layer));
    if (way == Way::base_needed) based[kind_of(layer)].push_back(label(layer));
    if (way == Way::no_factors) factorless[kind_of(layer)].push_back(label(layer));
  }
  auto listed = [](const auto& by_kind) {
    std::vector<std::string> all;
    for (const auto& [kind, names] : by_kind)
      all.push_back(fmt::format("{} ({} layers: {})", kind, names.size(), listing(names, 3)));
    return join(all, ", ");
  };
  check(
      based.empty(), ErrorKind::unsupported,
      "{}: {} cannot say {}, which change a weight by what it is, so that without the base model nothing can stand in "
      "for them; write kohya or comfy, which can say them, or fuse the file into a model",
      source, options.to, listed(based));
  check(factorless.empty(), ErrorKind::unsupported,
        "{}: {} cannot say {}, and no factors can stand in for what is no matrix; write kohya or comfy, which can say "
        "them",
        source, options.to, listed(factorless));
  check(kinds.empty(), ErrorKind::unsupported,
        "{}: {} cannot say {}; write kohya or comfy, which can, or approximate them by factors: --approximate --rank N",
        source, options.to, listed(kinds));
}

// ---- Layers that become others --------------------------------------------------------------------------------------

// Stands for a tensor that is made later: of its sizes, without its memory.
Tensor placeholder(at::IntArrayRef shape, Dtype dtype) { return at::zeros({1}, dtype).expand(shape); }

Dtype dtype_of(const Module& module) {
  for (const auto& [suffix, tensor] : module)
    if (tensor.is_floating_point() && suffix != "alpha") return tensor.scalar_type();
  return at::kFloat;
}

// One layer as the target will have it. `make` gives its factors where they are not those of the file.
struct Plan {
  NamedModule layer;
  std::function<Factors()> make;
};

// The kernel of the convolution that a layer is for, where the base model or the layer's own tensors tell it.
std::vector<int64_t> kernel_of(const NamedModule& layer, const std::map<std::string, PublishedComponent>& published) {
  if (auto model = published.find(layer.component); model != published.end())
    if (auto known = model->second.layers.find(layer.path); known != model->second.layers.end())
      return {known->second.shape.begin() + std::min<ptrdiff_t>(2, ptrdiff_t(known->second.shape.size())),
              known->second.shape.end()};
  for (const auto& [suffix, tensor] : layer.tensors)
    if (tensor.dim() == 4) return {tensor.size(2), tensor.size(3)};
  return {};
}

class Planner {
 public:
  Planner(const LoraLayers& read, const ConvertOptions& options, Conversion& done)
      : family_(read.file.architecture), options_(options), done_(done) {}

  Plan plan(const NamedModule& layer) {
    switch (way_of(layer)) {
      case Way::fold_core: return folded(layer);
      case Way::approximate: return approximated(layer);
      default: return {layer, nullptr};
    }
  }

  size_t folded_layers() const { return folded_; }

 private:
  const std::string family_;
  const ConvertOptions& options_;
  Conversion& done_;
  std::map<std::string, PublishedComponent> published_;
  size_t folded_ = 0;

  static Plan with_factors(const NamedModule& layer, at::IntArrayRef A, at::IntArrayRef B,
                           std::function<Factors()> make) {
    auto dtype = dtype_of(layer.tensors);
    Plan plan{{layer.component, layer.path, {}}, std::move(make)};
    plan.layer.tensors = {{"lora_A.weight", placeholder(A, dtype)}, {"lora_B.weight", placeholder(B, dtype)}};
    if (auto bias = layer.tensors.find("diff_b"); bias != layer.tensors.end()) plan.layer.tensors.insert(*bias);
    return plan;
  }

  Plan folded(const NamedModule& layer) {
    ++folded_;
    const auto &A = layer.tensors.at("lora_A.weight"), &B = layer.tensors.at("lora_B.weight"),
               &core = layer.tensors.at("lora_mid.weight");
    auto plan = with_factors(layer, {core.size(0), A.size(1), core.size(2), core.size(3)}, {B.size(0), B.size(1), 1, 1},
                             [tensors = layer.tensors, name = label(layer)] { return without_core(tensors, name); });
    for (const char* strength : {"alpha", "scale"})
      if (auto it = layer.tensors.find(strength); it != layer.tensors.end()) plan.layer.tensors.insert(*it);
    return plan;
  }

  Plan approximated(const NamedModule& layer) {
    if (!published_.contains(layer.component))
      for (auto& model : published_components(family_, layer.component)) {
        if (!model.layers.contains(layer.path)) continue;
        published_[layer.component] = std::move(model);
        break;
      }
    ++done_.approximated;
    auto kernel = kernel_of(layer, published_);
    auto rows = rows_of(layer.tensors), columns = columns_of(layer.tensors);
    if (auto cut = layer.tensors.find("lokr_rows"); cut != layer.tensors.end())
      rows = (cut->second[1] - cut->second[0]).item<int64_t>();
    auto rank = std::min({*options_.approximate, rows, columns});
    std::vector<int64_t> A{rank, columns}, B{rows, rank};
    if (kernel.size() == 2) {
      A = {rank, columns / (kernel[0] * kernel[1]), kernel[0], kernel[1]};
      B = {rows, rank, 1, 1};
    }
    return with_factors(layer, A, B, [this, layer, rank, A, B] {
      auto wanted = change_of(layer).dense();
      auto factors = truncated(wanted, rank);
      note_error(label(layer), wanted, factors);
      return Factors{factors.A.reshape(A), factors.B.reshape(B)};
    });
  }

  void note_error(const std::string& layer, const Tensor& wanted, const Factors& got) {
    auto whole = wanted.norm().item<double>();
    auto missing = wanted.addmm(got.B, got.A, 1, -1).norm().item<double>();
    auto error = whole > 0 ? missing / whole : 0;
    done_.mean_error += error / double(done_.approximated);
    if (error <= done_.largest_error) return;
    done_.largest_error = error;
    done_.worst = layer;
  }
};

// ---- Writing --------------------------------------------------------------------------------------------------------

// Remembers the last layer's factors: its two tensors are written one after the other.
class FactorCache {
 public:
  Factors operator()(size_t layer, const std::function<Factors()>& make) {
    if (layer_ != layer) {
      factors_ = {};  // before the next are made
      factors_ = make();
      layer_ = layer;
    }
    return factors_;
  }

 private:
  size_t layer_ = size_t(-1);
  Factors factors_;
};

Tensor converted(const Tensor& tensor, Dtype dtype, const std::string& name) {
  if (tensor.scalar_type() == dtype) return tensor;
  auto cast = tensor.to(dtype);
  check(at::isfinite(cast).all().item<bool>() || !at::isfinite(tensor).all().item<bool>(), ErrorKind::unsupported,
        "{}: has numbers that {} cannot hold; bfloat16 and float32 can", name, to_string(dtype));
  return cast;
}

// Reading a file through its mapping would leave all of it in this process's memory.
class Pages {
 public:
  explicit Pages(const StateDict& tensors) : files_(mapped_files(tensors)) { release(); }
  void about_to_read(size_t bytes) {
    constexpr size_t kEnough = 16 << 20;
    read_ += bytes;
    if (read_ > kEnough) release();
  }

 private:
  std::vector<std::shared_ptr<const MappedFile>> files_;
  size_t read_ = 0;

  void release() {
    for (const auto& file : files_) file->release_pages();
    read_ = 0;
  }
};

// The tensors of each file that is to be written: one, or one a component.
using Pending = std::map<std::string, std::vector<PendingTensor>>;

class Writer {
 public:
  Writer(const LoraLayers& read, const ConvertOptions& options, Conversion& done, const ToolProgress& progress)
      : read_(read), options_(options), done_(done), progress_(progress), pages_(read.file.state_dict) {}

  void add(const Spelled& spelled, const std::function<Factors()>& make, size_t layer) {
    bool strength = spelled.key.ends_with(".alpha");
    auto dtype = options_.dtype && !strength && c10::isFloatingType(spelled.dtype) ? *options_.dtype : spelled.dtype;
    auto one = [this, spelled, make, layer, dtype]() -> Tensor {
      pages_.about_to_read(size_t(c10::multiply_integers(spelled.shape)) * c10::elementSize(spelled.dtype));
      if (progress_) progress_(++written_, total_);
      bool down = spelled.key.ends_with("_A.weight") || spelled.key.ends_with("_embedding_A");
      bool up = spelled.key.ends_with("_B.weight") || spelled.key.ends_with("_embedding_B");
      if (!make || !(down || up)) return converted(spelled.make(), dtype, spelled.key);
      auto factors = cache_(layer, make);
      return converted(down ? factors.A : factors.B, dtype, spelled.key);
    };
    ++total_;
    pending_[options_.to == "peft" ? spelled.component : ""].push_back({spelled.key, dtype, spelled.shape, one});
  }

  void write_file(const fs::path& out, const std::map<std::string, std::string>& metadata) {
    save_safetensors(pending_[""], metadata, out, is_dotted(options_.to) ? "" : "sshs_model_hash");
    done_.files.push_back(out);
  }

  void write_folders(const fs::path& out, const std::map<std::string, std::string>& configs) {
    for (const auto& [component, tensors] : pending_) {
      auto folder = out / component;
      std::error_code error;
      fs::create_directories(folder, error);
      check(!error, ErrorKind::io, "{}: the folder cannot be made: {}", folder.string(), error.message());
      save_safetensors(tensors, {{"format", "pt"}}, folder / "adapter_model.safetensors");
      const auto& config = configs.at(component);
      AtomicFile file(folder / kAdapterConfig);
      file.write(config.data(), config.size());
      file.commit();
      done_.files.push_back(folder / "adapter_model.safetensors");
      done_.files.push_back(folder / kAdapterConfig);
    }
  }

 private:
  const LoraLayers& read_;
  const ConvertOptions& options_;
  Conversion& done_;
  const ToolProgress& progress_;
  Pages pages_;
  FactorCache cache_;
  Pending pending_;
  int written_ = 0, total_ = 0;
};

StateDict as_tensors(const std::vector<NamedModule>& layers) {
  StateDict tensors;
  for (const auto& layer : layers)
    for (const auto& [suffix, tensor] : layer.tensors) tensors.set(label(layer) + "." + suffix, tensor);
  return tensors;
}

void check_options(const LoraLayers& read, const fs::path& out, const ConvertOptions& options) {
  check(!options.approximate || *options.approximate > 0, ErrorKind::usage, "--rank {}: at least 1 was expected",
        options.approximate.value_or(0));
  check(!options.approximate || is_dotted(options.to), ErrorKind::usage,
        "{} says every kind of layer as it is: nothing is to be approximated", options.to);
  check(options.to != "peft" || !fs::exists(out) || fs::is_directory(out), ErrorKind::io,
        "{}: is a file; peft is a folder", out.string());
  std::vector<std::string> halves;
  for (const auto& layer : read.layers)
    if (kind_of(layer) == "half a pair") halves.push_back(label(layer));
  check(halves.empty(), ErrorKind::bad_key, "{}: {} layers have one half of a pair: {}; the file is incomplete",
        read.file.source, halves.size(), listing(halves, 3));
}

void add_notes(const LoraLayers& read, const ConvertOptions& options, Conversion& done) {
  done.notes = read.file.notes;
  std::vector<std::string> left;
  for (const auto& [key, reason] : read.file.unmatched) left.push_back(key);
  if (!left.empty())
    done.notes.push_back(fmt::format("left out: {} keys that are not understood: {}", left.size(), listing(left, 3)));
  std::set<std::string> words;
  for (const auto& embedding : read.file.embeddings) words.insert(embedding.word);
  if (is_dotted(options.to) && !words.empty())
    done.notes.push_back(fmt::format("left out: the embeddings of {}, for which {} has no place in a LoRA file",
                                     listing({words.begin(), words.end()}), options.to));
}

std::vector<Spelled> spell_file(const std::vector<NamedModule>& layers, const LoraStateDict& file,
                                const std::string& target) {
  try {
    return spell(as_tensors(layers), target, file.architecture);
  } catch (const Error& error) {
    fail(error.kind(), "{}: {}", file.source, error.what());
  }
}

// Layer by layer: their strengths go into the metadata.
void convert_dotted(const LoraLayers& read, const fs::path& out, const ConvertOptions& options, Conversion& done,
                    const ToolProgress& progress) {
  refuse(read.layers, options, read.file.source);
  Planner planner(read, options, done);
  Writer writer(read, options, done, progress);
  std::vector<NamedModule> planned;
  for (size_t i = 0; i < read.layers.size(); ++i) {
    auto plan = planner.plan(read.layers[i]);
    for (const auto& spelled : spell_file({plan.layer}, read.file, options.to)) writer.add(spelled, plan.make, i);
    planned.push_back(std::move(plan.layer));
  }
  if (planner.folded_layers() > 0)
    done.notes.push_back(fmt::format(
        "{} convolutions with a Tucker core were written as plain factors: the same change, but for rounding",
        planner.folded_layers()));
  auto fields = adapter_fields_of(planned, read.file);
  if (options.to == "peft") return writer.write_folders(out, fields);
  writer.write_file(out, diffusers_metadata(read.file, planned, fields));
}

// The names of kohya's family mean OFT as OneTrainer trains it.
void check_oft(const LoraStateDict& file, const std::string& target) {
  for (const char* component : {"unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"}) {
    auto config = config_for(component, file.state_dict.metadata, file.source);
    bool other =
        config && config->peft_type == "OFT" &&
        (!config->use_cayley_neumann || config->num_cayley_neumann_terms != LoraConfig().num_cayley_neumann_terms);
    check(!other, ErrorKind::unsupported,
          "{}: its OFT makes rotations of {} in another way than {} can say: use_cayley_neumann with 5 terms",
          file.source, component, target);
  }
}

void convert_native(const LoraLayers& read, const fs::path& out, const ConvertOptions& options, Conversion& done,
                    const ToolProgress& progress) {
  check_oft(read.file, options.to);
  Writer writer(read, options, done, progress);
  for (const auto& spelled : spell_file(read.layers, read.file, options.to)) writer.add(spelled, nullptr, 0);
  for (const auto& [word, component, key, vectors] : read.file.embeddings)
    writer.add({component, key, vectors.scalar_type(), vectors.sizes().vec(), [vectors = vectors] { return vectors; }},
               nullptr, 0);
  writer.write_file(out, kohya_metadata(read));
}

}  // namespace

Conversion convert_lora(const fs::path& source, const fs::path& out, const ConvertOptions& options,
                        const ToolProgress& progress) {
  auto read = read_layers(source);
  check_options(read, out, options);
  Conversion done{.files = {}, .layers = read.layers.size()};
  add_notes(read, options, done);
  (is_dotted(options.to) ? convert_dotted : convert_native)(read, out, options, done, progress);
  return done;
}

std::string Conversion::text() const {
  std::string text;
  for (const auto& file : files) text += file.string() + "\n";
  if (approximated > 0)
    text += fmt::format("{} of {} layers approximated: relative error {:.3g} on average, {:.3g} at most ({})\n",
                        approximated, layers, mean_error, largest_error, worst);
  for (const auto& note : notes) text += fmt::format("note: {}\n", note);
  return text;
}

}  // namespace lora
