#pragma once
// One row of a list of LoRAs, and all rows of a folder.
#include <nlohmann/json.hpp>
#include <optional>

#include "files/folder_search.h"
#include "files/published_models.h"
#include "lora/lora_folder.h"

namespace lora {

// list_loras() for the files that the search found.
LoraList list_files(const std::filesystem::path& folder, const FolderSearch& search, const ListLorasOptions& options);

// What the content of a file tells: all but its name, size and time.
ListedLora read_row(const std::filesystem::path& file, PublishedModels& models);

// The same fields as JSON, for reports and for the cache. row_of() gives nothing for JSON that is no such row.
nlohmann::json row_json(const ListedLora& row);
std::optional<ListedLora> row_of(const nlohmann::json& json);

}  // namespace lora
