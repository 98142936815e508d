// Entry `moe_combine` of families that keep one f32 partial result of each slot.
#pragma once

#include "kernels/combine_parts.h"

MOEJIT_KERNEL(moe_combine, moe::kCombineThreads, 1)(moejit_abi::MoeArgs a) {
  moe::combine<1, false>(a);
}
