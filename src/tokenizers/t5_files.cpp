#include "tokenizers/t5_files.h"

#include <array>

#include "core/check.h"
#include "core/json_cursor.h"
#include "io/json_file.h"
#include "tokenizers/protobuf.h"
#include "tokenizers/tokenizer_files.h"

namespace lora {

using nlohmann::json;
using std::filesystem::path;

namespace {

// Tokens in the order of their ids.
struct Pieces {
  std::vector<VocabularyEntry> entries;
  std::vector<double> scores;

  void add(std::string_view token, double score) {
    entries.push_back({token, static_cast<int64_t>(entries.size())});
    scores.push_back(score);
  }
};

T5Files make(Pieces pieces, std::string charsmap, json rest, const std::string& source) {
  auto size = static_cast<int64_t>(pieces.scores.size());
  check(size > kT5Unknown, ErrorKind::bad_file, "{}: has {} tokens; at least {} were expected", source, size,
        kT5Unknown + 1);
  return {Vocabulary(std::move(pieces.entries), source), std::move(pieces.scores), std::move(charsmap),
          std::move(rest)};
}

// ---- tokenizer.json ----

std::string decode_base64(std::string_view text, const std::string& source) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t buffer = 0;
  int bits = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (char c : text) {
    auto digit = kDigits.find(c);
    check(digit != kDigits.npos, ErrorKind::bad_file, "{}: precompiled_charsmap is not in base 64", source);
    buffer = buffer << 6 | static_cast<uint32_t>(digit);
    if ((bits += 6) >= 8) bytes += static_cast<char>(buffer >> (bits -= 8));
  }
  return bytes;
}

// The reference takes only this from the file's normalizer. Everything else is T5's, whatever the file says.
std::string charsmap_of(const json& rest, const std::string& source) {
  auto normalizer = rest.value("normalizer", json());
  auto all = normalizer.is_object() && normalizer.value("type", "") == "Sequence" ? normalizer.at("normalizers")
                                                                                  : json::array({normalizer});
  for (const auto& one : all)
    if (one.is_object() && one.value("type", "") == "Precompiled")
      return decode_base64(one.at("precompiled_charsmap").get<std::string>(), source);
  return "";
}

void check_model(const json& model, const std::string& source) {
  auto type = model.value("type", "Unigram");
  check(type == "Unigram", ErrorKind::unsupported, "{}: the model is of type {}; T5's is Unigram", source, type);
  check(!model.value("byte_fallback", false), ErrorKind::unsupported, "{}: byte_fallback is true; T5's is false",
        source);
  auto unknown = model.value("unk_id", json(kT5Unknown));
  check(unknown == kT5Unknown, ErrorKind::unsupported, "{}: unk_id is {}; T5's is {}", source, unknown.dump(),
        kT5Unknown);
}

T5Files read_tokenizer_json(const path& file) {
  auto source = file.string();
  auto text = read_text(file);
  JsonCursor at(text, source);
  Pieces pieces;
  auto read_piece = [&] {
    std::string_view token;
    double score = 0;
    size_t values = 0;
    at.array([&] {
      if (values == 0) token = at.string();
      if (values == 1) score = at.number();
      check(++values <= 2, ErrorKind::bad_file, "{}: token {}: a text and its score were expected", source,
            pieces.scores.size());
    });
    check(values == 2, ErrorKind::bad_file, "{}: token {}: a text and its score were expected", source,
          pieces.scores.size());
    pieces.add(token, score);
  };
  auto [model, rest] = walk_tokenizer_json(at, [&](std::string_view part) {
    if (part != "vocab") return false;
    if (at.peek() == '[')
      at.array(read_piece);
    else
      at.raw();  // of another model; check_model() refuses its type
    return true;
  });
  check_model(model, source);
  auto charsmap = charsmap_of(rest, source);
  return make(std::move(pieces), std::move(charsmap), std::move(rest), source);
}

// ---- spiece.model ----

// The numbers in SentencePiece's schema, sentencepiece_model.proto.
namespace schema {
constexpr uint64_t kPieces = 1, kTrainer = 2, kNormalizer = 3;  // of a model
constexpr uint64_t kPiece = 1, kScore = 2, kType = 3;           // of a piece
constexpr uint64_t kUnknown = 2, kUserDefined = 4, kByte = 6;   // a piece's type
constexpr uint64_t kModelType = 3, kUnigram = 1;                // of the trainer
constexpr uint64_t kPrecompiledCharsmap = 2;                    // of the normaliser
}  // namespace schema

void add_piece(std::string_view message, Pieces& pieces, const std::string& source) {
  std::string_view token;
  float score = 0;
  uint64_t type = 1;
  Protobuf(message, source).fields([&](const Protobuf::Field& field) {
    if (field.number == schema::kPiece) token = field.bytes;
    if (field.number == schema::kScore) score = field.as_float();
    if (field.number == schema::kType) type = field.integer;
  });
  auto id = static_cast<int64_t>(pieces.scores.size());
  check((type == schema::kUnknown) == (id == kT5Unknown), ErrorKind::unsupported,
        "{}: `{}`, token {}, is of type {}; T5's unknown token is {}", source, token, id, type, kT5Unknown);
  check(type != schema::kUserDefined && type != schema::kByte, ErrorKind::unsupported,
        "{}: `{}`, token {}, is user-defined or a byte; T5 has no such tokens", source, token, id);
  pieces.add(token, score);
}

T5Files read_sentencepiece(const path& file, int64_t extra_ids) {
  auto source = file.string();
  auto bytes = read_text(file);
  Pieces pieces;
  std::string charsmap;
  Protobuf(bytes, source).fields([&](const Protobuf::Field& field) {
    if (field.number == schema::kPieces) add_piece(field.bytes, pieces, source);
    if (field.number == schema::kTrainer)
      Protobuf(field.bytes, source).fields([&](const Protobuf::Field& setting) {
        check(setting.number != schema::kModelType || setting.integer == schema::kUnigram, ErrorKind::unsupported,
              "{}: the model is of type {}; T5's is {}, Unigram", source, setting.integer, schema::kUnigram);
      });
    if (field.number == schema::kNormalizer)
      Protobuf(field.bytes, source).fields([&](const Protobuf::Field& setting) {
        if (setting.number == schema::kPrecompiledCharsmap) charsmap = setting.bytes;
      });
  });
  auto extra = t5_extra_tokens(extra_ids);
  for (auto token = extra.rbegin(); token != extra.rend(); ++token) pieces.add(*token, 0);
  return make(std::move(pieces), std::move(charsmap), json::object(), source);
}

}  // namespace

std::vector<std::string> t5_extra_tokens(int64_t count) {
  std::vector<std::string> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(fmt::format("<extra_id_{}>", i));
  return tokens;
}

T5Files read_t5_files(const path& folder, int64_t extra_ids) {
  std::error_code ignored;
  check(is_directory(folder, ignored), ErrorKind::not_found, "{}: no such folder; a tokenizer's folder was expected",
        folder.string());
  auto tokenizer = folder / "tokenizer.json", model = folder / "spiece.model";
  if (is_there(tokenizer)) return reading(tokenizer, [&] { return read_tokenizer_json(tokenizer); });
  check(is_there(model), ErrorKind::not_found,
        "{}: does not have a T5 tokenizer: tokenizer.json or spiece.model was expected", folder.string());
  return read_sentencepiece(model, extra_ids);
}

}  // namespace lora
