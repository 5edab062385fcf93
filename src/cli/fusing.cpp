#include "fusing.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "check.h"
#include "output.h"

namespace lora::cli {

namespace {

// From this loss on, the command says what helps.
constexpr double kLarge = 0.1;
// float32 keeps nearly all of a change that is larger than this beside the weight.
constexpr double kKeptByFloat32 = 1e-5;

}  // namespace

void FuseArguments::declare(CLI::App& command) {
  command
      .add_option("--keep-active-above", keep_active_above,
                  "Does not fuse the layers that would lose more than this share of their change to rounding, such as "
                  "10%. They stay run-time factors.")
      ->type_name("PERCENT");
}

std::optional<double> FuseArguments::max_loss() const {
  if (keep_active_above.empty()) return std::nullopt;
  const auto& text = keep_active_above;
  double percent = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), percent);
  std::string_view rest(end, size_t(text.data() + text.size() - end));
  check(error == std::errc() && rest == "%" && percent >= 0 && percent <= 100, ErrorKind::usage,
        "--keep-active-above {}: a share in percent is wanted, such as 10%", text);
  return percent / 100;
}

FuseReport fuse(DiffusionPipeline& pipe, const FuseLoraOptions& options) {
  auto report = pipe.fuse_lora(options);
  if (report.layers.empty()) return report;
  tell(report.text());
  check(report.not_finite == 0, ErrorKind::unsupported, "{} numbers of the fused weights are NaN or infinite in {}. {}",
        report.not_finite, to_string(pipe.dtype()),
        pipe.dtype() == at::kHalf ? "--dtype float32 or bfloat16 has a larger range."
                                  : "Give the LoRA a smaller weight.");
  if (report.lost > kLarge) tell("  " + remedy(report) + " --keep-active-above 10% leaves lossy layers unfused.");
  return report;
}

std::string remedy(const FuseReport& report) {
  const bool kept = std::any_of(report.layers.begin(), report.layers.end(),
                                [](auto& layer) { return layer.change > kKeptByFloat32; });
  return kept ? "--dtype float32 keeps the whole change." : "A larger weight of the LoRA makes a larger change.";
}

void check_has_loras(bool fuse, const std::vector<LoraArgument>& loras) {
  check(!fuse || !loras.empty(), ErrorKind::usage, "--fuse: there is no LoRA to fuse. Give one with --lora.");
}

}  // namespace lora::cli
