// What a damaged database still holds.
#pragma once

#include <cstdint>
#include <string>

#include "cache/db.h"

namespace moejit::internal {

struct RescueOptions {
  bool binaries = false;  // else only what stands for measuring: they are cheap to compile again
  double seconds = 2;     // then it is enough
};
// Copies every row that can be read from the file set aside as `path` into the new, empty database
// `to`, in transactions of its own. Rows whose parents are lost are left out. Returns the number of
// rows; the error of `to` is taken.
int64_t rescue_rows(const std::string& path, Db& to, const RescueOptions& options);

}  // namespace moejit::internal
