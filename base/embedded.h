// Files of templates/ and data/ as the build embedded them.
#pragma once

#include <cstddef>
#include <string_view>

namespace moejit::internal {

struct EmbeddedFile {
  std::string_view path;  // "templates/abi.h"
  std::string_view text;
};

extern const EmbeddedFile kEmbeddedFiles[];
extern const size_t kNumEmbeddedFiles;

// Null text data() where there is no such file.
std::string_view embedded_file(std::string_view path);

}  // namespace moejit::internal
