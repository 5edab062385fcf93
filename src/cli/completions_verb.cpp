// `lora completions` and `lora man`.
#include "completions.h"
#include "man_page.h"
#include "output.h"
#include "verbs.h"

namespace lora::cli {

void declare_completions(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  auto* command = app.add_subcommand("completions", "Prints the completions of the command line for a shell");
  command->add_option("SHELL", *shell, "The shell")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, shell] {
    const auto all = outline(app);
    print(*shell == "bash" ? bash_completions(all) : *shell == "zsh" ? zsh_completions(all) : fish_completions(all));
  });
}

void declare_man(CLI::App& app) {
  auto* command = app.add_subcommand("man", "Prints the manual page. To read it: lora man | man -l -");
  command->callback([&app] { print(man_page(outline(app))); });
}

}  // namespace lora::cli
