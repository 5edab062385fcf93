#include <sys/ioctl.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "lora/lora_folder.h"
#include "output.h"
#include "progress.h"
#include "verbose.h"
#include "verbs.h"

namespace lora::cli {

namespace {

struct Arguments {
  std::string folder, sort = "name";
  std::vector<std::string> bases;
  bool hash = false, no_cache = false, json = false;
};

const std::map<std::string, LoraOrder>& orders() {
  static const std::map<std::string, LoraOrder> all = {{"name", LoraOrder::name},
                                                       {"base", LoraOrder::base},
                                                       {"rank", LoraOrder::rank},
                                                       {"date", LoraOrder::date},
                                                       {"size", LoraOrder::size}};
  return all;
}

// 0 where stdout is no terminal, or one that does not say how wide it is.
size_t terminal_columns() {
  winsize size{};
  return isatty(STDOUT_FILENO) && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

void run(const Arguments& a) {
  ListLorasOptions options{.sort = orders().at(a.sort), .hash = a.hash, .progress = progress_after_a_second()};
  for (const auto& base : a.bases) options.base_models.push_back(parse_base_model(base));
  if (!a.no_cache) options.cache = lora_list_cache();
  auto list = list_loras(a.folder, options);
  tell_verbose(fmt::format("{}: {} files", a.folder, list.loras.size()));
  if (a.json)
    print_json(nlohmann::ordered_json::parse(list.json()));
  else
    print(list.text(terminal_columns()));
  for (const auto& each : list.notes) note(each);
}

}  // namespace

void declare_list(CLI::App& app) {
  auto a = std::make_shared<Arguments>();
  auto* command = app.add_subcommand(
      "list",
      "Lists the LoRAs in a folder and below it: base model, kind, rank, trainer, hash, verdict, trigger words");
  command->add_option("DIR", a->folder, "The folder")->required();
  command->add_option("--base", a->bases, "Lists only LoRAs for this base model, such as sdxl. May be repeated.")
      ->type_name("NAME")
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option("--sort", a->sort,
                   "name, base, rank (the highest first), date (the newest first) or size (the largest first). "
                   "Default: name")
      ->type_name("BY")
      ->check(CLI::IsMember(orders()));
  command->add_flag("--hash", a->hash,
                    "Computes the hash of the LoRAs whose metadata states none. Reads these files whole.");
  command->add_flag("--no-cache", a->no_cache, "Reads every file again, and keeps nothing for the next time");
  command->add_flag("--json", a->json, "Prints JSON");
  command->callback([a] { run(*a); });
}

}  // namespace lora::cli
