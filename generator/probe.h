// Kernels that measure a device's rates, generated like any other.
#pragma once

#include <optional>

#include "generator/kernel_source.h"
#include "generator/target.h"
#include "moejit/config.h"

namespace moejit::internal {

// Two entries, each to be launched alone. `read` streams MoeArgs::x, num_tokens bytes of it,
// read_passes times through all units; on a GPU a multiple of 64 KiB. `dot` runs num_tokens
// iterations of register-only multiply-adds on every unit. Both write a few bytes to `out`, so that
// nothing is optimised away.
struct Probe {
  KernelSource read;
  KernelSource dot;
  int read_passes = 1;
  double dot_flops_per_iteration = 0;  // of all units together
  int64_t out_bytes = 0;               // that `out` must hold
};

// Nothing where the target has no probe (the simulator).
std::optional<Probe> emit_probe(const Target& target, DType dtype);

}  // namespace moejit::internal
