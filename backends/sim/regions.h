// The memory that one launch may touch, from its arguments.
#pragma once

#include <vector>

#include "backends/backend.h"
#include "backends/sim/engine.h"

namespace moejit::internal::sim {

// Bytes of tensor `which` (Tensor) for a launch of `tokens` tokens, or -1 where it does not know.
// Exported by kernels of the layer: templates/device/sim/extents.h.
using ExtentFunction = long long (*)(int which, long long tokens, int logits_dtype);

// Where the kernel gives no extent, a tensor reaches to the end of its allocation; kInvalidArgument
// for a pointer of which neither is known.
Result<std::vector<Region>> make_regions(const MoeArgs& args, const KernelSource& source,
                                         ExtentFunction extent);

// Fills everything that the launch must write, and the workspace, with NaN, and forgets all
// accesses.
void poison(std::vector<Region>& regions);

// The tensors that the caller gets: what two runs must agree on.
std::vector<std::vector<char>> save_results(const std::vector<Region>& regions);

}  // namespace moejit::internal::sim
