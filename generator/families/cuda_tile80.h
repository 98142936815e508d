// Families "cuda_tile80" (tensor cores by mma.sync, sm_80 and later; templates/kernels/tile80.h)
// and "cuda_fma" (f32 in full precision; templates/kernels/tile_fma.h): persistent tiles over a
// work list made on the device. Every layout of the weights.
#pragma once

#include "generator/family.h"

namespace moejit::internal {

const Family* cuda_tile80_family();
const Family* cuda_fma_family();

}  // namespace moejit::internal
