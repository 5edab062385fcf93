#pragma once
// Ranges of numbers in texts.
#include <optional>
#include <string>
#include <vector>

namespace lora::cli {

// The numbers of a range: `A-B`, `A-B:STEP` or `A-B [COUNT]`. B may be the smaller end. nullopt for another text.
// Throws Error{usage} that begins with `label` for a step or a count that makes no sense, and for more than `most`
// numbers.
std::optional<std::vector<std::string>> numbers_of_range(const std::string& label, const std::string& text,
                                                         size_t most);

}  // namespace lora::cli
