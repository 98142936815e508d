// What an AMD device can do at most: `probe_read` streams num_tokens bytes of x through all units,
// `probe_dot` runs num_tokens iterations of matrix-core products without memory.
#pragma once

#include "kernels/common.h"

namespace moe {
constexpr int kProbeThreads = 512;
constexpr int kProbeChains = 4;  // independent accumulators of a wave

// One product of the largest matrix instruction, of operands without a meaning.
#if MOEJIT_WAVE == 64
using ProbeAcc = facc16;
MOEJIT_DEVICE void probe_product(ProbeAcc& d, const u32 (&x)[4]) {
  if constexpr (kIsF32) {
    mfma32_f32(d, as_f32(x[0]), as_f32(x[1]));
  } else if constexpr (kIsBf16) {
    mfma32_bf16(d, {x[0], x[1]}, {x[2], x[3]});
  } else {
    mfma32_f16(d, {x[0], x[1]}, {x[2], x[3]});
  }
}
#else
using ProbeAcc = facc8;
MOEJIT_DEVICE void probe_product(ProbeAcc& d, const u32 (&x)[4]) {
  const u32x4 a = {x[0], x[1], x[2], x[3]}, b = {x[3], x[0], x[1], x[2]};
  if constexpr (kIsF32) {
    wmma16_f32(d, a, b, b, a);
  } else if constexpr (kIsBf16) {
    wmma16_bf16(d, a, b, b, a);
  } else {
    wmma16_f16(d, a, b, b, a);
  }
}
#endif
constexpr int kProbeAcc = sizeof(ProbeAcc) / 4;
}  // namespace moe

MOEJIT_KERNEL(probe_read, moe::kProbeThreads, 2)(moejit_abi::MoeArgs a) {
  using namespace moe;
  const i64 pieces = a.num_tokens / 16;
  const i64 stride = static_cast<i64>(block_count()) * kProbeThreads;
  u32 sum = 0;
  i64 p = static_cast<i64>(block_id()) * kProbeThreads + thread_id();
  for (; p + 7 * stride < pieces; p += 8 * stride) {
    u32x4 v[8];
    MOEJIT_UNROLL
    for (int i = 0; i < 8; ++i) v[i] = ldg_stream(at(a.x, (p + i * stride) * 16), 0);
    MOEJIT_UNROLL
    for (int i = 0; i < 8; ++i) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  for (; p < pieces; p += stride) {
    const u32x4 v = ldg_stream(at(a.x, p * 16), 0);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  // Almost never, and the compiler cannot know it.
  if (sum == 0x9e3779b9u) stg_u32(at(a.out, 0), sum);
}

MOEJIT_KERNEL(probe_dot, moe::kProbeThreads, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  ProbeAcc acc[kProbeChains];
  u32 x[4];
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i) x[i] = (thread_id() + 1) * 0x9e3779b9u * (i + 3);
  // Exponents near one: finite sums, and bits that toggle as real data's do.
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i)
    x[i] = kIsF32 ? 0x3f000000u | (x[i] & 0x007fffffu) : (x[i] & 0x807f807fu) | 0x3f003f00u;
  MOEJIT_UNROLL
  for (int c = 0; c < kProbeChains; ++c) {
    MOEJIT_UNROLL
    for (int i = 0; i < kProbeAcc; ++i) acc[c][i] = 0.0f;
  }
  MOEJIT_NO_UNROLL
  for (i64 n = 0; n < a.num_tokens; ++n) {
    MOEJIT_UNROLL
    for (int c = 0; c < kProbeChains; ++c) probe_product(acc[c], x);
  }
  f32 sum = 0.0f;
  MOEJIT_UNROLL
  for (int c = 0; c < kProbeChains; ++c) {
    MOEJIT_UNROLL
    for (int i = 0; i < kProbeAcc; ++i) sum += acc[c][i];
  }
  if (sum == 12345.678f) stg_f32(at(a.out, 0), sum);
}
