#include "styles.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "check.h"
#include "text_file.h"

namespace lora::cli {

namespace {

struct Row {
  size_t line;  // on which it begins, from 1
  std::vector<std::string> fields;
};

// The rows of comma-separated values (RFC 4180). A quoted field can have commas, line breaks, and quotes as "".
std::vector<Row> read_csv(std::string_view text, const std::string& file) {
  std::vector<Row> rows;
  size_t line = 1;
  for (size_t at = 0; at < text.size();) {
    Row row{line, {""}};
    bool quoted = false, ended = false;
    for (; at < text.size() && !ended; ++at) {
      auto& field = row.fields.back();
      const char c = text[at];
      if (c == '\n') ++line;
      if (quoted && c == '"' && text.substr(at + 1, 1) == "\"")
        field += text[++at];
      else if (c == '"' && (quoted || field.empty()))
        quoted = !quoted;
      else if (quoted)
        field += c;
      else if (c == ',')
        row.fields.emplace_back();
      else if (c == '\n')
        ended = true;
      else if (c != '\r' || text.substr(at + 1, 1) != "\n")
        field += c;
    }
    check(!quoted, ErrorKind::bad_file, "--styles {}:{}: a quoted text has no end", file, row.line);
    if (row.fields != std::vector<std::string>{""}) rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<Style> all_styles(const std::filesystem::path& path) {
  const auto file = path.string();
  const auto rows = read_csv(read_text_file("--styles", path), file);
  auto column = [&](std::string_view name) {
    const auto& header = rows.front().fields;
    return size_t(std::find(header.begin(), header.end(), name) - header.begin());
  };
  check(!rows.empty(), ErrorKind::bad_file, "--styles {}: has no styles", file);
  const auto name = column("name"), prompt = column("prompt"), negative = column("negative_prompt");
  const auto columns = rows.front().fields.size();
  check(name < columns && prompt < columns, ErrorKind::bad_file,
        "--styles {}: its first line does not name the columns \"name\", \"prompt\" and \"negative_prompt\"", file);
  std::vector<Style> styles;
  for (size_t i = 1; i < rows.size(); ++i) {
    const auto& fields = rows[i].fields;
    check(fields.size() <= columns, ErrorKind::bad_file,
          "--styles {}:{}: has {} fields for {} columns. Write a text with commas in quotes.", file, rows[i].line,
          fields.size(), columns);
    auto field = [&](size_t at) { return at < fields.size() ? fields[at] : ""; };
    if (!field(name).starts_with('#')) styles.push_back({field(name), field(prompt), field(negative)});
  }
  return styles;
}

}  // namespace

std::vector<Style> read_styles(const std::filesystem::path& file, const std::vector<std::string>& names) {
  const auto all = all_styles(file);
  std::vector<std::string> known;
  for (const auto& style : all) known.push_back(style.name);
  std::vector<Style> wanted;
  for (const auto& name : names) {
    const auto count = std::count(known.begin(), known.end(), name);
    check(count > 0, ErrorKind::usage, "--style {}: {} does not have this style. It has: {}.", name, file.string(),
          fmt::join(known, ", "));
    check(count == 1, ErrorKind::usage, "--style {}: {} has {} styles of this name", name, file.string(), count);
    wanted.push_back(all[size_t(std::find(known.begin(), known.end(), name) - known.begin())]);
  }
  return wanted;
}

std::string styled(const std::string& text, const std::string& style) {
  constexpr std::string_view kPlace = "{prompt}";
  if (auto at = style.find(kPlace); at != style.npos) {
    std::string result;
    size_t begin = 0;
    for (; at != style.npos; begin = at + kPlace.size(), at = style.find(kPlace, begin))
      result.append(style, begin, at - begin) += text;
    return result.append(style, begin);
  }
  const auto first = trimmed(text), second = trimmed(style);
  return first + (first.empty() || second.empty() ? "" : ", ") + second;
}

void apply_style(const Style& style, PromptLine& line) {
  line.prompt = styled(line.prompt, style.prompt);
  if (!style.negative_prompt.empty()) line.negative = styled(line.negative.value_or(""), style.negative_prompt);
}

}  // namespace lora::cli
