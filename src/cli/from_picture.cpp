#include "from_picture.h"

#include <fmt/ranges.h>

#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "check.h"
#include "lora/files.h"
#include "lora/lora_folder.h"
#include "output.h"
#include "picture_text.h"
#include "progress.h"
#include "prompt_tags.h"

namespace lora::cli {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

namespace {

constexpr size_t kShortHash = 12;  // of a hash in A1111's text

bool exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool is_given(const CLI::App& command, const char* option) { return command.get_option(option)->count() > 0; }

// Gives an option its value, unless the line has it.
void give(CLI::App& command, const std::string& picture, const std::string& name,
          const std::vector<std::string>& words) {
  CLI::Option* option = nullptr;
  for (auto* each : command.get_options())
    if (is_of_picture(name) && picture_name(*each) == name) option = each;
  check(option, ErrorKind::usage, "--from {}: has the option \"{}\", which `lora {}` of this version does not have",
        picture, name, command.get_name());
  if (option->count() > 0) return;
  try {
    option->add_result(words);
    option->run_callback();
  } catch (const CLI::ParseError& error) {
    throw Error(ErrorKind::usage, fmt::format("--from {}: {}", picture, error.what()));
  }
}

std::string word_of(const json& value, const std::string& label) {
  check(value.is_string() || value.is_number() || value.is_boolean(), ErrorKind::bad_file,
        "{} must be a text, a number, true or false", label);
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// A model that the picture names is taken if it is here, or has the form of a repository.
void give_model(CLI::App& command, const std::string& picture, const std::string& model, bool may_be_repository) {
  if (is_given(command, "MODEL")) return;
  if (exists(model) || (may_be_repository && LoraSource(model).is_repository()))
    give(command, picture, "model", {model});
  else
    note(fmt::format("--from {}: was drawn with the model {}, which is not here", picture, model));
}

std::string stem(const std::string& file) { return LoraPlace(file).adapter_name(); }

}  // namespace

// The LoRAs of a folder by their hashes. Reads the folder when it is first asked.
class FromPicture::LorasByHash {
 public:
  explicit LorasByHash(const std::string& folder) : folder_(folder) {}

  // `hash` is the whole hash, or its first digits. Empty for none.
  fs::path find(const std::string& hash) {
    if (folder_.empty() || hash.empty()) return {};
    if (!list_) {
      list_ = list_loras(folder_, {.hash = true, .cache = lora_list_cache(), .progress = progress_after_a_second()});
      for (const auto& each : list_->notes) note(each);
    }
    for (const auto& lora : list_->loras)
      if (lora.hash.starts_with(hash)) return lora.file;
    return {};
  }

 private:
  std::string folder_;
  std::optional<LoraList> list_;
};

void FromPicture::declare(CLI::App& command) {
  command
      .add_option("--from", picture_,
                  "Draws this picture again: takes all options that the line does not have from its text. It is a "
                  "picture of lora.cpp, or one with A1111's text.")
      ->type_name("FILE")
      ->configurable(false);
  command.get_option("MODEL")->required(false);
  command.parse_complete_callback([this, &command] {
    if (!picture_.empty()) read(command);
  });
}

void FromPicture::read(CLI::App& command) {
  const auto texts = Image::load(picture_).text;
  loras_are_given_ = is_given(command, "--lora");
  prompt_is_given_ = is_given(command, "--prompt") || is_given(command, "--prompts");
  const auto text = [&](const char* keyword) {
    const auto found = texts.find(keyword);
    return found == texts.end() ? "" : found->second;
  };
  if (const auto own = text(kOwnText); !own.empty()) return read_own(command, own);
  infotext_ = read_infotext(text(kA1111Text));
  check(infotext_.has_value(), ErrorKind::usage,
        "--from {}: has no text of lora.cpp or A1111 that says how it was drawn. `lora info` prints its texts.",
        picture_);
  read_a1111(command, *infotext_);
}

void FromPicture::read_own(CLI::App& command, const std::string& text) {
  const auto own = json_object(text);
  const auto wrong = fmt::format("--from {}: its text \"{}\"", picture_, kOwnText);
  check(own.contains("options") && own["options"].is_object(), ErrorKind::bad_file, "{} is not that of a picture",
        wrong);
  for (const auto& [name, value] : own["options"].items()) {
    const auto label = fmt::format("{}: \"{}\"", wrong, name);
    if (name == "model") {
      give_model(command, picture_, word_of(value, label), /*may_be_repository=*/true);
    } else if (name != "prompt" || !prompt_is_given_) {
      std::vector<std::string> words;
      for (const auto& each : value.is_array() ? value : json::array({value})) words.push_back(word_of(each, label));
      give(command, picture_, name, words);
    }
  }
  for (const auto& lora : own.value("loras", json::array())) {
    check(lora.is_object() && lora.contains("file") && lora["file"].is_string() && lora.contains("weight"),
          ErrorKind::bad_file, "{}: \"loras\" must have a \"file\" and a \"weight\" each", wrong);
    const auto hash = lora.value("hash", json());
    loras_.push_back(
        {lora["file"].get<std::string>(), lora["weight"].dump(), hash.is_string() ? hash.get<std::string>() : ""});
  }
}

void FromPicture::read_a1111(CLI::App& command, const Infotext& text) {
  std::vector<std::string> unused;
  if (!prompt_is_given_) give(command, picture_, "prompt", {text.prompt});
  if (!text.negative.empty()) give(command, picture_, "negative", {text.negative});
  for (const auto& [field, value] : text.fields) {
    auto set = [&](const char* option) { give(command, picture_, option, {value}); };
    if (field == "Steps") {
      set("steps");
    } else if (field == "CFG scale") {
      set("cfg");
    } else if (field == "Seed") {
      set("seed");
    } else if (field == "Size") {
      set("size");
    } else if (field == "Model") {
      give_model(command, picture_, value, /*may_be_repository=*/false);
    } else if (field == "Sampler") {
      const auto* type = text.find("Schedule type");
      const bool named = type && (*type == "Karras" || *type == "Exponential" || *type == "Beta");
      give(command, picture_, "scheduler", {named ? value + " " + *type : value});
      if (type && !named && *type != "Automatic") unused.push_back("Schedule type");
    } else if (field == "Clip skip") {
      int layer = 1;
      std::from_chars(value.data(), value.data() + value.size(), layer);
      if (layer > 1 && !is_given(command, "--clip-skip")) {
        give(command, picture_, "clip-skip", {std::to_string(layer - 1)});
        note(
            fmt::format("--from {}: Clip skip {} is --clip-skip {}. A1111 does not apply it to SDXL: give --clip-skip "
                        "0 for a picture of SDXL.",
                        picture_, layer, layer - 1));
      }
    } else if (field == "Denoising strength" && is_given(command, "--image")) {
      set("strength");
    } else if (field == "Mask blur" && is_given(command, "--mask")) {
      set("mask-blur");
    } else if (field != "Schedule type" && field != "Lora hashes" && field != "Version") {
      unused.push_back(field);
    }
  }
  if (!unused.empty()) note(fmt::format("--from {}: not used of its text: {}", picture_, fmt::join(unused, ", ")));
}

void FromPicture::find_loras(DrawArguments& arguments) const {
  if (picture_.empty()) return;
  const auto& folder = arguments.lora_dir;
  LorasByHash by_hash(folder);
  if (infotext_ && !prompt_is_given_) {
    const auto hashes = infotext_->lora_hashes();
    arguments.prompts.prompt = with_other_tags(*arguments.prompts.prompt, [&](const std::string& name) -> std::string {
      if (loras_are_given_) return "";
      std::string hash;
      for (const auto& [known, value] : hashes)
        if (known == name) hash = value;
      if (const auto found = by_hash.find(hash); !found.empty())
        return "./" + found.lexically_relative(folder).string();
      if (!folder.empty() && !hash.empty())
        note(fmt::format("--from {}: no LoRA in {} has the hash {} of \"{}\". The LoRA of that name is taken.",
                         picture_, folder, hash, name));
      return name;
    });
  }
  if (infotext_ || loras_are_given_) return;

  arguments.model.loras.clear();
  for (const auto& lora : loras_) arguments.model.loras.push_back(file_of(lora, folder, by_hash) + ":" + lora.weight);
}

std::string FromPicture::file_of(const Lora& lora, const std::string& folder, LorasByHash& by_hash) const {
  std::error_code error;
  const bool is_file = fs::is_regular_file(lora.file, error);
  const bool has_hash = is_file && !lora.hash.empty();
  if (!has_hash && (exists(lora.file) || LoraSource(LoraPlace(lora.file).source()).is_repository())) return lora.file;
  if (is_file && hash_file(lora.file).a1111 == lora.hash) return lora.file;
  if (const auto same = by_hash.find(lora.hash); !same.empty()) return same.string();
  const auto hash = lora.hash.empty() ? "" : fmt::format(" (hash {})", lora.hash.substr(0, kShortHash));
  check(
      is_file || !folder.empty(), ErrorKind::not_found,
      "--from {}: was drawn with the LoRA {}{}, which is not here. Say with --lora-dir in which folder it is, or give "
      "another one as --lora.",
      picture_, lora.file, hash);
  const auto file = is_file ? lora.file : find_lora(folder, stem(lora.file), lora_list_cache()).file.string();
  note(fmt::format("--from {}: {} has the name of its LoRA{}, but is another file", picture_, file, hash));
  return file;
}

}  // namespace lora::cli
