#include "backend/cuda/gpu/libraries.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <sstream>

#include "backend/core/error.hpp"

namespace orrery::cuda {

std::vector<std::string> library_folders() {
  std::vector<std::string> folders;
  if (const char* given = std::getenv("ORRERY_CUDA_LIBRARIES")) {
    std::istringstream in(given);
    for (std::string folder; std::getline(in, folder, ':');) folders.push_back(folder);
  }
  folders.emplace_back("");  // the system's list
  for (const char* usual :
       {"/usr/local/cuda/lib64", "/usr/local/cuda/lib", "/usr/local/cuda/extras/CUPTI/lib64",
        "/opt/cuda/lib64", "/usr/lib/x86_64-linux-gnu"})
    folders.emplace_back(usual);
  return folders;
}

Library::Library(const std::string& file) {
  std::string looked;
  for (const std::string& folder : library_folders()) {
    path_ = folder.empty() ? file : folder + "/" + file;
    handle_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) return;
    looked += (looked.empty() ? "" : ", ") + (folder.empty() ? "the system's list" : folder);
  }
  throw Error(Category::unavailable,
              file + " was not found; ORRERY_CUDA_LIBRARIES may name its folder")
      .with("looked in", looked);
}

void* Library::function(const char* name) const {
  void* found = dlsym(handle_, name);
  if (found == nullptr) throw Error(Category::unavailable, path_ + " has no function " + name);
  return found;
}

}  // namespace orrery::cuda
