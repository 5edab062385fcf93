#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "dialects/canonical.h"
#include "dialects/spell.h"
#include "files/change.h"
#include "files/convert_metadata.h"
#include "files/progress.h"
#include "files/published_models.h"
#include "io/atomic_folder.h"
#include "io/json_file.h"
#include "io/public_call.h"
#include "io/safetensors.h"
#include "kinds/builtin.h"
#include "kinds/lora.h"
#include "loaders/metadata.h"

namespace lora {

namespace {

namespace fs = std::filesystem;

// ---- What a target of plain factors can say -------------------------------------------------------------------------

void refuse(const std::vector<LoraLayer>& layers, const ConvertOptions& options, const std::string& source) {
  std::map<std::string, std::vector<std::string>> kinds, based, factorless;
  for (const auto& layer : layers) {
    auto factors = factors_of(layer.tensors);
    if (factors == Factors::nearly && !options.approximate) kinds[layer.kind].push_back(layer.name());
    if (factors == Factors::with_base_only) based[layer.kind].push_back(layer.name());
    if (factors == Factors::never) factorless[layer.kind].push_back(layer.name());
  }
  auto listed = [](const auto& by_kind) {
    std::vector<std::string> all;
    for (const auto& [kind, names] : by_kind)
      all.push_back(fmt::format("{} ({} layers: {})", kind, names.size(), listing(names, 3)));
    return join(all, ", ");
  };
  check(based.empty(), ErrorKind::unsupported,
        "{}: the format {} cannot store {}. These kinds depend on the base weights, so they cannot be approximated "
        "without the base model; write kohya or comfy, which can store them, or fuse the file into a model",
        source, options.to, listed(based));
  check(factorless.empty(), ErrorKind::unsupported,
        "{}: the format {} cannot store {}. They are not matrices, so factors cannot stand in for them; write kohya or "
        "comfy, which can store them",
        source, options.to, listed(factorless));
  check(kinds.empty(), ErrorKind::unsupported,
        "{}: the format {} cannot store {}; write kohya or comfy, which can, or approximate them by factors: "
        "--approximate --rank N",
        source, options.to, listed(kinds));
}

// ---- Layers that become others --------------------------------------------------------------------------------------

// Stands for a tensor that is made later: of its sizes, without its memory.
Tensor placeholder(at::IntArrayRef shape, Dtype dtype) { return at::zeros({1}, dtype).expand(shape); }

Dtype dtype_of(const LoraLayer& layer) {
  for (const auto& [suffix, tensor] : layer.tensors)
    if (tensor.is_floating_point()) return tensor.scalar_type();
  return at::kFloat;
}

// One layer as the target will have it. `make` gives its factors where they are not those of the file.
struct Plan {
  LoraLayer layer;
  std::function<FactorPair()> make;
};

// The kernel of the convolution that a layer is for, where the base model or the layer's own tensors tell it.
std::vector<int64_t> kernel_of(const LoraLayer& layer, const std::map<std::string, PublishedComponent>& published) {
  if (auto model = published.find(layer.component); model != published.end())
    if (auto known = model->second.layers.find(layer.path); known != model->second.layers.end())
      return {known->second.shape.begin() + std::min<ptrdiff_t>(2, ptrdiff_t(known->second.shape.size())),
              known->second.shape.end()};
  return size_of(layer.tensors).kernel;
}

class Planner {
 public:
  Planner(const LoraFile& file, const ConvertOptions& options, Conversion& done)
      : base_model_(file.base_model), options_(options), done_(done) {}

  Plan plan(const LoraLayer& layer) {
    switch (factors_of(layer.tensors)) {
      case Factors::with_core_folded: return folded(layer);
      case Factors::nearly: return approximated(layer);
      default: return {layer, nullptr};
    }
  }

  size_t folded_layers() const { return folded_; }

 private:
  const BaseModel base_model_;
  const ConvertOptions& options_;
  Conversion& done_;
  std::map<std::string, PublishedComponent> published_;
  size_t folded_ = 0;

  Plan folded(const LoraLayer& layer) {
    ++folded_;
    auto* kind = kind_of(layer.tensors);
    return {kind->folded_sizes(layer), [kind, layer] {
              auto made = kind->folded(layer);
              return FactorPair{get(made.tensors, kDown), get(made.tensors, kUp)};
            }};
  }

  Plan approximated(const LoraLayer& layer) {
    if (!published_.contains(layer.component))
      for (auto& model : published_components(base_model_, layer.component)) {
        if (!model.layers.contains(layer.path)) continue;
        published_[layer.component] = std::move(model);
        break;
      }
    ++done_.approximated;
    auto kernel = kernel_of(layer, published_);
    auto size = size_of(layer.tensors);
    auto rank = std::min({*options_.approximate, size.rows, size.columns});
    std::vector<int64_t> A{rank, size.columns}, B{size.rows, rank};
    if (kernel.size() == 2) {
      A = {rank, size.columns / (kernel[0] * kernel[1]), kernel[0], kernel[1]};
      B = {size.rows, rank, 1, 1};
    }
    auto dtype = dtype_of(layer);
    LoraLayer stand_in{.component = layer.component, .path = layer.path};
    stand_in.tensors = {{std::string(kDown), placeholder(A, dtype)}, {std::string(kUp), placeholder(B, dtype)}};
    for (const auto& [suffix, tensor] : layer.tensors)
      if (family_of(suffix) == &bias_difference()) stand_in.tensors.emplace(suffix, tensor);
    return {stand_in, [this, layer, rank, A, B] {
              auto wanted = dense(change_of(layer));
              auto factors = truncated(wanted, rank);
              note_error(layer.name(), wanted, factors);
              return FactorPair{factors.A.reshape(A), factors.B.reshape(B)};
            }};
  }

  void note_error(const std::string& layer, const Tensor& wanted, const FactorPair& got) {
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
  FactorPair operator()(size_t layer, const std::function<FactorPair()>& make) {
    if (layer_ != layer) {
      factors_ = {};  // before the next are made
      factors_ = make();
      layer_ = layer;
    }
    return factors_;
  }

 private:
  size_t layer_ = size_t(-1);
  FactorPair factors_;
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
  explicit Pages(const LoraFile& file) : files_(mapped_files(tensors_of(file))) { release(); }
  void about_to_read(size_t bytes) {
    constexpr size_t kEnough = 16 << 20;
    read_ += bytes;
    if (read_ > kEnough) release();
  }

 private:
  std::vector<std::shared_ptr<const MappedFile>> files_;
  size_t read_ = 0;

  static StateDict tensors_of(const LoraFile& file) {
    StateDict tensors;
    for (const auto& layer : file.layers) add_tensors(tensors, layer.name(), layer);
    return tensors;
  }

  void release() {
    for (const auto& file : files_) file->release_pages();
    read_ = 0;
  }
};

// The tensors of each file that is to be written: one, or one a component.
using Pending = std::map<std::string, std::vector<PendingTensor>>;

class Writer {
 public:
  Writer(const LoraFile& file, const ConvertOptions& options, Conversion& done, const ToolProgress& progress)
      : options_(options), done_(done), progress_(progress), pages_(file) {}

  void add(const Spelled& spelled, const std::function<FactorPair()>& make, size_t layer) {
    bool strength = spelled.suffix == kAlpha || spelled.suffix == kScale;
    auto dtype = options_.dtype && !strength && c10::isFloatingType(spelled.dtype) ? *options_.dtype : spelled.dtype;
    auto one = [this, spelled, make, layer, dtype]() -> Tensor {
      pages_.about_to_read(size_t(c10::multiply_integers(spelled.shape)) * c10::elementSize(spelled.dtype));
      if (progress_) progress_(++written_, total_);
      bool down = spelled.suffix == kDown, up = spelled.suffix == kUp;
      if (!make || !(down || up)) return converted(spelled.make(), dtype, spelled.key);
      auto factors = cache_(layer, make);
      return converted(down ? factors.A : factors.B, dtype, spelled.key);
    };
    ++total_;
    pending_[options_.to == "peft" ? spelled.component : ""].push_back({spelled.key, dtype, spelled.shape, one});
  }

  void write_file(const fs::path& out, const std::map<std::string, std::string>& metadata) {
    save_safetensors(pending_[""], metadata, out, is_dotted(parse_target(options_.to)) ? "" : "sshs_model_hash");
    done_.files.push_back(out);
  }

  void write_folders(const fs::path& out, const std::map<std::string, std::string>& configs) {
    constexpr const char* kWeights = "adapter_model.safetensors";
    std::vector<std::string> marks{std::string(kAdapterConfig)};
    for (const auto& [component, tensors] : pending_) marks.push_back(component + "/" + marks.front());
    AtomicFolder folder(out, {.marks = marks, .replaces = {}});
    for (const auto& [component, tensors] : pending_) {
      std::error_code error;
      fs::create_directory(folder.path() / component, error);
      check(!error, ErrorKind::io, "{}: cannot be created: {}", (out / component).string(), error.message());
      save_safetensors(tensors, {{"format", "pt"}}, folder.path() / component / kWeights);
      write_text(folder.path() / component / kAdapterConfig, configs.at(component));
      done_.files.push_back(out / component / kWeights);
      done_.files.push_back(out / component / kAdapterConfig);
    }
    folder.commit();
  }

 private:
  const ConvertOptions& options_;
  Conversion& done_;
  const ToolProgress& progress_;
  Pages pages_;
  FactorCache cache_;
  Pending pending_;
  int written_ = 0, total_ = 0;
};

void check_options(const LoraFile& file, const fs::path& out, const ConvertOptions& options) {
  check(!options.approximate || *options.approximate > 0, ErrorKind::usage, "--rank {}: at least 1 was expected",
        options.approximate.value_or(0));
  check(!options.approximate || is_dotted(parse_target(options.to)), ErrorKind::usage,
        "the format {} stores every kind of layer; leave out the approximation", options.to);
  check(options.to != "peft" || !fs::exists(out) || fs::is_directory(out), ErrorKind::io,
        "{}: is a file; for peft, name a folder", out.string());
  std::vector<std::string> halves;
  for (const auto& layer : file.layers)
    if (!missing_of(layer.tensors).empty()) halves.push_back(layer.name());
  check(halves.empty(), ErrorKind::bad_key, "{}: {} layers have one half of a pair: {}; the file is incomplete",
        file.source, halves.size(), listing(halves, 3));
}

void add_notes(const LoraFile& file, const ConvertOptions& options, Conversion& done) {
  done.notes = file.notes;
  std::vector<std::string> left;
  for (const auto& [key, reason] : file.unmatched) left.push_back(key);
  if (!left.empty())
    done.notes.push_back(fmt::format("left out: {} keys that are not understood: {}", left.size(), listing(left, 3)));
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

// Layer by layer: their strengths go into the metadata.
void convert_dotted(const LoraFile& file, const fs::path& out, const ConvertOptions& options, Conversion& done,
                    const ToolProgress& progress) {
  refuse(file.layers, options, file.source);
  Planner planner(file, options, done);
  Writer writer(file, options, done, progress);
  std::vector<LoraLayer> planned;
  for (size_t i = 0; i < file.layers.size(); ++i) {
    auto plan = planner.plan(file.layers[i]);
    for (const auto& spelled : spell_file({plan.layer}, file, options.to)) writer.add(spelled, plan.make, i);
    planned.push_back(as_peft(std::move(plan.layer)));
  }
  if (planner.folded_layers() > 0)
    done.notes.push_back(fmt::format(
        "{} convolutions with a Tucker core were written as plain factors: the same change, but for rounding",
        planner.folded_layers()));
  auto fields = adapter_fields_of(planned, file);
  if (options.to == "peft") return writer.write_folders(out, fields);
  writer.write_file(out, diffusers_metadata(file, planned, fields));
}

void convert_native(const LoraFile& file, const fs::path& out, const ConvertOptions& options, Conversion& done,
                    const ToolProgress& progress) {
  Writer writer(file, options, done, progress);
  for (const auto& spelled : spell_file(file.layers, file, options.to)) writer.add(spelled, nullptr, 0);
  for (const auto& [word, component, key, vectors] : file.embeddings)
    writer.add(
        {component, key, "", vectors.scalar_type(), vectors.sizes().vec(), [vectors = vectors] { return vectors; }},
        nullptr, 0);
  writer.write_file(out, kohya_metadata(file));
}

Conversion convert(const LoraFile& file, const fs::path& out, const ConvertOptions& options,
                   const ToolProgress& progress) {
  check_options(file, out, options);
  Conversion done{.files = {}, .layers = file.layers.size()};
  add_notes(file, options, done);
  bool dotted = is_dotted(parse_target(options.to));
  (dotted ? convert_dotted : convert_native)(file, out, options, done, progress);
  return done;
}

}  // namespace

Conversion convert_lora(const LoraSource& source, const fs::path& out, const ConvertOptions& options) {
  return public_call(
      [&] { return convert(read_lora(source, options.read), out, options, as_callers(options.progress)); });
}

}  // namespace lora
