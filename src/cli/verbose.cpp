#include "verbose.h"

#include <fmt/format.h>

#include "output.h"
#include "progress.h"

namespace lora::cli {

namespace {

const Progress kSinceTheStart;
bool verbose = false;

}  // namespace

void declare_verbose(CLI::App& command) {
  command
      .add_flag_function(
          "-v,--verbose", [](int64_t) { verbose = true; }, "Says on stderr what is done, and when")
      ->trigger_on_parse();
}

bool is_verbose() { return verbose; }

void tell_verbose(std::string_view text) {
  if (verbose) tell(fmt::format("lora: {:.2f} s: {}", kSinceTheStart.seconds(), text));
}

}  // namespace lora::cli
