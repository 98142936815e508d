// What a code object says about itself: its target and, of each kernel, the resources that it uses.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal::hip {

struct KernelFacts {
  std::string name;
  int vgprs = -1;  // vector registers of a lane, accumulators included
  int agprs = -1;  // of these, accumulators
  int sgprs = -1;
  int spills = 0;         // registers that went to memory, vector and scalar
  int scratch_bytes = 0;  // private memory of a lane
  int lds_bytes = 0;      // static
  int max_threads = 0;
};

struct CodeObject {
  std::string arch;  // "gfx942", without features
  std::vector<KernelFacts> kernels;
};

// Reads the AMDGPU metadata note (MessagePack). kDataError where the bytes are no code object, or
// end early. Every offset and length is checked.
Result<CodeObject> read_code_object(const std::vector<uint8_t>& bytes);

}  // namespace moejit::internal::hip
