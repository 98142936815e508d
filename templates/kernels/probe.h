// What a device can do at most: `probe_read` streams num_tokens bytes of x, whole pieces of 64 KiB,
// through all units kSched_passes times, so that its start and its end do not count; `probe_dot`
// runs num_tokens iterations of tensor-core (f32: FMA) products without memory.
#pragma once

#include "kernels/common.h"

namespace moe {
constexpr int kProbeThreads = 512;
constexpr int kProbeChains = 8;  // independent accumulators of a warp
constexpr int kProbeLoads = 8;   // of 16 bytes that a thread has under way
}  // namespace moe

MOEJIT_KERNEL(probe_read, moe::kProbeThreads, 2)(moejit_abi::MoeArgs a) {
  using namespace moe;
  const u64 policy = policy_evict_first();
  constexpr i64 kPiece = kProbeThreads * kProbeLoads * 16;
  const i64 pieces = a.num_tokens / kPiece;
  u32 sum = 0;
  i64 p = block_id();
  MOEJIT_NO_UNROLL
  for (i64 n = p; n < pieces * moejit_cfg::kSched_passes; n += block_count()) {
    while (p >= pieces) p -= pieces;
    const i64 from = p * kPiece + thread_id() * 16;
    u32x4 v[kProbeLoads];
    MOEJIT_UNROLL
    for (int i = 0; i < kProbeLoads; ++i)
      v[i] = ldg_stream(at(a.x, from + i * (kProbeThreads * 16)), policy);
    MOEJIT_UNROLL
    for (int i = 0; i < kProbeLoads; ++i) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
    p += block_count();
  }
  // Almost never, and the compiler cannot know it.
  if (sum == 0x9e3779b9u) stg_u32(at(a.out, 0), sum);
}

MOEJIT_KERNEL(probe_dot, moe::kProbeThreads, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  f32 acc[kProbeChains][4];
  u32 x[4], y[2];
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i) x[i] = (thread_id() + 1) * 0x9e3779b9u * (i + 3);
  // Exponents near one: finite sums, and bits that toggle as real data's do.
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i)
    x[i] = kIsF32 ? 0x3f000000u | (x[i] & 0x007fffffu) : (x[i] & 0x807f807fu) | 0x3f003f00u;
  y[0] = x[1] ^ 0x00110022u;
  y[1] = x[2] ^ 0x00330044u;
  MOEJIT_UNROLL
  for (int c = 0; c < kProbeChains; ++c) {
    MOEJIT_UNROLL
    for (int i = 0; i < 4; ++i) acc[c][i] = 0.0f;
  }
  MOEJIT_NO_UNROLL
  for (i64 n = 0; n < a.num_tokens; ++n) {
    MOEJIT_UNROLL
    for (int c = 0; c < kProbeChains; ++c) {
      if constexpr (kIsF32) {
        MOEJIT_UNROLL
        for (int i = 0; i < 4; ++i) acc[c][i] = fma_f32(as_f32(x[i]), as_f32(y[i & 1]), acc[c][i]);
      } else {
        mma(acc[c], x, y);
      }
    }
  }
  f32 sum = 0.0f;
  MOEJIT_UNROLL
  for (int c = 0; c < kProbeChains; ++c) sum += acc[c][0] + acc[c][1] + acc[c][2] + acc[c][3];
  if (sum == 12345.678f) stg_f32(at(a.out, 0), sum);
}
