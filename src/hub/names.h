#pragma once
// Repositories, revisions and files by name: what is allowed, and how it is written in addresses.
#include <string>
#include <string_view>

namespace lora {

// Throws Error{usage} for what the Hub has no repository of: "name" or "owner/name" of letters, digits, "-", "_", ".".
void check_repo_id(const std::string& repo_id);
// Throws Error{usage} for an empty revision, or one that leads out of the folder of refs.
void check_revision(const std::string& revision);
// Throws Error{bad_file} for names that lead out of a folder, on any system: absolute, with "..", with drives,
// or that no file system takes.
void check_file_name(const std::string& name, const std::string& label);

bool is_commit(std::string_view revision);  // 40 hexadecimal digits
bool is_sha256(std::string_view etag);      // 64
bool is_sha1(std::string_view etag);        // 40: a blob's name in git

// With all but letters, digits and "-._~" as %XX; slashes stay where they are `kept`.
std::string url_quoted(std::string_view text, std::string_view kept = "/");

}  // namespace lora
