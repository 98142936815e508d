#include "base/embedded.h"

namespace moejit::internal {

std::string_view embedded_file(std::string_view path) {
  for (size_t i = 0; i < kNumEmbeddedFiles; ++i) {
    if (kEmbeddedFiles[i].path == path) return kEmbeddedFiles[i].text;
  }
  return {};
}

}  // namespace moejit::internal
