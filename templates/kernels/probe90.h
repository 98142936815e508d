// `probe_read` of probe.h, and a `probe_dot90` that keeps wgmma busy from shared memory as the tile
// kernels do: two warpgroups, 64 x 256 each.
#pragma once

#include "kernels/probe.h"

MOEJIT_KERNEL(probe_dot90, 256, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  const u32 base = (shared_base() + 1023u) & ~1023u;  // A: 2 x 8 KiB, B: 32 KiB
  for (u32 i = thread_id(); i < 48 * 1024 / 4; i += 256) {
    const u32 v = (i + 1) * 0x9e3779b9u ^ (i << 13);
    sts_u32(base + i * 4, (v & 0x807f807fu) | (kIsBf16 ? 0x3f003f00u : 0x38003800u));
  }
  fence_proxy_async();
  block_sync();
  const u64 high =
      static_cast<u64>(1024u >> 4) << 32 | static_cast<u64>(1) << 62 | static_cast<u64>(1) << 16;
  const u64 da = high | (((base + (warp_id() >> 2) * 8192) & 0x3ffffu) >> 4);
  const u64 db = high | (((base + 16384) & 0x3ffffu) >> 4);
  f32 acc[128];
  MOEJIT_UNROLL
  for (int i = 0; i < 128; ++i) acc[i] = 0.0f;
  wgmma_hold(acc);
  MOEJIT_NO_UNROLL
  for (i64 n = 0; n < a.num_tokens; ++n) {
    wgmma_fence();
    MOEJIT_UNROLL
    for (int j = 0; j < 4; ++j) {
      if constexpr (kIsBf16) {
        wgmma_bf16<256, 0>(acc, da + j * 2u, db + j * 2u, true);
      } else {
        wgmma_f16<256, 0>(acc, da + j * 2u, db + j * 2u, true);
      }
    }
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  wgmma_hold(acc);
  f32 sum = 0.0f;
  MOEJIT_UNROLL
  for (int i = 0; i < 128; ++i) sum += acc[i];
  if (sum == 12345.678f) stg_f32(at(a.out, 0), sum);
}
