#include "models/model_loader.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cctype>

#include "checkpoints/component_files.h"
#include "checkpoints/float8.h"
#include "core/check.h"
#include "core/edge.h"
#include "core/text.h"
#include "nn/parallel.h"

namespace lora {

namespace {

// ---- Dtype ----------------------------------------------------------------------------------------------------------

bool cpu_has_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");  // CPUs with AMX have it too
#else
  return false;
#endif
}

Dtype half_type_of(const StateDict& tensors) {
  int64_t bfloat16 = 0, float16 = 0;
  for (const auto& [name, t] : tensors) {
    bfloat16 += t.scalar_type() == at::kBFloat16 || is_float8(t.scalar_type());  // its scales may be of any size
    float16 += t.scalar_type() == at::kHalf;
  }
  return bfloat16 > float16 ? at::kBFloat16 : at::kHalf;
}

Dtype choose_dtype(const ModelOptions& options, const StateDict& tensors) {
  if (options.dtype) {
    const auto dtype = *options.dtype;
    bool can_run = dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble;
    check(can_run, ErrorKind::usage, "dtype is {}; it must be float32, float16, bfloat16 or float64", to_string(dtype));
    return dtype;
  }
  if (!options.device.is_cpu()) return half_type_of(tensors);
  return cpu_has_bfloat16() ? at::kBFloat16 : at::kFloat;
}

// ---- Random weights -------------------------------------------------------------------------------------------------

uint64_t mix(uint64_t hash, std::string_view text) {  // FNV-1a
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return hash;
}

// Each piece of the tensor has its own generator. So the numbers do not depend on the number of threads.
Tensor draw(uint64_t seed, const std::string& name, at::IntArrayRef shape) {
  constexpr int64_t kPiece = 1 << 18;
  const c10::InferenceMode off(false);  // the other threads are not in inference mode and must be able to write
  auto t = at::empty(shape, at::kFloat);
  auto flat = t.view(-1);
  auto hash = mix(seed ^ 0xcbf29ce484222325, name);
  parallel_ranges((flat.numel() + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      auto generator = at::make_generator<at::CPUGeneratorImpl>(mix(hash, std::to_string(i)));
      flat.slice(0, i * kPiece, std::min((i + 1) * kPiece, flat.numel())).normal_(0, 0.02, generator);
    }
  });
  bool scales_a_norm = shape.size() == 1 && name.ends_with("weight");
  return scales_a_norm ? t.add_(1) : t;
}

}  // namespace

namespace {

// What a tensor belongs to: the block up to its first number, with "#" in place of the number, or else the layer.
// "blocks.#" for "blocks.3.norm.weight"; "conv_in" for "conv_in.weight"; "" outside layers.
std::string block_or_layer(const std::string& name) {
  auto parts = split(name, '.');
  parts.pop_back();
  auto number = std::ranges::find_if(parts, [](const std::string& part) {
    return std::ranges::all_of(part, [](unsigned char c) { return std::isdigit(c); });
  });
  if (number != parts.end()) {
    *number = "#";
    parts.erase(number + 1, parts.end());
  }
  return join(parts, ".");
}

}  // namespace

ModelLoader::ModelLoader(const StateDict& tensors, std::string label, const ModelOptions& options, Aliases aliases)
    : tensors_(&tensors) {
  source_->label = std::move(label);
  source_->dtype = choose_dtype(options, tensors);
  source_->device = options.device;
  check_scales(tensors, source_->label);
  source_->get = [from = &tensors, taken = taken_, aliases = std::move(aliases), problems = &source_->problems](
                     const std::string& name, at::IntArrayRef) -> Tensor {
    auto called = name;
    auto* found = from->find(called);
    if (!found && aliases)
      for (const auto& alias : aliases(name))
        if ((found = from->find(called = alias))) break;
    if (!found) return {};
    taken->insert(found);
    const auto* scale = scale_beside(*from, called);
    if (!scale || !found->is_floating_point()) return *found;
    try {
      return scaled(*found, *scale);
    } catch (const std::exception& e) {  // usually missing memory; see TensorSource::problems
      problems->emplace_back(is_out_of_memory(e) ? ErrorKind::out_of_memory : ErrorKind::io,
                             fmt::format("tensor \"{}\" cannot be scaled: {}", called, message_of(e)));
      return *found;
    }
  };
  if (auto note = note_of_float8(tensors, source_->dtype, source_->label); !note.empty())
    notes_.push_back(std::move(note));
}

ModelLoader ModelLoader::random(uint64_t seed, const ModelOptions& options) {
  ModelLoader loader;
  loader.source_->label = "random weights";
  loader.source_->dtype = options.dtype.value_or(at::kFloat);
  loader.source_->device = options.device;
  loader.source_->get = [seed, device = options.device](const std::string& name, at::IntArrayRef shape) {
    // On the device meta, a model has only the names and shapes of its layers.
    return device.is_meta() ? at::empty(shape, at::TensorOptions(at::kFloat).device(device)) : draw(seed, name, shape);
  };
  return loader;
}

std::shared_ptr<Parts> ModelLoader::finish(const std::set<std::string>& ignorable) {
  // The layers keep their scopes. The scopes must not keep the StateDict.
  source_->get = [](const std::string&, at::IntArrayRef) { return Tensor(); };
  if (!source_->problems.empty()) {
    std::vector<std::string> all;
    for (const auto& problem : source_->problems) all.push_back(problem.what());
    auto kind = source_->problems.front().kind();
    fail(kind, "{}: {}{}", source_->label, listing(all, 3),
         kind == ErrorKind::io || kind == ErrorKind::out_of_memory || kind == ErrorKind::unsupported
             ? ""
             : "; the config describes another model than this file");
  }
  if (!tensors_) return parts_;

  std::set<std::string> known;
  std::vector<std::string> left, of_model;
  for (const auto& [name, t] : *tensors_)
    if (taken_->contains(&t)) known.insert(block_or_layer(name));
  known.erase("");
  for (const auto& [name, t] : *tensors_) {
    if (taken_->contains(&t) || ignorable.contains(name)) continue;
    if (!weight_of_scale(name).empty() || is_float8_mark(name)) continue;
    (known.contains(block_or_layer(name)) ? of_model : left).push_back(name);
  }
  check(of_model.empty(), ErrorKind::bad_key,
        "{}: the model does not have layers for {}; the config describes another model than this file", source_->label,
        listing(of_model));
  if (!left.empty()) notes_.push_back(note_of_left_out(source_->label, left));
  return parts_;
}

}  // namespace lora
