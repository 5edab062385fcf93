#include "grid_axes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "check.h"
#include "grid_ranges.h"
#include "number.h"
#include "text_file.h"

namespace lora::cli {

namespace {

constexpr size_t kMostValues = 1000;
constexpr const char* kNone = "none";

struct KindRow {
  GridAxis::Kind kind;
  const char *name, *sets;  // `sets` for messages
  const char* option;       // that sets the same, or ""
};

constexpr KindRow kKinds[] = {
    {GridAxis::Kind::prompt, "prompt", "the prompt", "--prompt"},
    {GridAxis::Kind::seed, "seed", "the seed", "--seed"},
    {GridAxis::Kind::steps, "steps", "the number of steps", "--steps"},
    {GridAxis::Kind::cfg, "cfg", "the guidance scale", "--cfg"},
    {GridAxis::Kind::scheduler, "scheduler", "the scheduler", "--scheduler"},
    {GridAxis::Kind::lora, "lora", "the LoRA", ""},
    {GridAxis::Kind::weight, "weight", "the weight of the LoRA", ""},
};

const KindRow& row_of(GridAxis::Kind kind) {
  return *std::find_if(std::begin(kKinds), std::end(kKinds), [&](auto& row) { return row.kind == kind; });
}

bool has_ranges(GridAxis::Kind kind) {
  return kind != GridAxis::Kind::prompt && kind != GridAxis::Kind::scheduler && kind != GridAxis::Kind::lora;
}

// The parts between separators that are in no brackets and no quotes. Prompts have separators only.
std::vector<std::string> parts_of(std::string_view text, char separator, bool has_brackets) {
  std::vector<std::string> parts;
  size_t begin = 0;
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (has_brackets && c == '"') quoted = !quoted;
    if (has_brackets && !quoted) depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
    if (c != separator || quoted || depth > 0) continue;
    parts.push_back(trimmed(text.substr(begin, i - begin)));
    begin = i + 1;
  }
  parts.push_back(trimmed(text.substr(begin)));
  return parts;
}

// "× 0.8", in one line.
std::string weight_label(const std::string& weight) { return "×\u00a0" + weight; }

// For people: "ink × 0.8".
std::string lora_label(const std::string& file, const std::string& weight) {
  return LoraPlace(file).adapter_name() + (weight.empty() ? "" : " " + weight_label(weight));
}

bool has_weight(const std::string& lora) { return lora != kNone && parse_lora_argument(lora).file != lora; }

}  // namespace

GridAxis::GridAxis(std::string option, const std::string& text) : option_(std::move(option)) {
  const auto colon = text.find(':');
  check(colon != text.npos, ErrorKind::usage,
        "{} {}: the form is NAME: VALUE, VALUE, … such as \"steps: 10, 20\". The names are {}, lora and weight FILE.",
        option_, text, "prompt, seed, steps, cfg, scheduler");
  const auto head = trimmed(std::string_view(text).substr(0, colon));
  const auto space = std::min(head.find_first_of(kSpace), head.size());
  const auto word = head.substr(0, space);
  file_ = trimmed(head.substr(space));
  const auto* row = std::find_if(std::begin(kKinds), std::end(kKinds), [&](auto& r) { return r.name == word; });
  check(row != std::end(kKinds), ErrorKind::usage,
        "{} {}: \"{}\" is no axis. The axes are prompt, seed, steps, cfg, scheduler, lora and weight.", option_, text,
        word);
  kind_ = row->kind;
  check(file_.empty() || kind_ == Kind::weight, ErrorKind::usage, "{} {}: \"{}\" takes no name before its colon",
        option_, text, word);
  const auto rest = std::string_view(text).substr(colon + 1);
  const bool prompts = kind_ == Kind::prompt;
  auto parts = parts_of(rest, '|', !prompts);
  if (parts.size() == 1 && !prompts) parts = parts_of(rest, ',', true);
  const auto label = option_ + " " + name();
  for (const auto& part : parts) {
    check(!part.empty(), ErrorKind::usage, "{}: a value is empty in \"{}\"", label, trimmed(rest));
    const auto range = has_ranges(kind_) ? numbers_of_range(label, part, kMostValues) : std::nullopt;
    if (range)
      values_.insert(values_.end(), range->begin(), range->end());
    else
      values_.push_back(part);
    check(values_.size() <= kMostValues, ErrorKind::usage, "{}: has more than {} values", label, kMostValues);
  }
  for (size_t i = 0; i < values_.size(); ++i) check_value(i);
}

void GridAxis::check_value(size_t value) {
  auto& text = values_[value];
  const auto label = option_ + " " + name();
  switch (kind_) {
    case Kind::seed: text = std::to_string(parse_seed(label, text, 1)); break;
    case Kind::steps: number<int>(label, text, kWholeNumber); break;
    case Kind::cfg: number<double>(label, text, kAnyNumber); break;
    case Kind::lora: named(value, [&] { return text == kNone ? LoraArgument() : parse_lora_argument(text); }); break;
    case Kind::weight:
      named(value, [&] { return parse_lora_argument((file_.empty() ? "LoRA" : file_) + ":" + text); });
      break;
    default: break;
  }
}

std::string GridAxis::name() const { return row_of(kind_).name + (file_.empty() ? "" : " " + file_); }

std::string GridAxis::label(size_t value) const {
  const auto& text = values_[value];
  switch (kind_) {
    case Kind::seed: return "seed " + text;
    case Kind::steps: return text == "1" ? "1 step" : text + " steps";
    case Kind::cfg: return "cfg " + text;
    case Kind::weight: return file_.empty() ? weight_label(text) : lora_label(file_, text);
    case Kind::lora: {
      if (text == kNone) return "no LoRA";
      const auto lora = parse_lora_argument(text);
      return lora_label(lora.file, lora.file == text ? "" : lora.text);
    }
    default: return text;
  }
}

void GridAxis::set(size_t value, const DrawArguments& base, DrawArguments& a) const {
  const auto& text = values_[value];
  const auto label = option_ + " " + name();
  auto& loras = a.model.loras;
  switch (kind_) {
    case Kind::prompt: a.prompts.prompt = text; break;
    case Kind::seed: a.seed = text; break;
    case Kind::steps: a.steps = number<int>(label, text, kWholeNumber); break;
    case Kind::cfg: a.cfg = number<double>(label, text, kAnyNumber); break;
    case Kind::scheduler: a.scheduler = text; break;
    case Kind::lora:
      if (text != kNone) loras.push_back(text);
      break;
    case Kind::weight:
      if (!file_.empty())
        loras.push_back(file_ + ":" + text);
      else if (loras.size() > base.model.loras.size())
        loras.back() += ":" + text;
      break;
  }
}

void check_axes(const std::vector<GridAxis>& axes, const DrawArguments& base) {
  using Kind = GridAxis::Kind;
  const GridAxis* loras = nullptr;
  for (const auto& axis : axes)
    if (axis.kind() == Kind::lora) loras = &axis;
  if (axes.size() == 2)
    check(axes[0].name() != axes[1].name(), ErrorKind::usage, "{} and {} both set {}. Choose another axis for one.",
          axes[0].option(), axes[1].option(), row_of(axes[0].kind()).sets);
  for (const auto& axis : axes) {
    const auto& row = row_of(axis.kind());
    const bool given = (axis.kind() == Kind::prompt && base.prompts.prompt) ||
                       (axis.kind() == Kind::seed && base.seed != "-1") || (axis.kind() == Kind::steps && base.steps) ||
                       (axis.kind() == Kind::cfg && base.cfg) ||
                       (axis.kind() == Kind::scheduler && !base.scheduler.empty());
    check(!given, ErrorKind::usage, "{} {} and {} both set {}. Give one of them.", axis.option(), axis.name(),
          row.option, row.sets);
    if (axis.kind() != Kind::weight) continue;
    if (axis.file().empty()) {
      check(loras, ErrorKind::usage,
            "{} weight: names no LoRA. Write \"weight FILE: …\", or make the other axis \"lora: FILE, FILE\".",
            axis.option());
      for (const auto& lora : loras->values())
        check(!has_weight(lora), ErrorKind::usage,
              "{} weight and {} lora both set the weight of {}. Give the LoRA without its weight.", axis.option(),
              loras->option(), lora);
      continue;
    }
    auto check_apart = [&](const std::string& option, const std::vector<std::string>& others) {
      for (const auto& other : others)
        check(other == kNone || parse_lora_argument(other).file != axis.file(), ErrorKind::usage,
              "{} {} and {} both give the LoRA {}. Give it once.", axis.option(), axis.name(), option, axis.file());
    };
    check_apart("--lora", base.model.loras);
    if (loras) check_apart(loras->option() + " lora", loras->values());
  }
}

}  // namespace lora::cli
