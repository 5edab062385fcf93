#include "schedulers/short_names.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "core/text.h"

namespace lora {

// The ending of a name, and the field that it sets. The name without an ending keeps what the model's config says.
static constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kEndings{
    {{"_karras", "use_karras_sigmas"}, {"_exponential", "use_exponential_sigmas"}, {"_beta", "use_beta_sigmas"}}};

// The names of other programs that differ by more than spaces, capitals and "++".
static constexpr std::pair<std::string_view, std::string_view> kSynonyms[] = {{"euler_a", "euler_ancestral"},
                                                                              {"k_euler", "euler"},
                                                                              {"k_euler_a", "euler_ancestral"},
                                                                              {"plms", "pndm"},
                                                                              {"uni_pc", "unipc"},
                                                                              {"dpmsingle", "dpmpp_2s"},
                                                                              {"dpmsolver++", "dpmpp_2m"}};

// A sampler, and with `endings` its three variants.
static void add(std::vector<ShortName>& names, ShortName sampler, bool endings) {
  names.push_back(sampler);
  if (!endings) return;
  for (const auto& [ending, field] : kEndings) {
    auto variant = sampler;
    variant.name += ending;
    for (const auto& other : kEndings) variant.fields[std::string(other.second)] = other.second == field;
    names.push_back(variant);
  }
}

static std::vector<ShortName> make_short_names() {
  constexpr bool kPlain = false, kEndingsToo = true;
  const Json no_sigmas{{"use_karras_sigmas", false}, {"use_exponential_sigmas", false}, {"use_beta_sigmas", false}};
  auto dpmpp = [&](const char* algorithm, int order) {
    auto fields = no_sigmas;
    fields.update({{"algorithm_type", algorithm}, {"solver_order", order}});
    return fields;
  };
  const auto *multistep = "DPMSolverMultistepScheduler", *ode = "dpmsolver++", *sde = "sde-dpmsolver++";
  std::vector<ShortName> names;
  add(names, {"ddim", "DDIMScheduler"}, kPlain);
  add(names, {"pndm", "PNDMScheduler"}, kPlain);
  add(names, {"euler", "EulerDiscreteScheduler"}, kEndingsToo);
  add(names, {"euler_ancestral", "EulerAncestralDiscreteScheduler"}, kPlain);
  add(names, {"heun", "HeunDiscreteScheduler"}, kEndingsToo);
  add(names, {"dpmpp_2m", multistep, dpmpp(ode, 2)}, kEndingsToo);
  add(names, {"dpmpp_2m_sde", multistep, dpmpp(sde, 2)}, kEndingsToo);
  add(names, {"dpmpp_3m_sde", multistep, dpmpp(sde, 3)}, kEndingsToo);
  add(names, {"dpmpp_sde", "DPMSolverSDEScheduler"}, kEndingsToo);
  add(names, {"dpmpp_2s", "DPMSolverSinglestepScheduler", dpmpp(ode, 2)}, kEndingsToo);
  add(names, {"deis", "DEISMultistepScheduler", {{"algorithm_type", "deis"}}}, kEndingsToo);
  add(names, {"unipc", "UniPCMultistepScheduler"}, kEndingsToo);
  add(names, {"lcm", "LCMScheduler"}, kPlain);
  add(names, {"tcd", "TCDScheduler"}, kPlain);
  add(names, {"flow_match_euler", "FlowMatchEulerDiscreteScheduler"}, kPlain);
  return names;
}

const std::vector<ShortName>& short_names() {
  static const auto names = make_short_names();
  return names;
}

const ShortName* find_short_name(std::string_view name) {
  std::string plain(name);
  std::ranges::transform(plain, plain.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  plain = replace_all(replace_all(plain, "dpm++", "dpmpp"), " ", "_");
  std::string ending;
  for (const auto& row : kEndings)
    if (plain.ends_with(row.first)) ending = row.first;
  plain.resize(plain.size() - ending.size());
  for (const auto& [theirs, ours] : kSynonyms)
    if (plain == theirs) plain = ours;
  const auto& names = short_names();
  auto found = std::ranges::find(names, plain + ending, &ShortName::name);
  return found == names.end() ? nullptr : &*found;
}

}  // namespace lora
