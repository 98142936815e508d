// Prefill on sm_90a: entries `moe_tile90_gate_up` and `moe_tile90_down`. One producer warpgroup
// brings weights with TMA and gathers rows with 16-byte asynchronous copies into a ring of stages;
// kSched_tile_m / 64 consumer warpgroups multiply with wgmma, 64 rows each. Blocks are persistent.
#pragma once

#include "kernels/combine.h"
#include "kernels/route.h"
#include "kernels/tile_epilogue.h"

namespace moe {

constexpr int kBm = kSched_tile_m;
constexpr int kBn = kSched_tile_n;  // columns of a product: half gate and half up, in gate+up
constexpr int kConsumers = kBm / 64;
constexpr int kThreads90 = 128 * (1 + kConsumers);
constexpr int kStages90 = kSched_stages;
constexpr int kStageBytesA = kBm * 128;
constexpr int kStageBytesB = kBn * 128;
constexpr int kStageBytes90 = kStageBytesA + kStageBytesB;
constexpr int kHalfN = kBn / 2;
constexpr int kGroupN = kTransposed ? 64 : kHalfN;  // columns of one TMA box
constexpr int kHColumns = kGated ? kHalfN : kBn;    // columns of h of a tile
constexpr int kGateTiles90 = ceil_div(kIntermediateSize, kHColumns);
constexpr int kDownTiles90 = ceil_div(kHiddenSize, kBn);
// With one consumer warpgroup every thread may have 255 registers anyway.
constexpr bool kMovesRegisters = kConsumers > 1;

struct Shared90 {
  u32 ring, full, empty;
};
MOEJIT_DEVICE Shared90 shared90() {
  Shared90 s;
  s.ring = (shared_base() + 1023u) & ~1023u;
  s.full = s.ring + kStages90 * kStageBytes90;
  s.empty = s.full + kStages90 * 8;
  return s;
}

struct Ring {
  u32 stage = 0, phase = 0;
  MOEJIT_DEVICE void next() {
    if (++stage == kStages90) {
      stage = 0;
      phase ^= 1u;
    }
  }
};

// 128B-swizzled operand at `address`: K-major, or for transposed weights 64-column groups of 64 rows.
MOEJIT_DEVICE u64 descriptor(u32 address, bool mn_major) {
  const u64 leading = mn_major ? 8192u >> 4 : 1u;
  return static_cast<u64>((address & 0x3ffffu) >> 4) | leading << 16 | static_cast<u64>(1024u >> 4) << 32 |
         static_cast<u64>(1) << 62;
}

// Row (column, where transposed) of the weights where group g of column tile n begins.
template <bool kGateUp>
MOEJIT_DEVICE int group_row(int n, int g) {
  if constexpr (!kGateUp) return n * kBn + g * kGroupN;
  if constexpr (!kPaired) return n * kBn + g * kGroupN;
  constexpr int kPerHalf = kHalfN / kGroupN;
  const int i = n * kHalfN + (g % kPerHalf) * kGroupN;
  return g < kPerHalf ? gate_row(i) : up_row(i);
}

template <bool kGateUp>
MOEJIT_DEVICE void produce(const MoeArgs& a, const TensorMap* map, const Shared90& s) {
  constexpr int kDepth = kGateUp ? kHiddenSize : kIntermediateSize;
  constexpr int kPieces = kDepth / 8;
  constexpr int kBlocksK = ceil_div(kDepth, 64);
  constexpr int kTiles = kGateUp ? kGateTiles90 : kDownTiles90;
  constexpr int kCopies = kBm / 16;  // 16-byte pieces of a stage that one thread copies
  const u32 thread = thread_id();    // 0..127
  const u32 column = thread & 7u;
  const u32 row = thread >> 3;       // and every 16th after it
  const u32 to = row * 128 + ((column ^ (row & 7u)) << 4);
  const u64 policy = policy_evict_normal();
  const u8* source = kGateUp ? static_cast<const u8*>(a.x) : region(a, kRegion_h);
  const i32* rows = plan_rows(a);
  const int items = ldg_i32(plan_counts(a)) * kTiles;
  Ring ring;
  for (int item = static_cast<int>(block_id()); item < items; item += static_cast<int>(block_count())) {
    const Tile tile = locate_tile(a, item, kTiles);
    const u8* from[kCopies];
    MOEJIT_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      const int r = static_cast<int>(row) + i * 16;
      i64 line = tile.first_row + r;
      if (kGateUp && r < tile.rows) line = ldg_i32(rows + line) / kSlots;
      from[i] = r < tile.rows ? source + line * (kDepth * 2) + column * 16 : nullptr;
    }
    MOEJIT_NO_UNROLL
    for (int k = 0; k < kBlocksK; ++k) {
      const u32 full = s.full + ring.stage * 8;
      const u32 stage = s.ring + ring.stage * kStageBytes90;
      mbar_wait(s.empty + ring.stage * 8, ring.phase ^ 1u);
      if (thread == 0) {
        mbar_arrive_expect_tx(full, kStageBytesB);
        MOEJIT_UNROLL
        for (int g = 0; g < kBn / kGroupN; ++g) {
          const i32 at_row = group_row<kGateUp>(tile.n, g);
          const u32 b = stage + kStageBytesA + g * kGroupN * 128;
          tma_load_3d(b, map, kTransposed ? at_row : k * 64, kTransposed ? k * 64 : at_row, tile.expert, full, policy);
        }
      }
      const bool inside = k * 8 + static_cast<int>(column) < kPieces;
      MOEJIT_UNROLL
      for (int i = 0; i < kCopies; ++i) {
        const bool valid = inside && from[i] != nullptr;
        cp_async16(stage + to + i * 2048, valid ? from[i] + k * 128 : source, valid);
      }
      cp_async_arrive_noinc(full);
      ring.next();
    }
  }
}

// One tile's product. `warpgroup` 0.. takes rows 64 * warpgroup.
template <int kBlocksK>
MOEJIT_DEVICE void multiply_tile(const Shared90& s, u32 warpgroup, Ring& ring, f32 (&acc)[kBn / 2]) {
  const bool signals = (thread_id() & 31u) == 0;
  u32 previous = 0;
  wgmma_hold(acc);
  MOEJIT_NO_UNROLL
  for (int k = 0; k < kBlocksK; ++k) {
    mbar_wait(s.full + ring.stage * 8, ring.phase);
    fence_proxy_async();  // the gathered rows were written by ordinary copies
    const u32 stage = s.ring + ring.stage * kStageBytes90;
    const u64 da = descriptor(stage + warpgroup * 8192, false);
    const u64 db = descriptor(stage + kStageBytesA, kTransposed);
    wgmma_fence();
    MOEJIT_UNROLL
    for (int j = 0; j < 4; ++j) {
      const u64 step_b = kTransposed ? 128u : 2u;  // 16 rows of 128 bytes, or 32 bytes
      if constexpr (kIsBf16) {
        wgmma_bf16<kBn, kTransposed ? 1 : 0>(acc, da + j * 2u, db + j * step_b, k > 0 || j > 0);
      } else {
        wgmma_f16<kBn, kTransposed ? 1 : 0>(acc, da + j * 2u, db + j * step_b, k > 0 || j > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (k > 0 && signals) mbar_arrive(s.empty + previous * 8);
    previous = ring.stage;
    ring.next();
  }
  wgmma_wait<0>();
  wgmma_hold(acc);
  if (signals) mbar_arrive(s.empty + previous * 8);
}

template <bool kGateUp>
MOEJIT_DEVICE void finish_tile(const MoeArgs& a, const Tile& tile, u32 warpgroup, const f32 (&acc)[kBn / 2]) {
  const int row0 = static_cast<int>(warpgroup * 64 + (warp_id() & 3u) * 16 + (lane_id() >> 2));
  MOEJIT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int r = row0 + half * 8;
    if (r >= tile.rows) continue;
    if constexpr (kGateUp) {
      constexpr int kFragments = (kPaired ? kHalfN : kBn) / 8;
      finish_gate_up_row<kFragments>(a, tile, r, tile.n * (kPaired ? kHalfN : kBn), [&](int j, int c, bool up) {
        return acc[(j + (up ? kHalfN / 8 : 0)) * 4 + half * 2 + c];
      });
    } else {
      finish_down_row<kBn / 8>(a, tile, r, tile.n * kBn, [&](int j, int c) { return acc[j * 4 + half * 2 + c]; });
    }
  }
}

template <bool kGateUp>
MOEJIT_DEVICE void tile90(const MoeArgs& a, const TensorMap* map) {
  constexpr int kTiles = kGateUp ? kGateTiles90 : kDownTiles90;
  constexpr int kBlocksK = ceil_div(kGateUp ? kHiddenSize : kIntermediateSize, 64);
  const Shared90 s = shared90();
  if (thread_id() == 0) {
    tma_prefetch_map(map);
    for (int i = 0; i < kStages90; ++i) {
      mbar_init(s.full + i * 8, 1 + 128);
      mbar_init(s.empty + i * 8, kConsumers * 4);
    }
    fence_mbar_init();
  }
  block_sync();
  grid_wait();
  grid_launch_dependents();
  const u32 warpgroup = shfl_u32(warp_id() >> 2, 0);  // from one lane: the compiler sees it uniform
  if (warpgroup == 0) {
    if constexpr (kMovesRegisters) reg_dec<56>();
    produce<kGateUp>(a, map, s);
  } else {
    if constexpr (kMovesRegisters) reg_inc<224>();
    const int items = ldg_i32(plan_counts(a)) * kTiles;
    Ring ring;
    for (int item = static_cast<int>(block_id()); item < items; item += static_cast<int>(block_count())) {
      const Tile tile = locate_tile(a, item, kTiles);
      f32 acc[kBn / 2];
      multiply_tile<kBlocksK>(s, warpgroup - 1, ring, acc);
      finish_tile<kGateUp>(a, tile, warpgroup - 1, acc);
    }
  }
}

}  // namespace moe

MOEJIT_KERNEL_MAPS(moe_tile90_gate_up, moe::kThreads90, 1)
(MOEJIT_PARAM moejit_abi::MoeArgs a, MOEJIT_PARAM dev::TensorMaps maps) {
  moe::tile90<true>(a, &maps.map[0]);
}

MOEJIT_KERNEL_MAPS(moe_tile90_down, moe::kThreads90, 1)
(MOEJIT_PARAM moejit_abi::MoeArgs a, MOEJIT_PARAM dev::TensorMaps maps) {
  moe::tile90<false>(a, &maps.map[1]);
}
