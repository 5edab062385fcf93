#include "hub_arguments.h"

#include "check.h"
#include "lora/lora_options.h"
#include "progress.h"

namespace lora::cli {

void HubArguments::declare(CLI::App& command, const std::string& what) {
  command
      .add_option("--revision", revision,
                  fmt::format("A branch, a tag or a commit of {} on the Hugging Face Hub. Default: main.", what))
      ->type_name("REVISION");
  declare_cache_dir(command);
}

void HubArguments::declare_cache_dir(CLI::App& command) {
  command
      .add_option("--cache-dir", cache_dir,
                  "The cache of what comes from the Hub. Default: HF_HUB_CACHE, else ~/.cache/huggingface/hub.")
      ->type_name("DIR");
}

HubOptions HubArguments::options_for(const std::string& source) const {
  check(revision.empty() || LoraSource(source).is_repository(), ErrorKind::usage,
        "--revision {}: {} is not a repository on the Hub (owner/name)", revision, source);
  auto hub = options();
  hub.revision = revision;
  return hub;
}

HubOptions HubArguments::options() const { return {.cache_dir = cache_dir, .progress = download_progress()}; }

}  // namespace lora::cli
