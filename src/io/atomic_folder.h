#pragma once
// Writes a folder that is never visible in part.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace lora {

// What may be done to a folder that exists.
struct FolderRules {
  // Files that only such folders have, relative to the folder. An existing folder is replaced if it is empty or has one
  // of them. Any other folder is refused.
  std::vector<std::string> marks;
  // Whether an old file, which is not written again, goes away with the old folder: the other parts of a sharded file,
  // for example. The path is relative to the folder. It is asked only for files beside new files. All other files of
  // the old folder stay. Without a function, all of them stay.
  std::function<bool(const std::filesystem::path&)> replaces;
};

// Writes go to a temporary folder beside the folder. commit() syncs all files and folders, takes over the other files
// of the old folder as hard links, and exchanges the two folders in one step. So no reader sees a partial folder, and
// mappings of the old files stay intact. Without commit(), the destructor removes the temporary folder and leaves the
// old one unchanged. After a kill, the temporary folder stays. The next writer of the same folder removes it.
//
// On a file system that cannot exchange folders, commit() renames the old folder away and the new one to its place. A
// kill between these two calls leaves the old folder under the name `.NAME.….old`.
//
// A link is followed: its target is replaced. Every failure is Error{io} with the path and the system's reason.
class AtomicFolder {
 public:
  // Makes the temporary folder, and the folder's parents if needed. Throws Error{io} if the folder is a file, cannot be
  // written, contains a mounted file system, or is refused by the rules; also if it contains the current folder of this
  // process, which cannot be exchanged.
  AtomicFolder(const std::filesystem::path& folder, FolderRules rules);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  // The temporary folder. Write here.
  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path folder_, temporary_;
  FolderRules rules_;
  std::vector<std::filesystem::path> made_parents_;  // the outermost first
  int lock_ = -1;                                    // held while the temporary folder is in use

  bool replaces_old() const;
  void make_parents();
  void take_over(const std::filesystem::path& relative, bool beside_new) const;
  void swap();
  void remove_temporary();
};

}  // namespace lora
