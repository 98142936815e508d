// Shared libraries opened at run time.
#pragma once

#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

// Directory of the shared library or executable that holds `address`, symbolic links resolved;
// "" where that cannot be told.
std::string directory_of_code(const void* address);

// Path of a library of this process whose file name begins with `prefix`, as the loader has it; ""
// where there is none.
std::string loaded_library(const std::string& prefix);

// The library that holds `address` stays mapped until the process ends, whatever dlclose says: for
// code that runs on threads of its own.
void keep_code_loaded(const void* address);

// An open library. It stays mapped for the life of the process: compilers and drivers start threads
// and handlers that do not survive being unmapped. Copyable, thread-safe.
class Dylib {
 public:
  Dylib() = default;

  // RTLD_NOW | RTLD_LOCAL. kUnavailable with the loader's own words.
  static Result<Dylib> open(const std::string& path);
  // The first that opens, in order; else kUnavailable with the words about each.
  static Result<Dylib> open_first(const std::vector<std::string>& paths);

  explicit operator bool() const { return handle_ != nullptr; }
  // Null where there is no such symbol.
  void* symbol(const char* name) const;
  template <typename Function>
  bool find(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(symbol(name));
    return function != nullptr;
  }
  // Where the loader found it.
  std::string path() const;

 private:
  explicit Dylib(void* handle) : handle_(handle) {}
  void* handle_ = nullptr;
};

}  // namespace moejit::internal
