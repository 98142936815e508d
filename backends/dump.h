// Source text written out for people: every compile where MOEJIT_DUMP_DIR is set, else failed ones.
#pragma once

#include <string>

#include "generator/kernel_source.h"

namespace moejit::internal {

// True where MOEJIT_DUMP_DIR names a directory.
bool dump_requested();

// Writes source.text to MOEJIT_DUMP_DIR (made if missing), else to a private file in the directory for
// temporary files. Returns its path, or "" where it could not be written. Thread-safe.
std::string dump_source(const KernelSource& source);

}  // namespace moejit::internal
