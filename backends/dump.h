// Source text written out for people: every compile where MOEJIT_DUMP_DIR is set, else failed ones.
#pragma once

#include <string>

#include "generator/kernel_source.h"

namespace moejit::internal {

// True where MOEJIT_DUMP_DIR is set.
bool dump_requested();

// Writes source.text to `directory` (made if missing) under a name made of the source's name and
// digest; with "" to a private file in the directory for temporary files. Returns the path, or ""
// where it could not be written. Thread-safe.
std::string dump_source_to(const std::string& directory, const KernelSource& source);

// The same with MOEJIT_DUMP_DIR.
std::string dump_source(const KernelSource& source);

}  // namespace moejit::internal
