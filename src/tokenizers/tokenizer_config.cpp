#include "tokenizers/tokenizer_config.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/check.h"
#include "core/text.h"
#include "tokenizers/tokenizer_files.h"

namespace lora {

using nlohmann::json;
using std::filesystem::path;

namespace {

// The order in which the reference adds them.
constexpr std::array kNamedTokens{"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};
// A prompt is padded to its limit. So this is the most that a file can make the library allocate for a prompt.
constexpr int64_t kLongestLimit = 1 << 20;
// In the reference, numbers above this mean that there is no limit.
constexpr double kMeansNoLimit = 1e20;

bool is_token(const json& value) { return value.is_string() || (value.is_object() && value.contains("content")); }

std::string content(const json& token) { return (token.is_string() ? token : token.at("content")).get<std::string>(); }

AddedToken make_token(const json& value, bool special) {
  if (value.is_string()) return {.content = value.get<std::string>(), .special = special, .plain = true};
  return {
      .content = value.at("content"),
      .normalized = value.value("normalized", !special),
      .single_word = value.value("single_word", false),
      .special = special,
      .lstrip = value.value("lstrip", false),
      .rstrip = value.value("rstrip", false),
  };
}

bool is_named(const std::string& key) { return std::ranges::find(kNamedTokens, key) != kNamedTokens.end(); }

// The tokens with a name: first the usual ones, then every other key *_token, then those of extra_special_tokens.
std::vector<json> named_tokens(const json& config) {
  std::vector<json> tokens;
  for (const char* key : kNamedTokens)
    if (auto value = config.value(key, json()); !value.is_null()) tokens.push_back(value);
  for (const auto& [key, value] : config.items())
    if (key.ends_with("_token") && !is_named(key) && is_token(value)) tokens.push_back(value);
  if (auto extra = config.value("extra_special_tokens", json()); extra.is_object())
    for (const auto& [name, value] : extra.items()) tokens.push_back(value);
  return tokens;
}

std::vector<json> extra_tokens(const json& config) {
  for (const char* key : {"extra_special_tokens", "additional_special_tokens"})
    if (auto tokens = config.value(key, json()); tokens.is_array() && !tokens.empty()) return tokens;
  return {};
}

// The key of an entry in added_tokens_decoder.
int64_t parse_id(const std::string& text, const std::string& where) {
  auto id = parse_integer<int64_t>(text);
  check(id.has_value(), ErrorKind::bad_file, "{}: added_tokens_decoder: `{}` is not a token id", where, text);
  return *id;
}

// The added tokens with the ids that the files state.
std::map<int64_t, json> stated_tokens(const json& config, const json& added, const json& tokenizer,
                                      const std::string& where) {
  std::map<int64_t, json> tokens;
  if (config.contains("added_tokens_decoder")) {
    for (const auto& [id, token] : config.at("added_tokens_decoder").items()) tokens[parse_id(id, where)] = token;
    return tokens;
  }
  for (const auto& [token, id] : added.items()) tokens[id.get<int64_t>()] = json{{"content", token}};
  for (const auto& token : tokenizer.value("added_tokens", json::array()))
    tokens[token.at("id").get<int64_t>()] = token;
  return tokens;
}

std::vector<TokenizerConfig::Addition> additions(const json& config, const std::map<int64_t, json>& with_id) {
  auto named = named_tokens(config);
  std::set<std::string> names, stated;
  for (const auto& token : named) names.insert(content(token));

  std::vector<TokenizerConfig::Addition> added;
  for (const auto& [id, token] : with_id) {
    bool special = names.contains(content(token)) || (token.is_object() && token.value("special", false));
    added.push_back({make_token(token, special), id});
    stated.insert(content(token));
  }
  std::map<std::string, std::vector<AddedToken>> known;
  auto add = [&](const json& value) {
    auto token = make_token(value, true);
    auto& same = known[token.content];
    if (stated.contains(token.content) || std::ranges::find(same, token) != same.end()) return;
    same.push_back(token);
    added.push_back({token, std::nullopt});
  };
  std::ranges::for_each(named, add);
  std::ranges::for_each(extra_tokens(config), add);
  return added;
}

int64_t model_max_length(const json& config, const std::string& where) {
  auto limit = config.value("model_max_length", config.value("max_len", json()));
  if (limit.is_null() || (limit.is_number() && limit.get<double>() > kMeansNoLimit)) return TokenizerConfig::kNoLimit;
  check(limit.is_number_integer() && limit >= 2 && limit <= kLongestLimit, ErrorKind::bad_file,
        "{}: model_max_length is {}; a whole number from 2 to {} was expected", where, limit.dump(), kLongestLimit);
  return limit;
}

// `config` may have "<what>_side"; tokenizer.json may have a direction.
void check_side(const json& config, const json& tokenizer, const std::string& what, const std::string& where) {
  auto settings = tokenizer.value(what, json());
  auto side = config.value(what + "_side", settings.is_object() ? settings.value("direction", "right") : "right");
  check(side == "right" || side == "Right", ErrorKind::unsupported, "{}: {}_side is {}; only right is supported", where,
        what, side);
}

// "" if the tokenizer does not use the token.
std::string required(const json& config, const json& defaults, const char* key, const std::string& where) {
  if (!defaults.contains(key)) return "";
  check(!config.at(key).is_null(), ErrorKind::bad_file, "{}: {} is null; a token was expected", where, key);
  return content(config.at(key));
}

}  // namespace

TokenizerConfig read_tokenizer_config(const path& folder, const json& tokenizer, const json& defaults) {
  auto file = folder / "tokenizer_config.json";
  auto where = file.string();
  auto config = defaults;
  config.update(read_optional_json(file));
  // special_tokens_map.json is an old format. As in the reference, it counts if the config does not list added tokens.
  if (!config.contains("added_tokens_decoder")) config.update(read_optional_json(folder / "special_tokens_map.json"));
  auto added = read_optional_json(folder / "added_tokens.json");

  return reading(folder, [&]() -> TokenizerConfig {
    check_side(config, tokenizer, "padding", where);
    check_side(config, tokenizer, "truncation", where);
    return {
        .bos_token = required(config, defaults, "bos_token", where),
        .eos_token = required(config, defaults, "eos_token", where),
        .pad_token = required(config, defaults, "pad_token", where),
        .unk_token = config.at("unk_token").is_null() ? std::nullopt : std::optional(content(config.at("unk_token"))),
        .added = additions(config, stated_tokens(config, added, tokenizer, where)),
        .model_max_length = model_max_length(config, where),
        .split_special_tokens = config.value("split_special_tokens", false),
        .clean_up_tokenization_spaces = config.value("clean_up_tokenization_spaces", false),
    };
  });
}

std::map<int64_t, AddedToken> number_added_tokens(const std::vector<TokenizerConfig::Addition>& additions,
                                                  const Vocabulary& vocabulary) {
  std::map<int64_t, AddedToken> by_id;
  std::map<std::string, int64_t> ids;
  for (const auto& [token, stated] : additions) {
    auto next = by_id.empty() ? vocabulary.size() : std::max(vocabulary.size(), by_id.rbegin()->first + 1);
    auto id = ids.try_emplace(token.content, vocabulary.id(token.content).value_or(next)).first->second;
    check(!stated || *stated == id, ErrorKind::bad_file,
          "{}: the added token `{}` gets the id {}, but the files beside it say {}", vocabulary.source(), token.content,
          id, stated.value_or(0));
    by_id.insert_or_assign(id, token);
  }
  return by_id;
}

}  // namespace lora
