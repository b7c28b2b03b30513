// NVIDIA's libraries, found when the program runs: it starts without them, and says what is
// missing.
#pragma once

#include <string>
#include <vector>

namespace orrery::cuda {

// Where a library is looked for, in order: the folders of ORRERY_CUDA_LIBRARIES (separated by
// colons), the system's own list, then the usual places of CUDA's packages.
std::vector<std::string> library_folders();

// A library that stays loaded. Error{unavailable} with the folders where it is not.
class Library {
 public:
  explicit Library(const std::string& file);  // "libnccl.so.2"
  // Error{unavailable} when the library has no such function.
  void* function(const char* name) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  void* handle_ = nullptr;
};

}  // namespace orrery::cuda
