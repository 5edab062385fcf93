// The command `lora`. Results go to stdout, progress, notes and errors to stderr. The exit code is 0 for success, 1 for
// a failure, and 2 for a wrong command line.
#include <fmt/ranges.h>

#include "check.h"
#include "command_line.h"
#include "lora/error.h"
#include "output.h"
#include "threads.h"

namespace lora::cli {

namespace {

// CLI11's own message does not name the word that is no verb.
void check_verb(const CLI::App& app, int words, char** word) {
  if (words == 0 || word[0][0] == '-' || app.get_require_subcommand_min() == 0) return;
  const CLI::App* found = nullptr;
  std::vector<std::string> verbs;
  for (const auto* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    verbs.push_back(verb->get_name());
    if (verb->get_name() == word[0]) found = verb;
  }
  check(found, ErrorKind::usage, "{} has no \"{}\". It has: {}.", app.get_name(), word[0], fmt::join(verbs, ", "));
  check_verb(*found, words - 1, word + 1);
}

void run(CLI::App& app, int argc, char** argv) {
  check_verb(app, argc - 1, argv + 1);
  app.parse(argc, argv);
}

// CLI11's own message has the words in reverse.
std::string message_of(const CLI::ExtrasError& error, const CLI::App& app) {
  const auto words = app.remaining(/*recurse=*/true);
  if (words.empty()) return error.what();
  return fmt::format("The following argument{} not expected: {}", words.size() > 1 ? "s were" : " was",
                     fmt::join(words, " "));
}

int wrong_line(const std::string& message) {
  print_error(message);
  print_error("`lora VERB --help` lists the options of a verb.");
  return 2;
}

int code_of(const Error& error) {
  print_error(error.what());
  return error.kind() == ErrorKind::usage ? 2 : 1;
}

// Calls `f` and says what it throws. Returns the exit code.
template <class F>
int reported(CLI::App& app, F f) {
  try {
    f();
  } catch (const CLI::Success& help_or_version) {
    app.exit(help_or_version);
  } catch (const CLI::ExtrasError& error) {
    return wrong_line(message_of(error, app));
  } catch (const CLI::ParseError& error) {
    return wrong_line(error.what());
  } catch (const Error& error) {
    return code_of(error);
  } catch (const std::exception& error) {
    print_error(error.what());
    return 1;
  }
  return 0;
}

}  // namespace

}  // namespace lora::cli

int main(int argc, char** argv) {
  using namespace lora::cli;
  open_closed_streams();
  use_available_threads();
  CLI::App app{"lora.cpp: LoRA adapters for diffusion models", "lora"};
  const auto config = declare_command_line(app);
  const int code = reported(app, [&] { run(app, argc, argv); });
  if (code == 2 && !config->text().empty()) note(config->text());
  const int printed = reported(app, [] { check_printed(); });
  return code ? code : printed;
}
