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
  u32 ring, staged, full, empty;
};
MOEJIT_DEVICE Shared90 shared90() {
  Shared90 s;
  s.ring = (shared_base() + 1023u) & ~1023u;
  s.staged = s.ring + kStages90 * kStageBytes90;  // 2 KiB of each consumer warp
  s.full = s.staged + kConsumers * 4 * 2048;
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

// 128B-swizzled operand at `address`: K-major, or for transposed weights 64-column groups of 64
// rows.
MOEJIT_DEVICE u64 descriptor(u32 address, bool mn_major) {
  const u64 leading = mn_major ? 8192u >> 4 : 1u;
  return static_cast<u64>((address & 0x3ffffu) >> 4) | leading << 16 |
         static_cast<u64>(1024u >> 4) << 32 | static_cast<u64>(1) << 62;
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

// The weights of stage `k` of a tile; one thread.
template <bool kGateUp>
MOEJIT_DEVICE void load_weights(const TensorMap* map, const Tile& tile, int k, u32 stage, u32 full,
                                u64 policy) {
  mbar_arrive_expect_tx(full, kStageBytesB);
  MOEJIT_UNROLL
  for (int g = 0; g < kBn / kGroupN; ++g) {
    const i32 at_row = group_row<kGateUp>(tile.n, g);
    const u32 b = stage + kStageBytesA + g * kGroupN * 128;
    tma_load_3d(b, map, kTransposed ? at_row : k * 64, kTransposed ? k * 64 : at_row, tile.expert,
                full, policy);
  }
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
  const u32 row = thread >> 3;  // and every 16th after it
  const u32 to = row * 128 + ((column ^ (row & 7u)) << 4);
  const u8* source = kGateUp ? static_cast<const u8*>(a.x) : region(a, kRegion_h);
  const i32* rows = plan_rows(a);
  const int items = ldg_i32(plan_counts(a)) * kTiles;
  const u64 once = policy_evict_first(), again = policy_evict_normal();
  int ahead = 0;  // stages of the first tile whose weights are under way
  if constexpr (!kGateUp) {
    // The work list is complete (the entry before waited for it); only h is not. Weights go first.
    if (static_cast<int>(block_id()) < items) {
      const Tile tile = locate_tile(a, static_cast<int>(block_id()), kTiles);
      ahead = min_of(kStages90, kBlocksK);
      for (int k = 0; k < ahead && thread == 0; ++k) {
        load_weights<kGateUp>(map, tile, k, s.ring + k * kStageBytes90, s.full + k * 8,
                              tile.single ? once : again);
      }
    }
    grid_wait();
  }
  Ring ring;
  for (int item = static_cast<int>(block_id()); item < items;
       item += static_cast<int>(block_count())) {
    const Tile tile = locate_tile(a, item, kTiles);
    const u64 policy = tile.single ? once : again;
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
      const u32 stage = s.ring + ring.stage * kStageBytes90;
      const u32 full = s.full + ring.stage * 8;
      mbar_wait(s.empty + ring.stage * 8, ring.phase ^ 1u);
      if (thread == 0 && k >= ahead) load_weights<kGateUp>(map, tile, k, stage, full, policy);
      const bool inside = k * 8 + static_cast<int>(column) < kPieces;
      MOEJIT_UNROLL
      for (int i = 0; i < kCopies; ++i) {
        const bool valid = inside && from[i] != nullptr;
        cp_async16(stage + to + i * 2048, valid ? from[i] + k * 128 : source, valid);
      }
      cp_async_arrive_noinc(full);
      ring.next();
    }
    ahead = 0;
  }
}

// One tile's product. `warpgroup` 0.. takes rows 64 * warpgroup.
template <int kBlocksK>
MOEJIT_DEVICE void multiply_tile(const Shared90& s, u32 warpgroup, Ring& ring,
                                 f32 (&acc)[kBn / 2]) {
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

// A warp's 16 rows by 128 bytes pass through shared memory, so that a store writes whole 128-byte
// lines of four rows instead of scattered words of eight. Piece p of row r lies at
// r * 128 + ((p ^ r % 8) * 16): no bank conflict either way.
constexpr int kStagedBytes = 16 * 128;

// write(row, piece, value) for the 128 bytes of each row; warp-collective.
template <typename Write>
MOEJIT_DEVICE void drain_rows(u32 staged, Write write) {
  warp_sync();
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const u32 r = i * 4 + (lane_id() >> 3);
    const u32 p = lane_id() & 7u;
    write(i, static_cast<int>(p), lds_u32x4(staged + r * 128 + ((p ^ (r & 7u)) << 4)));
  }
  warp_sync();
}

// `staged`: kStagedBytes of this warp. Rows of the warp begin at row `first` of the tile.
MOEJIT_DEVICE void finish_gate_up(const MoeArgs& a, const Tile& tile, int first, u32 staged,
                                  const f32 (&acc)[kBn / 2]) {
  const u32 lane = lane_id();
  if constexpr (kGated && kInterleaved) {
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = first + half * 8 + static_cast<int>(lane >> 2);
      if (r >= tile.rows) continue;
      finish_gate_up_row<kBn / 8>(a, tile, r, tile.n * kBn,
                                  [&](int j, int c, bool) { return acc[j * 4 + half * 2 + c]; });
    }
  } else {
    f32 weight[2] = {1.0f, 1.0f};
    if constexpr (kWeightOnInput) {
      MOEJIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int r = first + half * 8 + static_cast<int>(lane >> 2);
        if (r < tile.rows)
          weight[half] = slot_weight(a, ldg_i32(plan_rows(a) + tile.first_row + r));
      }
    }
    u8* h = region(a, kRegion_h);
    MOEJIT_UNROLL
    for (int slice = 0; slice < kHColumns / 64; ++slice) {
      const int column = tile.n * kHColumns + slice * 64;
      MOEJIT_UNROLL
      for (int half = 0; half < 2; ++half) {
        const u32 r = half * 8 + (lane >> 2);
        MOEJIT_UNROLL
        for (int f = 0; f < 8; ++f) {
          const int i = column + f * 8 + static_cast<int>(lane & 3u) * 2;
          f32 v[2] = {0.0f, 0.0f};
          MOEJIT_UNROLL
          for (int c = 0; c < 2; ++c) {
            const int j = (slice * 8 + f) * 4 + half * 2 + c;
            if (!kBias || i < kIntermediateSize) {
              v[c] = h_value(a, tile, i + c, weight[half], acc[j],
                             kGated ? acc[(kGated ? kHalfN / 2 : 0) + j] : 0.0f);
            }
          }
          sts_u32(staged + r * 128 + ((static_cast<u32>(f) ^ (r & 7u)) << 4) + (lane & 3u) * 4,
                  pack2(v[0], v[1]));
        }
      }
      drain_rows(staged, [&](int i, int p, u32x4 v) {
        const int r = first + i * 4 + static_cast<int>(lane >> 3);
        if (r < tile.rows && column + p * 8 < kIntermediateSize) {
          stg_u32x4(
              h + (static_cast<i64>(tile.first_row + r) * kIntermediateSize + column + p * 8) * 2,
              v);
        }
      });
    }
  }
}

MOEJIT_DEVICE void finish_down(const MoeArgs& a, const Tile& tile, int first, u32 staged,
                               const f32 (&acc)[kBn / 2]) {
  const u32 lane = lane_id();
  f32 weight[2] = {1.0f, 1.0f};  // of the rows that this lane holds
  if constexpr (!kWeightOnInput) {
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = first + half * 8 + static_cast<int>(lane >> 2);
      if (r < tile.rows) weight[half] = slot_weight(a, ldg_i32(plan_rows(a) + tile.first_row + r));
    }
  }
  u8* line[4];  // of the rows that this lane stores
  MOEJIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int r = first + i * 4 + static_cast<int>(lane >> 3);
    line[i] = nullptr;
    if (r < tile.rows) {
      line[i] = region(a, kRegion_y) +
                static_cast<i64>(ldg_i32(plan_rows(a) + tile.first_row + r)) * kHiddenSize * 4;
    }
  }
  MOEJIT_UNROLL
  for (int slice = 0; slice < kBn / 32; ++slice) {
    const int column = tile.n * kBn + slice * 32;
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const u32 r = half * 8 + (lane >> 2);
      MOEJIT_UNROLL
      for (int f = 0; f < 4; ++f) {
        const int n = column + f * 8 + static_cast<int>(lane & 3u) * 2;
        f32x2 v = {acc[(slice * 4 + f) * 4 + half * 2], acc[(slice * 4 + f) * 4 + half * 2 + 1]};
        if constexpr (kBias) {
          if (n < kHiddenSize) {
            v.x += load_element(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + n);
            v.y += load_element(a.b2, static_cast<i64>(tile.expert) * kHiddenSize + n + 1);
          }
        }
        const u32 piece = f * 2 + ((lane & 3u) >> 1);
        sts_f32x2(staged + r * 128 + ((piece ^ (r & 7u)) << 4) + (lane & 1u) * 8,
                  {v.x * weight[half], v.y * weight[half]});
      }
    }
    drain_rows(staged, [&](int i, int p, u32x4 v) {
      if (line[i] != nullptr && column + p * 4 < kHiddenSize)
        stg_u32x4(line[i] + (column + p * 4) * 4, v);
    });
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
  if constexpr (kGateUp) grid_wait();  // down waits in its producer
  grid_launch_dependents();
  const u32 warpgroup = shfl_u32(warp_id() >> 2, 0);  // from one lane: the compiler sees it uniform
  if (warpgroup == 0) {
    if constexpr (kMovesRegisters) reg_dec<56>();
    produce<kGateUp>(a, map, s);
  } else {
    if constexpr (kMovesRegisters) reg_inc<224>();
    const int items = ldg_i32(plan_counts(a)) * kTiles;
    Ring ring;
    for (int item = static_cast<int>(block_id()); item < items;
         item += static_cast<int>(block_count())) {
      const Tile tile = locate_tile(a, item, kTiles);
      f32 acc[kBn / 2];
      multiply_tile<kBlocksK>(s, warpgroup - 1, ring, acc);
      const int warp = static_cast<int>(warp_id()) - 4;
      const u32 staged = s.staged + warp * kStagedBytes;
      if constexpr (kGateUp) {
        finish_gate_up(a, tile, warp * 16, staged, acc);
      } else {
        finish_down(a, tile, warp * 16, staged, acc);
      }
    }
  }
}

}  // namespace moe

MOEJIT_KERNEL_MAPS(moe_tile90_gate_up, moe::kThreads90, moejit_cfg::kSched_blocks)
(MOEJIT_PARAM moejit_abi::MoeArgs a, MOEJIT_PARAM dev::TensorMaps maps) {
  moe::tile90<true>(a, &maps.map[0]);
}

MOEJIT_KERNEL_MAPS(moe_tile90_down, moe::kThreads90, moejit_cfg::kSched_blocks)
(MOEJIT_PARAM moejit_abi::MoeArgs a, MOEJIT_PARAM dev::TensorMaps maps) {
  moe::tile90<false>(a, &maps.map[1]);
}
