// What the machine with the simulator hands to the machine with the GPU: compiled cases and the
// simulator's results.
#pragma once

#include <string>
#include <vector>

#include "backends/backend.h"

namespace moejit_conformance {

struct Expected {
  std::string name;
  moejit::internal::Binary binary;  // of the CUDA target; empty bytes where there was no NVRTC
  std::vector<uint32_t> out;
};

moejit::Status write_archive(const std::string& path, const std::vector<Expected>& items);
moejit::Result<std::vector<Expected>> read_archive(const std::string& path);

}  // namespace moejit_conformance
