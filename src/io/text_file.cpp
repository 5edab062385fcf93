#include "lora/text_file.h"

#include "core/edge.h"
#include "io/json_file.h"

namespace lora {

void write_text_file(const std::filesystem::path& file, std::string_view text) {
  edge([&] { write_text(file, text); });
}

}  // namespace lora
