#pragma once
// Names of repositories, revisions and files: which are valid, and how addresses contain them.
#include <string>
#include <string_view>

namespace lora {

// Throws Error{usage} unless the id is "name" or "owner/name" of letters, digits, "-", "_" and ".".
void check_repo_id(const std::string& repo_id);
// Throws Error{usage} if the revision is empty or leads out of the folder of refs.
void check_revision(const std::string& revision);
// Throws Error{bad_file} for names that lead out of a folder on any system (absolute names, "..", drives), and for
// names that no file system accepts. `label` begins the message.
void check_file_name(const std::string& name, const std::string& label);

bool is_commit(std::string_view revision);  // 40 hexadecimal digits
bool is_sha256(std::string_view etag);      // 64 hexadecimal digits
bool is_sha1(std::string_view etag);        // 40 hexadecimal digits: a blob's name in git

// Writes each byte as %XX, except letters, digits, "-._~" and the characters in `kept`.
std::string url_quoted(std::string_view text, std::string_view kept = "/");

}  // namespace lora
