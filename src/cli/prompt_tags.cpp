#include "prompt_tags.h"

#include <cctype>
#include <optional>
#include <string_view>

#include "check.h"
#include "lora/lora_folder.h"
#include "output.h"
#include "text_file.h"

namespace lora::cli {

namespace {

// `<word:rest>` in a text.
struct Tag {
  size_t begin, end;  // of all of it
  std::string word, rest;
  bool closed;

  bool is_lora() const { return word == "lora" || word == "lyco"; }
};

std::optional<Tag> next_tag(std::string_view text, size_t from) {
  for (size_t open = text.find('<', from); open != text.npos; open = text.find('<', open + 1)) {
    size_t at = open + 1;
    std::string word;
    while (at < text.size() && (std::isalnum(static_cast<unsigned char>(text[at])) || text[at] == '_'))
      word += char(std::tolower(static_cast<unsigned char>(text[at++])));
    if (word.empty() || at >= text.size() || text[at] != ':') continue;
    const auto close = text.find('>', at);
    const bool closed = close != text.npos;
    Tag tag{open, closed ? close + 1 : text.size(), word, std::string(text.substr(at + 1, close - at - 1)), closed};
    if (closed || tag.is_lora()) return tag;
  }
  return std::nullopt;
}

std::vector<std::string> parts_of(std::string_view text) {
  std::vector<std::string> parts;
  for (size_t begin = 0, colon = 0; colon != text.npos; begin = colon + 1) {
    colon = text.find(':', begin);
    parts.push_back(trimmed(text.substr(begin, colon - begin)));
  }
  return parts;
}

// The LoRA of a tag. As in A1111, the first number is for the text encoders, the second for the denoiser, and a number
// that is missing is the one before it.
LoraArgument lora_of(const Tag& tag, const std::string& label, const std::string& folder) {
  auto parts = parts_of(tag.rest);
  const auto name = parts.front();
  parts.erase(parts.begin());
  check(!name.empty(), ErrorKind::usage, "{}: the tag names no LoRA. The form is <lora:NAME:WEIGHT>.", label);
  check(!folder.empty(), ErrorKind::usage, "the prompt names the LoRA \"{}\". Say with --lora-dir where it is.", name);
  std::vector<double> numbers;
  std::optional<double> te, unet;
  std::string text;
  for (const auto& part : parts) {
    text += (text.empty() ? "" : ":") + part;
    const auto equals = part.find('=');
    const auto key = equals == part.npos ? "" : trimmed(part.substr(0, equals));
    check(equals == part.npos || key == "te" || key == "unet", ErrorKind::usage,
          "{}: \"{}\" is not known. A tag takes te=WEIGHT and unet=WEIGHT.", label, part);
    const auto number = weight_number(label, trimmed(equals == part.npos ? part : part.substr(equals + 1)));
    if (key == "te") te = number;
    if (key == "unet") unet = number;
    if (key.empty()) numbers.push_back(number);
  }
  check(numbers.size() <= 2, ErrorKind::usage,
        "{}: has {} weights. It takes one for all, or one for the text encoders and then one for the UNet.", label,
        numbers.size());
  const double text_encoders = te.value_or(numbers.empty() ? 1.0 : numbers[0]);
  const double denoiser = unet.value_or(numbers.size() > 1 ? numbers[1] : text_encoders);
  auto found = find_lora(folder, name, lora_list_cache());
  for (const auto& each : found.notes) note(each);
  LoraArgument lora{.file = found.file.string(), .text = text.empty() ? "1" : text, .weight = denoiser};
  if (text_encoders != denoiser) lora.text_encoders = text_encoders;
  return lora;
}

}  // namespace

TaggedPrompt take_lora_tags(const std::string& prompt, const std::string& folder) {
  TaggedPrompt result;
  size_t at = 0;
  for (auto tag = next_tag(prompt, 0); tag; tag = next_tag(prompt, tag->end)) {
    const auto label = prompt.substr(tag->begin, tag->end - tag->begin);
    check(tag->closed, ErrorKind::usage, "the prompt has a tag without its end: \"{}\". Add \">\" after the weight.",
          label);
    if (!tag->is_lora()) {
      note(fmt::format("{} is read as words of the prompt. Only <lora:…> and <lyco:…> load something.", label));
      continue;
    }
    result.prompt += prompt.substr(at, tag->begin - at);
    result.loras.push_back(lora_of(*tag, label, folder));
    at = tag->end;
  }
  result.prompt += prompt.substr(at);
  return result;
}

std::string with_other_tags(const std::string& prompt,
                            const std::function<std::string(const std::string& name)>& rename) {
  std::string result;
  size_t at = 0;
  for (auto tag = next_tag(prompt, 0); tag; tag = next_tag(prompt, tag->end)) {
    if (!tag->is_lora() || !tag->closed) continue;
    const auto colon = tag->rest.find(':');
    const auto name = rename(trimmed(tag->rest.substr(0, colon)));
    result += prompt.substr(at, tag->begin - at);
    if (!name.empty())
      result += fmt::format("<{}:{}{}>", tag->word, name, colon == tag->rest.npos ? "" : tag->rest.substr(colon));
    at = tag->end;
  }
  return result + prompt.substr(at);
}

void check_no_lora_tags(const std::string& option, const std::string& text) {
  for (auto tag = next_tag(text, 0); tag; tag = next_tag(text, tag->end))
    check(!tag->is_lora(), ErrorKind::usage,
          "{} has the tag \"{}\". A LoRA acts on the whole picture: write the tag in --prompt.", option,
          text.substr(tag->begin, tag->end - tag->begin));
}

}  // namespace lora::cli
