// Family "cpu_moe": the layer on a CPU (templates/cpu/). Weight rows are used in place as one
// operand of dot products whose lanes run along K, in register tiles of 4 rows by up to 6 tokens;
// the down product accumulates per block of output columns, so results do not depend on the number
// of workers. Packed weights (moejit/pack.h) have templates of their own, in which a lane is a row.
// One object serves every token count.
#pragma once

#include "generator/family.h"

namespace moejit::internal {

const Family* cpu_moe_family();

// What templates/cpu/simd.h derives from target and dtype.
struct CpuVectors {
  int64_t lanes = 8;        // f32 of one vector
  bool native_dot = false;  // bf16 dot products
};
CpuVectors cpu_vectors(const MoeConfig& config, const Target& target);

}  // namespace moejit::internal
