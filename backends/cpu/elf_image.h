// Compiled kernels as ELF shared objects: sealed, checked, and mapped without a file on disk.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

// Appends a trailer with a checksum. The dynamic loader trusts what it maps, so a flipped bit must
// be found before; a hash against malice is the cache's business.
void seal_image(std::vector<uint8_t>& bytes);

// Checks trailer, header, segments and dynamic section of a sealed image for what this loader
// accepts: x86-64 ET_DYN, no dependency, no initialiser, nothing outside the file. kDataError says
// what.
Status check_image(const std::vector<uint8_t>& bytes);

enum class MapVia : int32_t { kAuto = 0, kMemory = 1, kFile = 2 };

// A mapped image. Unmapped when the last owner lets go, so owners outlive every call into it.
class LoadedImage {
 public:
  // `name` is for debuggers only. kAuto maps a memfd, and a private temporary file where that does
  // not work. Thread-safe.
  static Result<std::shared_ptr<const LoadedImage>> load(const std::vector<uint8_t>& bytes,
                                                         const std::string& name,
                                                         MapVia via = MapVia::kAuto);
  ~LoadedImage();
  LoadedImage(const LoadedImage&) = delete;
  LoadedImage& operator=(const LoadedImage&) = delete;

  void* symbol(const char* name) const;  // null where there is none

 private:
  LoadedImage(void* handle, int fd) : handle_(handle), fd_(fd) {}
  void* handle_;
  // Open as long as the image is mapped: the loader knows libraries by path, and the path of a
  // reused descriptor number would name the previous one.
  int fd_;
};

}  // namespace moejit::internal
