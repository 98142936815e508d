#include "base/dylib.h"

#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>

namespace moejit::internal {

std::string directory_of_code(const void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return {};
  // The main program's name is argv[0], which is no path when it was found through PATH.
  std::string name = info.dli_fname;
  if (name.find('/') == std::string::npos) name = "/proc/self/exe";
  char* real = realpath(name.c_str(), nullptr);
  if (real == nullptr) return {};
  std::string path = real;
  free(real);
  return path.substr(0, path.rfind('/'));
}

std::string loaded_library(const std::string& prefix) {
  struct Search {
    const std::string& prefix;
    std::string path;
  } found{prefix, {}};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        auto* search = static_cast<Search*>(data);
        const std::string path = info->dlpi_name != nullptr ? info->dlpi_name : "";
        const size_t slash = path.rfind('/');
        if (slash == std::string::npos) return 0;
        if (path.compare(slash + 1, search->prefix.size(), search->prefix) != 0) return 0;
        search->path = path;
        return 1;
      },
      &found);
  return found.path;
}

void keep_code_loaded(const void* address) {
  Dl_info info{};
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return;
  // Null for the main program, which cannot be unmapped anyway. The handle is given up on purpose.
  (void)dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
}

Result<Dylib> Dylib::open(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return Status(StatusCode::kUnavailable, why != nullptr ? why : path + " cannot be opened");
  }
  return Dylib(handle);
}

Result<Dylib> Dylib::open_first(const std::vector<std::string>& paths) {
  std::string why;
  for (const std::string& path : paths) {
    Result<Dylib> library = open(path);
    if (library.ok()) return library;
    why += (why.empty() ? "" : "; ") + library.status().message();
  }
  return Status(StatusCode::kUnavailable, why.empty() ? "no library named" : why);
}

void* Dylib::symbol(const char* name) const {
  return handle_ == nullptr ? nullptr : dlsym(handle_, name);
}

std::string Dylib::path() const {
  link_map* map = nullptr;
  if (handle_ == nullptr || dlinfo(handle_, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr)
    return {};
  return map->l_name;
}

}  // namespace moejit::internal
