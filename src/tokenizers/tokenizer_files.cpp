#include "tokenizers/tokenizer_files.h"

#include <algorithm>
#include <optional>

#include "io/json_file.h"

namespace lora {

using nlohmann::json;
using std::filesystem::path;

namespace {

// A merge as text: two tokens.
struct WrittenMerge {
  std::string_view left, right;
};

std::vector<VocabularyEntry> read_vocabulary(JsonCursor& at) {
  std::vector<VocabularyEntry> entries;
  at.object([&](std::string_view token) { entries.push_back({token, at.integer()}); });
  return entries;
}

// Merges as ids. `source` is the name of their file.
std::vector<Merge> resolve(const std::vector<WrittenMerge>& written, const Vocabulary& vocabulary,
                           const std::string& source) {
  std::vector<Merge> merges;
  merges.reserve(written.size());
  auto known = [&](std::optional<int64_t> id, std::string_view token) {
    check(id.has_value(), ErrorKind::bad_file,
          "{}: merge {} has the token `{}`, which {} does not have; both must come from one tokenizer", source,
          merges.size() + 1, token, vocabulary.source());
    return static_cast<int32_t>(*id);
  };
  std::string merged;
  int64_t previous = 0;  // most vocabularies have the results of merges in the same order
  for (const auto& [left, right] : written) {
    merged.assign(left).append(right);
    previous = known(vocabulary.id(merged, previous), merged);
    merges.push_back(
        {known(vocabulary.id(left), left), known(vocabulary.id(right), right), static_cast<int32_t>(previous)});
  }
  return merges;
}

std::optional<WrittenMerge> parse_merge(std::string_view text) {
  auto space = text.find(' ');
  if (space == text.npos || text.rfind(' ') != space) return std::nullopt;
  return WrittenMerge{text.substr(0, space), text.substr(space + 1)};
}

// `text` is the content of merges.txt.
std::vector<WrittenMerge> read_merges(std::string_view text, const std::string& source) {
  std::vector<WrittenMerge> merges;
  merges.reserve(text.size() / 8);
  size_t number = 1;
  for (size_t begin = 0, end; begin < text.size(); begin = end + 1, ++number) {
    end = std::min(text.find('\n', begin), text.size());
    auto line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.starts_with("#version")) continue;
    auto merge = parse_merge(line);
    check(merge.has_value(), ErrorKind::bad_file,
          "{}: line {}: two tokens with one space between them were expected, `{}` came", source, number,
          line.substr(0, 80));
    merges.push_back(*merge);
  }
  return merges;
}

// From "a b" or ["a", "b"].
std::vector<WrittenMerge> read_merges(JsonCursor& at, const std::string& source) {
  std::vector<WrittenMerge> merges;
  at.array([&] {
    std::optional<WrittenMerge> merge;
    if (at.peek() == '[') {
      std::vector<std::string_view> tokens;
      at.array([&] { tokens.push_back(at.string()); });
      if (tokens.size() == 2) merge = {tokens[0], tokens[1]};
    } else {
      merge = parse_merge(at.string());
    }
    check(merge.has_value(), ErrorKind::bad_file, "{}: merge {}: two tokens were expected", source, merges.size() + 1);
    merges.push_back(*merge);
  });
  return merges;
}

void check_model(const json& model, const std::string& source) {
  auto type = model.value("type", "BPE");
  check(type == "BPE", ErrorKind::unsupported, "{}: the model is of type {}; CLIP's is BPE", source, type);
  auto suffix = model.value("end_of_word_suffix", json(kEndOfWord));
  check(suffix == kEndOfWord, ErrorKind::unsupported, "{}: end_of_word_suffix is {}; CLIP's is \"{}\"", source,
        suffix.dump(), kEndOfWord);
}

TokenizerFiles read_tokenizer_json(const path& file) {
  auto source = file.string();
  auto text = read_text(file);
  JsonCursor at(text, source);
  std::vector<VocabularyEntry> entries;
  std::vector<WrittenMerge> merges;
  auto [model, rest] = walk_tokenizer_json(at, [&](std::string_view part) {
    if (part == "vocab") entries = read_vocabulary(at);
    if (part == "merges") merges = read_merges(at, source);
    return part == "vocab" || part == "merges";
  });
  check_model(model, source);
  check(!entries.empty(), ErrorKind::bad_file, "{}: model.vocab was expected, with tokens and their ids", source);
  Vocabulary vocabulary(std::move(entries), source);
  auto resolved = resolve(merges, vocabulary, source);
  return {std::move(vocabulary), std::move(resolved), std::move(rest)};
}

TokenizerFiles read_vocab_and_merges(const path& vocab_file, const path& merges_file) {
  auto vocab = read_text(vocab_file);
  JsonCursor at(vocab, vocab_file.string());
  auto entries = read_vocabulary(at);
  at.end();
  Vocabulary vocabulary(std::move(entries), vocab_file.string());
  auto text = read_text(merges_file);
  auto merges = resolve(read_merges(text, merges_file.string()), vocabulary, merges_file.string());
  return {std::move(vocabulary), std::move(merges), json::object()};
}

}  // namespace

std::vector<Merge> parse_merges(std::string_view text, const Vocabulary& vocabulary, const std::string& source) {
  return resolve(read_merges(text, source), vocabulary, source);
}

TokenizerFiles read_tokenizer_files(const path& folder) {
  std::error_code ignored;
  check(is_directory(folder, ignored), ErrorKind::not_found, "{}: no such folder; a tokenizer's folder was expected",
        folder.string());
  auto tokenizer = folder / "tokenizer.json", vocab = folder / "vocab.json", merges = folder / "merges.txt";
  if (is_there(tokenizer)) return reading(tokenizer, [&] { return read_tokenizer_json(tokenizer); });
  bool has_vocab = is_there(vocab), has_merges = is_there(merges);
  check(has_vocab || has_merges, ErrorKind::not_found,
        "{}: does not have a tokenizer: tokenizer.json, or vocab.json and merges.txt, were expected", folder.string());
  check(has_vocab && has_merges, ErrorKind::not_found, "{}: no such file, but {} exists; a tokenizer needs both",
        (has_vocab ? merges : vocab).string(), (has_vocab ? vocab : merges).filename().string());
  return read_vocab_and_merges(vocab, merges);
}

TokenizerJson walk_tokenizer_json(JsonCursor& at, const std::function<bool(std::string_view)>& take) {
  TokenizerJson file{json::object(), json::object()};
  at.object([&](std::string_view key) {
    if (key != "model") {
      file.rest[std::string(key)] = json::parse(at.raw());
      return;
    }
    at.object([&](std::string_view part) {
      if (!take(part)) file.model[std::string(part)] = json::parse(at.raw());
    });
  });
  at.end();
  return file;
}

bool is_there(const path& file) {
  std::error_code ignored;
  return exists(file, ignored);
}

json read_optional_json(const path& file) {
  if (!is_there(file)) return json::object();
  auto content = read_json(file);
  check(content.is_object(), ErrorKind::bad_file, "{}: holds {}; a JSON object was expected", file.string(),
        content.type_name());
  return content;
}

}  // namespace lora
