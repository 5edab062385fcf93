#include "adapters/make_delta.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/check.h"
#include "core/edge.h"
#include "kinds/bias.h"
#include "kinds/diff.h"
#include "kinds/dora.h"
#include "kinds/glora.h"
#include "kinds/ia3.h"
#include "kinds/loha.h"
#include "kinds/lokr.h"
#include "kinds/lora.h"
#include "kinds/oft.h"

namespace lora {

namespace {

// The longer ones before those that they end with.
constexpr std::string_view kSuffixes[] = {
    "lora_A.weight",
    "lora_B.weight",
    "lora_mid.weight",
    "lora_B.bias",
    "lora_magnitude_vector",
    "dora_scale",
    "scale",
    "diff",
    "diff_b",
    "hada_w1_a",
    "hada_w1_b",
    "hada_w2_a",
    "hada_w2_b",
    "hada_t1",
    "hada_t2",
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "lokr_t2",
    "lokr_rows",
    "a1.weight",
    "a2.weight",
    "b1.weight",
    "b2.weight",
    "on_input",
    "ia3_l",
    "oft_blocks",
    "rescale",
    "oft_R.weight",
    "oft_R.scaled_oft",
    "weight",
};

// One of the tensors of each kind, by which it is told.
constexpr const char* kMarks[] = {"lora_A.weight", "hada_w1_a", "lokr_w1",    "lokr_w1_a",    "a1.weight",
                                  "on_input",      "ia3_l",     "oft_blocks", "oft_R.weight", "diff"};

// The tensors that make an algorithm: any of the first column means it, and then all of them must be there.
struct Kind {
  const char* name;
  std::vector<std::string> tensors;
};
const Kind kKinds[] = {
    {"LoRA", {"lora_A.weight", "lora_B.weight"}},
    {"LoHa", {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}},
    {"LoKr's first factor", {"lokr_w1_a", "lokr_w1_b"}},
    {"LoKr's second factor", {"lokr_w2_a", "lokr_w2_b"}},
    {"GLoRA", {"a1.weight", "a2.weight", "b1.weight", "b2.weight"}},
};

bool is_lokr(const Group& g) {
  return g.has("lokr_w1") || g.has("lokr_w1_a") || g.has("lokr_w2") || g.has("lokr_w2_a");
}

// How strongly a layer of that rank acts; 0 for none.
Strength strength_of(const Group& g, int64_t rank, const PrepareOptions& options) {
  auto r = double(rank);
  if (auto scale = g.get("scale"); scale.defined()) {
    auto k = scale.to(at::kDouble).item<double>();
    return {k * r, k};
  }
  if (const auto& config = options.config) {
    auto alpha = config->alpha(g.path);
    if (rank == 0) r = config->rank(g.path);
    return {alpha, r == 0 ? 1.0 : alpha / (config->use_rslora ? std::sqrt(r) : r)};
  }
  auto given = options.alphas.find(g.path);
  if (given == options.alphas.end()) return {r, 1.0};
  return {given->second, rank == 0 ? 1.0 : given->second / r};
}

// A convolution in groups has no factors that walk over its input as it does: its change is made whole.
std::shared_ptr<const Delta> grouped_lora(const Group& g, const Site& site, Strength strength,
                                          const std::string& label) {
  auto A = g.get("lora_A.weight"), B = g.get("lora_B.weight");
  ProductDelta::Form form{.algorithm = "lora",
                          .tensors = {{"lora_A.weight", A}, {"lora_B.weight", B}},
                          .rank = A.size(0),
                          .strength = strength,
                          .dense = [](const StateDict& t, const Tensor&) {
                            return at::mm(float_matrix(t.at("lora_B.weight")), float_matrix(t.at("lora_A.weight")));
                          }};
  return std::make_shared<ProductDelta>(std::move(form), site, label);
}

std::shared_ptr<const Delta> lora(const Group& g, const Site& site, const PrepareOptions& options,
                                  const std::string& label) {
  auto A = g.get("lora_A.weight"), bias = g.get("lora_B.bias");
  auto strength = strength_of(g, A.size(0), options);
  if (g.has("lora_mid.weight")) A = with_tucker_core(A, g.get("lora_mid.weight"), label);
  auto full_size = site.weight.dim() == 4 && A.dim() == 4 && A.size(1) == site.weight.size(1);
  bool plain = !bias.defined() && !g.has("lora_magnitude_vector");
  if (site.geometry.groups > 1 && full_size && plain) return grouped_lora(g, site, strength, label);
  auto factors = LoraFactors::fit(site, A, g.get("lora_B.weight"), bias, label);
  factors.alpha = strength.alpha;
  factors.scale = strength.scale;
  factors = factors.to(site.weight.device(), site.weight.scalar_type());
  auto magnitude = g.get("lora_magnitude_vector");
  if (!magnitude.defined()) return std::make_shared<LoraDelta>(std::move(factors));
  check_matrix(site, "DoRA", label);
  auto base = options.base ? options.base(site) : site.weight;
  return std::make_shared<PeftDoraDelta>(std::move(factors), magnitude, base, label);
}

std::shared_ptr<const Delta> oft_v2(const Group& g, const Site& site, const PrepareOptions& options,
                                    const std::string& label) {
  CayleyOptions cayley{.inverse_convolutions = options.by_onetrainer};
  if (const auto& config = options.config) {
    cayley.neumann = config->use_cayley_neumann;
    cayley.terms = config->num_cayley_neumann_terms;
    cayley.coft_eps = config->coft_eps;
  }
  return make_oft_v2(site, g.tensors, cayley, label);
}

// What changes the weight, without a magnitude or a bias of another's; nullptr for nothing.
std::shared_ptr<const Delta> weight_delta(const Group& g, const Site& site, const PrepareOptions& options,
                                          const std::string& label) {
  auto base = [&] { return options.base ? options.base(site) : site.weight; };
  // A group's tensors without what is around the algorithm.
  auto own = [&] {
    StateDict tensors;
    for (const auto& [suffix, tensor] : g.tensors)
      if (suffix != "dora_scale" && suffix != "diff_b" && suffix != "scale") tensors.set(suffix, tensor);
    return tensors;
  };
  if (g.has("lora_A.weight")) return lora(g, site, options, label);
  if (g.has("hada_w1_a")) return make_loha(site, own(), strength_of(g, g.get("hada_w1_b").size(0), options), label);
  if (is_lokr(g)) return make_lokr(site, own(), strength_of(g, lokr_rank(g.tensors), options), label);
  if (g.has("a1.weight")) return make_glora(site, own(), strength_of(g, glora_rank(g.tensors), options), base(), label);
  if (g.has("on_input") || g.has("ia3_l")) {
    auto bias = options.base_bias ? options.base_bias(site) : site.bias;
    bool feedforward = options.config && options.config->is_feedforward(g.path);
    return std::make_shared<Ia3Delta>(site, own(), bias, feedforward, label);
  }
  if (g.has("oft_blocks")) {
    auto alpha = options.alphas.find(g.path);
    return make_oft(site, own(), alpha == options.alphas.end() ? 0.0 : alpha->second, label);
  }
  if (g.has("oft_R.weight")) return oft_v2(g, site, options, label);
  return nullptr;
}

}  // namespace

std::pair<std::string, std::string_view> split_key(const std::string& key) {
  for (auto suffix : kSuffixes)
    if (key.size() > suffix.size() && key.ends_with(suffix) && key[key.size() - suffix.size() - 1] == '.')
      return {key.substr(0, key.size() - suffix.size() - 1), suffix};
  return {key, ""};
}

std::string missing_part(const Group& g) {
  for (const auto& [name, tensors] : kKinds) {
    std::string there, missing;
    for (const auto& suffix : tensors) (g.has(suffix) ? there : missing) = suffix;
    if (!there.empty() && !missing.empty()) {
      if (missing == "lora_B.weight") missing = "lora_B/up";
      if (missing == "lora_A.weight") missing = "lora_A/down";
      return "no " + missing;
    }
  }
  if (g.has("on_input") && !g.has("weight")) return "no weight beside on_input";
  if (is_lokr(g)) {
    if (!g.has("lokr_w1") && !g.has("lokr_w1_a")) return "no lokr_w1";
    if (!g.has("lokr_w2") && !g.has("lokr_w2_a")) return "no lokr_w2";
  }
  bool whole = g.has("diff_b") || std::any_of(std::begin(kMarks), std::end(kMarks), [&](auto* m) { return g.has(m); });
  return whole ? "" : "no lora_A and lora_B";
}

namespace {

// No trainer adds up two kinds in one layer, so that such a file is two that were put together.
void check_one_kind(const Group& g, const std::string& label) {
  std::string first;
  for (const char* mark : kMarks) {
    if (!g.has(mark)) continue;
    check(first.empty(), ErrorKind::unsupported, "{}: tensors of two kinds, {} and {}", label, first, mark);
    first = mark;
  }
  check(!g.has("lora_magnitude_vector") || first == "lora_A.weight", ErrorKind::unsupported,
        "{}: lora_magnitude_vector beside {}; it belongs to LoRA", label, first);
}

std::shared_ptr<const Delta> whole_delta(const Group& g, const Site& site, const PrepareOptions& options,
                                         const std::string& label) {
  auto diff = g.get("diff"), bias = g.get("diff_b");
  auto delta = weight_delta(g, site, options, label);
  if (!delta) return DiffDelta(site, diff, bias, label).to(site.weight.device(), site.weight.scalar_type());
  if (auto magnitude = g.get("dora_scale"); magnitude.defined()) {
    check_matrix(site, "DoRA", label);
    auto base = options.base ? options.base(site) : site.weight;
    delta = std::make_shared<LycorisDoraDelta>(std::move(delta), magnitude, base, label);
  }
  return bias.defined() ? std::make_shared<BiasedDelta>(std::move(delta), bias, site, label) : delta;
}

}  // namespace

std::shared_ptr<const Delta> make_delta(const Group& g, const Site& site, const PrepareOptions& options) {
  auto label = options.component + "." + g.path;
  check_one_kind(g, label);
  try {
    return whole_delta(g, site, options, label);
  } catch (const c10::Error& error) {  // the tensors' own, of sizes that cannot be multiplied
    if (is_out_of_memory(error)) throw;
    fail(ErrorKind::bad_shape, "{}: its tensors do not go together: {}", label, message_of(error));
  }
}

}  // namespace lora
