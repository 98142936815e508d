// Target: what a kernel is generated for, as data. Filled by a backend's device (or by
// `target_from_arch` for compile-only use); the generator never asks a device.
#pragma once

#include <cstdint>
#include <string>

namespace moejit::internal {

enum class BackendKind : int32_t { kCpu = 0, kCuda = 1, kHip = 2, kSim = 3 };

struct Target {
  BackendKind backend = BackendKind::kCpu;
  // CPU: "x86-64-v3", "x86-64-v4", "x86-64-v4+bf16"; CUDA: "sm_90a"; HIP: "gfx942".
  // A simulated target carries the arch of what it simulates.
  std::string arch;
  int32_t num_units = 1;        // CPU: worker threads; GPU: SMs / CUs
  int64_t l1_bytes = 32 << 10;  // CPU: data cache of one core
  int64_t l2_bytes = 1 << 20;   // CPU: of one core; GPU: whole device
  int64_t l3_bytes = 0;         // CPU; of AMD GPUs, the Infinity Cache
  int64_t shared_bytes = 0;     // GPU: most shared memory of one block
  int64_t registers = 0;        // GPU: 32-bit registers of one unit

  bool operator==(const Target&) const = default;
};

}  // namespace moejit::internal
