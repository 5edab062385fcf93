#include "files/layers.h"

#include <ATen/ATen.h>

#include <cmath>

#include "adapters/adapter.h"
#include "core/check.h"
#include "loaders/lora_file.h"
#include "loaders/metadata.h"

namespace lora {

namespace {

// As the layer's own tensors tell it; 0 for kinds without one.
int64_t rank_of(const Module& m) {
  for (const char* suffix : {"lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"})
    if (auto it = m.find(suffix); it != m.end() && it->second.dim() > 0) return it->second.size(0);
  return 0;
}

void add_strength(const LoraConfig& config, const std::string& path, Module& tensors) {
  if (config.peft_type == "OFT" || config.peft_type == "IA3") return;  // these have none
  auto rank = double(rank_of(tensors)), alpha = config.alpha(path);
  // PEFT divides LoKr's by the rank that was asked for, even where no factor has one.
  auto divisor = config.peft_type == "LOKR" ? config.rank(path) : rank;
  if (config.use_rslora)
    tensors["alpha"] = at::scalar_tensor(alpha * std::sqrt(rank));
  else if (rank > 0)
    tensors["alpha"] = at::scalar_tensor(divisor == rank ? alpha : alpha / divisor * rank);
  else if (alpha != divisor)
    tensors["scale"] = at::scalar_tensor(alpha / divisor);
}

// Every strength as an alpha, so that it goes wherever the tensors go.
void add_alphas(std::vector<NamedModule>& layers, const LoraStateDict& file) {
  std::map<std::string, std::optional<LoraConfig>> configs;
  for (const auto& layer : layers)
    if (!configs.contains(layer.component))
      configs[layer.component] = config_for(layer.component, file.state_dict.metadata, file.source);
  for (const auto& [key, alpha] : file.network_alphas) configs[key.substr(0, key.find('.'))].reset();  // those count

  for (auto& [component, path, tensors] : layers) {
    auto given = file.network_alphas.find(component + "." + path + ".alpha");
    if (given != file.network_alphas.end())
      tensors["alpha"] = at::scalar_tensor(given->second);
    else if (const auto& config = configs[component])
      add_strength(*config, path, tensors);
  }
}

double number(const Module& m, const char* suffix, double otherwise) {
  auto it = m.find(suffix);
  return it == m.end() ? otherwise : it->second.to(at::kDouble).item<double>();
}

Tensor matrix(const Tensor& t) { return (t.dim() > 1 ? t.flatten(1) : t).to(at::kFloat); }

// A site of the layer's sizes whose weight takes no memory.
std::vector<int64_t> site_shape(const Module& m) {
  auto kernel = [&](const char* core, int64_t out, int64_t in) {
    const auto& t = m.at(core);
    return std::vector<int64_t>{out, in, t.size(2), t.size(3)};
  };
  if (m.contains("lora_mid.weight"))
    return kernel("lora_mid.weight", m.at("lora_B.weight").size(0), m.at("lora_A.weight").size(1));
  if (m.contains("hada_t1")) return kernel("hada_t1", m.at("hada_w1_a").size(1), m.at("hada_w1_b").size(1));
  auto rows = m.contains("lokr_rows") ? m.at("lokr_rows")[1].item<int64_t>() - m.at("lokr_rows")[0].item<int64_t>()
                                      : rows_of(m);
  if (m.contains("lokr_t2")) {
    auto left = m.contains("lokr_w1") ? m.at("lokr_w1").size(1) : m.at("lokr_w1_b").size(1);
    return kernel("lokr_t2", rows, left * m.at("lokr_w2_b").size(1));
  }
  return {rows, columns_of(m)};
}

// What the kinds of other algorithms come to, by the code that applies them.
void add_effect(const NamedModule& layer, LayerChange& change) {
  Parts parts;
  auto& site = *parts.sites.emplace_back(std::make_unique<Site>());
  site.path = layer.path;
  auto shape = site_shape(layer.tensors);
  site.kind = shape.size() == 4 ? SiteKind::conv2d : SiteKind::linear;
  site.weight = at::zeros({1}).expand(shape);
  site.owner = &parts;
  parts.by_path[site.path] = &site;

  StateDict tensors;
  PrepareOptions options{.component = layer.component};
  for (const auto& [suffix, tensor] : layer.tensors)
    if (suffix == "alpha")
      options.alphas[layer.path] = change.alpha;
    else if (suffix != "dora_scale" && suffix != "lora_magnitude_vector" && suffix != "diff_b")
      tensors.set(layer.path + "." + suffix, tensor);
  auto prepared = prepare(parts, tensors, options);
  check(!prepared.adapter.entries.empty(), ErrorKind::unsupported, "{}.{}: nothing here can say what it does",
        layer.component, layer.path);
  auto effect = prepared.adapter.entries.front().delta->effect(1, site.weight);
  if (effect.A.defined()) {
    change.A = matrix(effect.A);
    change.B = matrix(effect.B);
    change.scale = effect.scale;
  }
  if (effect.weight.defined()) change.weight = matrix(effect.weight);
}

double sum_of_products(const Tensor& a, const Tensor& b) { return (a * b).sum(at::kDouble).item<double>(); }

}  // namespace

LoraLayers read_layers(const std::filesystem::path& source) {
  LoraLayers read{read_lora_state_dict(source, {}, /*denoiser=*/""), {}};  // whatever base model it is for
  read.layers = modules_of(read.file.state_dict);
  add_alphas(read.layers, read.file);
  return read;
}

std::string kind_of(const NamedModule& layer) {
  const auto& m = layer.tensors;
  auto has = [&](const char* suffix) { return m.contains(suffix); };
  std::string dora = has("dora_scale") || has("lora_magnitude_vector") ? " with DoRA" : "";
  if (has("diff")) return "full difference";
  if (has("oft_blocks")) return m.at("oft_blocks").dim() == 4 ? "BOFT" : "OFT";
  if (has("oft_R.weight")) return "OFT";
  if (has("a1.weight")) return "GLoRA";
  if (has("hada_w1_a")) return "LoHa" + dora;
  if (has("lokr_w1") || has("lokr_w1_a")) return "LoKr" + dora;
  if (has("on_input") || has("ia3_l")) return "IA3";
  if (has("lora_A.weight") != has("lora_B.weight")) return "half a pair";
  if (has("lora_mid.weight")) return "LoRA with a Tucker core" + dora;
  if (has("lora_A.weight")) return !dora.empty() ? "DoRA" : has("lora_B.bias") ? "LoRA with biases" : "LoRA";
  return has("diff_b") ? "bias" : "nothing";
}

bool depends_on_base(const std::string& kind) {
  return kind.ends_with("DoRA") || kind == "OFT" || kind == "BOFT" || kind == "GLoRA" || kind == "IA3";
}

LayerChange change_of(const NamedModule& layer) {
  const auto& m = layer.tensors;
  auto kind = kind_of(layer);
  LayerChange change{.rank = rank_of(m)};
  change.alpha = number(m, "alpha", double(change.rank));
  if (kind == "full difference" || kind == "bias") {
    change.weight = matrix(m.at(kind == "bias" ? "diff_b" : "diff"));
  } else if (m.contains("lora_A.weight") && m.contains("lora_B.weight") && !m.contains("lora_mid.weight")) {
    change.A = matrix(m.at("lora_A.weight"));
    change.B = matrix(m.at("lora_B.weight"));
    change.scale = number(m, "scale", change.alpha / double(std::max<int64_t>(change.rank, 1)));
    check(change.A.dim() == 2 && change.B.dim() == 2 && change.B.size(1) == change.rank, ErrorKind::bad_shape,
          "{}.{}: factors {} and {} do not go together", layer.component, layer.path,
          c10::str(m.at("lora_A.weight").sizes()), c10::str(m.at("lora_B.weight").sizes()));
  } else if (kind.starts_with("Lo") || kind == "DoRA") {
    add_effect(layer, change);
  }
  return change;
}

Tensor LayerChange::dense() const {
  if (!A.defined()) return weight;
  // What the effect makes of a weight of zeros.
  auto zeros = at::zeros({1}).expand({B.size(0), A.size(1)});
  return with_effect({.A = A, .B = B, .scale = scale, .weight = weight}, SiteKind::linear, zeros);
}

// Without making the products of factors: ⟨B A, D C⟩ is the sum over BᵀD ∘ A Cᵀ, and ⟨B A, W⟩ that over W Aᵀ ∘ B.
double LayerChange::dot(const LayerChange& other) const {
  double sum = 0;
  if (A.defined() && other.A.defined())
    sum += scale * other.scale * sum_of_products(at::mm(B.t(), other.B), at::mm(A, other.A.t()));
  if (A.defined() && other.weight.defined()) sum += scale * sum_of_products(at::mm(other.weight, A.t()), B);
  if (weight.defined() && other.A.defined()) sum += other.scale * sum_of_products(at::mm(weight, other.A.t()), other.B);
  if (weight.defined() && other.weight.defined()) sum += sum_of_products(weight, other.weight);
  return sum;
}

double LayerChange::norm() const {
  auto square = dot(*this);
  return std::isnan(square) ? square : std::sqrt(std::max(0.0, square));
}

}  // namespace lora
