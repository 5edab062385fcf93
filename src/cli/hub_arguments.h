#pragma once
// Repositories on the Hugging Face Hub, on the command line.
#include <CLI/CLI.hpp>
#include <string>

#include "lora/hub.h"

namespace lora::cli {

struct HubArguments {
  std::string revision, cache_dir;

  // Declares --revision and --cache-dir. `what` is what the revision is of, as the help calls it.
  void declare(CLI::App& command, const std::string& what);
  // Declares --cache-dir alone.
  void declare_cache_dir(CLI::App& command);
  // With a bar for downloads. `source` is what the revision is of. Throws Error{usage} where a revision is given and
  // `source` is a path.
  HubOptions options_for(const std::string& source) const;
  // The same without the revision.
  HubOptions options() const;
};

}  // namespace lora::cli
