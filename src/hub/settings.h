#pragma once
// The settings of a call, from its options and the environment.
#include "core/check.h"
#include "hub/environment.h"

namespace lora {

struct HubSettings {
  // Throws Error{usage, forbidden, not_found}.
  explicit HubSettings(const HubOptions& options)
      : cache_dir(hub_cache(options.cache_dir)),
        revision(options.revision.empty() ? "main" : options.revision),
        offline(options.local_files_only.value_or(hub_offline())),
        force(options.force_download),
        proxies(options.proxies) {
    check(!force || !offline, ErrorKind::usage,
          "force_download needs the network, but the call is offline (HF_HUB_OFFLINE or local_files_only)");
    if (offline) return;
    endpoint = hub_endpoint();
    token = hub_token(options.token);
    certificates = hub_certificates();
  }

  std::filesystem::path cache_dir;
  std::string revision;
  bool offline, force;
  bool copies = hub_without_symlinks();
  std::string endpoint, token, certificates;  // empty if offline
  std::map<std::string, std::string> proxies;
  int etag_timeout = hub_etag_timeout(), download_timeout = hub_download_timeout();  // seconds
};

}  // namespace lora
