#pragma once
// Text of unknown origin (names of files, keys, metadata, prompts, what a server said), made fit for where it goes.
#include <string>
#include <string_view>

namespace lora {

// One line for people, which can go to a terminal. The result is valid UTF-8. These become escapes:
// - a line break or a tab: \n, \r, \t
// - another control character: \x1b
// - a character that changes the order of a line, or that nobody sees: \u202e
// - a byte that is not UTF-8: \xe9
// All other text stays as it is, also a backslash. Therefore the result is for eyes: it cannot always be undone.
// Every message of lora::Error has this form.
std::string printable(std::string_view text);

// Valid UTF-8. Each byte that is not UTF-8 becomes an escape, \xe9. The JSON of reports and the texts in PNG files have
// this form.
std::string valid_utf8(std::string_view bytes);

}  // namespace lora
