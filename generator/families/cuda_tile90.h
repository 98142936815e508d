// Family "cuda_tile90": prefill on sm_90a (templates/kernels/tile90.h). TMA and gathered rows in a
// ring of stages, wgmma, one producer and one or two consumer warpgroups, persistent blocks.
#pragma once

#include "generator/family.h"

namespace moejit::internal {

const Family* cuda_tile90_family();

}  // namespace moejit::internal
