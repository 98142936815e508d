// Family "cuda_stream": decode on NVIDIA GPUs from sm_80 on (templates/kernels/stream.h). Tensor
// cores with the weights as the 16-row operand; every warp streams its share of the reduction
// through a ring of its own; two launches after routing.
#pragma once

#include "generator/family.h"

namespace moejit::internal {

const Family* cuda_stream_family();

}  // namespace moejit::internal
