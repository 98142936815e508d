// The weight ring of the stream kernels: each warp streams its own share of the reduction through
// a private ring in shared memory with 16-byte asynchronous copies, never waits for another warp to
// refill it, and runs ahead across tiles and experts.
//
// Weights are the 16-row operand of mma.m16n8k16, tokens the 8-column one. The order of the terms
// of a dot product is free, so a lane takes 8 consecutive elements of its row as k = {2c, 2c+1} and
// {2c+8, 2c+9} of two products, and of its token likewise: both operands load 16 bytes at a time
// and no element is moved between lanes.
#pragma once

#include "kernels/common.h"

namespace moe {

constexpr int kWarps = kSched_warps;   // warps of a block; they split the reduction
constexpr int kTileM = kSched_tile_m;  // 16-row tiles of one unit
constexpr int kTileN = kSched_tile_n;  // 8-token tiles of one unit
constexpr int kRing = kSched_stages;   // stages of a warp's ring
constexpr int kUnitTokens = kTileN * 8;
constexpr int kStageK = 64;  // elements of the reduction in a stage: 128 bytes a row
constexpr int kStageBytes = kTileM * 16 * 128;
constexpr int kRingBytes = kRing * kStageBytes;
constexpr int kFragments = kTileM * kTileN;
constexpr int kReduceBytes = 2 * kWarps * kFragments * 512;
// Up to this many slots a block sorts them by expert in shared memory; beyond, warps look rows up.
constexpr int kListSlots = 1024;
constexpr int kPlanBytes =
    ceil_div((2 * kExperts + 2) * 4 + kWarps * 4 + kWarps * 128 + 2 * kListSlots * 2, 128) * 128;

struct StreamShared {
  u32 ring;    // of this warp
  u32 reduce;  // [2][kWarps][kFragments][32] f32x4
  u32 cum;     // [kExperts + 1] chunks before each expert
  u32 ends;    // [kExperts + 1] sorted slots up to and with each expert; [0] is 0, expert e at [e +
               // 1]
  u32 sums;    // [kWarps] scratch
  u32 scratch;  // [32] of this warp
  u32 slots;    // [kListSlots] u16, sorted by (expert, slot)
  u32 owners;   // [kListSlots] u16, expert of each chunk
};
MOEJIT_DEVICE StreamShared stream_shared(u32 warp) {
  StreamShared s;
  const u32 base = shared_base();
  s.ring = base + warp * kRingBytes;
  s.reduce = base + kWarps * kRingBytes;
  s.cum = s.reduce + kReduceBytes;
  s.ends = s.cum + (kExperts + 1) * 4;
  s.sums = s.ends + (kExperts + 1) * 4;
  s.scratch = s.sums + kWarps * 4 + warp * 128;
  s.slots = s.sums + kWarps * 4 + kWarps * 128;
  s.owners = s.slots + kListSlots * 2;
  return s;
}

// The work of a launch. A chunk is up to kUnitTokens rows of one expert; chunks are numbered by
// expert, then by row.
struct Plan {
  int chunks;
  bool listed;  // slots and owners are filled
};

// The plan where all slots fit one warp, which sorts them in its registers: no weight can be asked
// for before the plan is there. Block-collective.
MOEJIT_DEVICE Plan make_small_plan(const MoeArgs& a, const StreamShared& s) {
  if (warp_id() == 0) {
    const u32 lane = lane_id();
    const i32 expert = lane < static_cast<u32>(a.num_tokens * kSlots)
                           ? slot_expert(a, static_cast<i64>(lane))
                           : -1;
    const u32 key = static_cast<u32>(expert);  // absent slots come last
    u32 first = 0, same = 0, rank = 0;         // rows of smaller experts, of this one, of it before
    MOEJIT_UNROLL
    for (u32 j = 0; j < 32; ++j) {
      const u32 other = shfl_u32(key, j);
      first += other < key ? 1 : 0;
      same += other == key ? 1 : 0;
      rank += other == key && j < lane ? 1 : 0;
    }
    const bool head = expert >= 0 && rank % kUnitTokens == 0;  // begins a chunk
    const u32 heads = warp_add_u32(head ? 1u << (first + rank) : 0u);
    const u32 chunk = popc(heads & ((1u << ((first + rank) & 31u)) - 1u));
    if (expert >= 0) sts_u16(s.slots + (first + rank) * 2, static_cast<u16>(lane));
    if (head) sts_u16(s.owners + chunk * 2, static_cast<u16>(expert));
    if (head && rank == 0) {
      sts_u32(s.cum + expert * 4, chunk);
      sts_u32(s.ends + expert * 4, first);
    }
    if (lane == 0) sts_u32(s.cum + kExperts * 4, popc(heads));
    warp_sync();  // the next expert may have written the same
    if (head && rank == 0) sts_u32(s.ends + (expert + 1) * 4, first + same);
  }
  block_sync();
  return {static_cast<int>(lds_u32(s.cum + kExperts * 4)), true};
}

// Block-collective.
MOEJIT_DEVICE Plan make_plan(const MoeArgs& a, const StreamShared& s) {
  if (a.num_tokens * kSlots <= 32) return make_small_plan(a, s);
  constexpr int kThreads = kWarps * 32;
  constexpr int kEach = ceil_div(kExperts, kThreads);  // consecutive experts of a thread
  const int thread = static_cast<int>(thread_id());
  const i64 all_slots = a.num_tokens * kSlots;
  const bool listed = all_slots <= kListSlots;
  for (int e = thread; e <= kExperts; e += kThreads) sts_u32(s.cum + e * 4, 0);
  block_sync();
  const i64 ids = a.num_tokens * kTopK;
  for (i64 i = thread; i < ids; i += kThreads) {
    const i32 id = ldg_i32(a.topk_ids + i);
    if (id >= 0 && id < kNumExperts) atomic_add_shared(s.cum + id * 4, 1);
  }
  block_sync();
  u32 rows[kEach];
  u32 sum = 0;
  MOEJIT_UNROLL
  for (int j = 0; j < kEach; ++j) {
    const int e = thread * kEach + j;
    rows[j] = e < kNumExperts ? lds_u32(s.cum + e * 4)
              : e < kExperts  ? static_cast<u32>(a.num_tokens)
                              : 0;
    sum += (rows[j] + kUnitTokens - 1) / kUnitTokens;
  }
  u32 row_sum = 0;
  MOEJIT_UNROLL
  for (int j = 0; j < kEach; ++j) row_sum += rows[j];
  u32 before = sum, row_before = row_sum;  // inclusive scans over the warp
  MOEJIT_UNROLL
  for (u32 d = 1; d < 32; d <<= 1) {
    const u32 v = shfl_up_u32(before, d);
    const u32 r = shfl_up_u32(row_before, d);
    if (lane_id() >= d) {
      before += v;
      row_before += r;
    }
  }
  // The reduce buffers are free until the first unit; scratch of the warp holds its two totals.
  if (lane_id() == 31) sts_u32x2(s.reduce + warp_id() * 8, {before, row_before});
  block_sync();
  u32 offset = before - sum, row_offset = row_before - row_sum;
  for (u32 w = 0; w < warp_id(); ++w) {
    const u32x2 v = lds_u32x2(s.reduce + w * 8);
    offset += v.x;
    row_offset += v.y;
  }
  MOEJIT_UNROLL
  for (int j = 0; j < kEach; ++j) {
    const int e = thread * kEach + j;
    if (e >= kExperts) continue;
    const u32 chunks = (rows[j] + kUnitTokens - 1) / kUnitTokens;
    sts_u32(s.cum + e * 4, offset);
    sts_u32(s.ends + (e + 1) * 4, row_offset);  // a cursor until the slots are placed
    if (e == 0) sts_u32(s.ends, 0);
    if (listed) {
      for (u32 c = 0; c < chunks; ++c) sts_u16(s.owners + (offset + c) * 2, static_cast<u16>(e));
    }
    offset += chunks;
    row_offset += rows[j];
    if (e == kExperts - 1) sts_u32(s.cum + kExperts * 4, offset);
  }
  block_sync();
  const Plan plan = {static_cast<int>(lds_u32(s.cum + kExperts * 4)), listed};
  if (!listed) return plan;
  // Place in any order, then put each expert's slots in ascending order by counting the smaller
  // ones.
  const u32 placed = s.reduce;  // [kListSlots] u16
  for (int i = thread; i < static_cast<int>(all_slots); i += kThreads) {
    const i32 e = slot_expert(a, i);
    if (e >= 0)
      sts_u16(placed + atomic_add_shared(s.ends + (e + 1) * 4, 1) * 2, static_cast<u16>(i));
  }
  block_sync();
  const int total = static_cast<int>(lds_u32(s.ends + kExperts * 4));
  for (int p = thread; p < total; p += kThreads) {
    const u32 slot = lds_u16(placed + p * 2);
    const i32 e = slot_expert(a, slot);
    const int first = static_cast<int>(lds_u32(s.ends + e * 4));
    const int end = static_cast<int>(lds_u32(s.ends + (e + 1) * 4));
    int rank = 0;
    for (int q = first; q < end; ++q) rank += lds_u16(placed + q * 2) < slot ? 1 : 0;
    sts_u16(s.slots + (first + rank) * 2, static_cast<u16>(slot));
  }
  block_sync();
  return plan;
}

// Lane i gets the slot of row first + i of `expert`, or -1 past the last. Warp-collective.
MOEJIT_DEVICE i32 find_rows(const MoeArgs& a, const StreamShared& s, const Plan& plan, int expert,
                            int first) {
  const int lane = static_cast<int>(lane_id());
  if (plan.listed) {
    const int row = static_cast<int>(lds_u32(s.ends + expert * 4)) + first + lane;
    const int end = static_cast<int>(lds_u32(s.ends + (expert + 1) * 4));
    return lane < kUnitTokens && row < end ? static_cast<i32>(lds_u16(s.slots + row * 2)) : -1;
  }
  if (kNumSharedExperts > 0 && expert >= kNumExperts) {
    const i64 token = static_cast<i64>(first) + lane;
    if (lane >= kUnitTokens || token >= a.num_tokens) return -1;
    return static_cast<i32>(token * kSlots + kTopK + (expert - kNumExperts));
  }
  warp_sync();
  sts_u32(s.scratch + lane * 4, 0xffffffffu);
  warp_sync();
  const i64 ids = a.num_tokens * kTopK;
  int found = 0;
  for (i64 base = 0; base < ids && found < first + kUnitTokens; base += 32) {
    const i64 i = base + lane;
    const bool match = i < ids && ldg_i32(a.topk_ids + i) == expert;
    const u32 mask = warp_ballot(match);
    const int rank = found + static_cast<int>(popc(mask & ((1u << lane) - 1u))) - first;
    if (match && rank >= 0 && rank < kUnitTokens) {
      const i64 token = i / kTopK;
      sts_u32(s.scratch + rank * 4, static_cast<u32>(token * kSlots + (i - token * kTopK)));
    }
    found += static_cast<int>(popc(mask));
  }
  warp_sync();
  return static_cast<i32>(lds_u32(s.scratch + lane * 4));
}

// Where 16 bytes of stage row `row`, piece `piece` (0..7) lie: rows 2q and 2q+1 use different
// banks.
MOEJIT_DEVICE u32 ring_offset(u32 row, u32 piece) {
  return row * 128 + ((piece ^ ((row & 1u) << 2)) << 4);
}

// One step of the product: a stage of weights times the tokens' 64 elements.
MOEJIT_DEVICE void multiply_stage(u32 stage, const u32x4 (&x)[kTileN][2],
                                  f32 (&acc)[kTileM][kTileN][4]) {
  const u32 lane = lane_id();
  const u32 row = lane >> 2;
  const u32 column = lane & 3u;
  MOEJIT_UNROLL
  for (int half = 0; half < 2; ++half) {
    MOEJIT_UNROLL
    for (int m = 0; m < kTileM; ++m) {
      const u32x4 top = lds_u32x4(stage + m * 2048 + ring_offset(row, half * 4 + column));
      const u32x4 low = lds_u32x4(stage + m * 2048 + ring_offset(row + 8, half * 4 + column));
      const u32 a0[4] = {top.x, low.x, top.y, low.y};
      const u32 a1[4] = {top.z, low.z, top.w, low.w};
      MOEJIT_UNROLL
      for (int n = 0; n < kTileN; ++n) {
        const u32 b0[2] = {x[n][half].x, x[n][half].y};
        const u32 b1[2] = {x[n][half].z, x[n][half].w};
        mma(acc[m][n], a0, b0);
        mma(acc[m][n], a1, b1);
      }
    }
  }
}

// The part of a reduction of `pieces` 16-byte pieces that this warp takes, in stages.
struct Share {
  int first, count;  // stages
};
MOEJIT_DEVICE Share warp_share(int stages, u32 warp) {
  const int first = static_cast<int>(warp) * stages / kWarps;
  return {first, (static_cast<int>(warp) + 1) * stages / kWarps - first};
}

// Sum of fragment f over all warps, in the order of the warps.
MOEJIT_DEVICE f32x4 reduce_fragment(u32 buffer, int f) {
  f32x4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
  MOEJIT_UNROLL
  for (int w = 0; w < kWarps; ++w) {
    const f32x4 v = lds_f32x4(buffer + ((w * kFragments + f) * 32 + lane_id()) * 16);
    sum.x += v.x;
    sum.y += v.y;
    sum.z += v.z;
    sum.w += v.w;
  }
  return sum;
}
MOEJIT_DEVICE void store_fragments(u32 buffer, u32 warp, const f32 (&acc)[kTileM][kTileN][4]) {
  MOEJIT_UNROLL
  for (int m = 0; m < kTileM; ++m) {
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      const f32x4 v = {acc[m][n][0], acc[m][n][1], acc[m][n][2], acc[m][n][3]};
      sts_f32x4(buffer + ((warp * kFragments + m * kTileN + n) * 32 + lane_id()) * 16, v);
    }
  }
}
MOEJIT_DEVICE void zero(f32 (&acc)[kTileM][kTileN][4]) {
  MOEJIT_UNROLL
  for (int m = 0; m < kTileM; ++m) {
    MOEJIT_UNROLL
    for (int n = 0; n < kTileN; ++n) {
      MOEJIT_UNROLL
      for (int i = 0; i < 4; ++i) acc[m][n][i] = 0.0f;
    }
  }
}

// Operand rows of the lane's tokens (row lane / 4 of each 8-token tile).
struct TokenRows {
  const u8* row[kTileN];  // null where there is no token
};
// The lane's 2 x 16 bytes of each token at stage `stage`; zero past the end of the row.
MOEJIT_DEVICE void load_tokens(const TokenRows& t, int stage, int pieces, u32x4 (&x)[kTileN][2]) {
  MOEJIT_UNROLL
  for (int n = 0; n < kTileN; ++n) {
    MOEJIT_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int piece = stage * 8 + half * 4 + static_cast<int>(lane_id() & 3u);
      x[n][half] = {0, 0, 0, 0};
      if (t.row[n] != nullptr && piece < pieces) x[n][half] = ldg_u32x4(t.row[n] + piece * 16);
    }
  }
}

// Position in a block's sequence of units. Gate+up walks chunk by chunk (a chunk's row tiles are
// consecutive), down walks row tile by row tile (so that whole output rows finish early).
template <bool kChunkMajor>
struct Walk {
  int unit, end;  // units of this block left: [unit, end)
  int expert;     // of the current unit
  int chunk;      // over all experts
  int tile;       // row tile
  int tiles;
  Plan plan;
  u32 cum, owners;

  MOEJIT_DEVICE void settle() {  // the expert that holds `chunk`
    if (plan.listed) {
      expert = lds_u16(owners + chunk * 2);
    } else {
      while (chunk >= static_cast<int>(lds_u32(cum + (expert + 1) * 4))) ++expert;
    }
  }
  // Share `share` of `shares`; beyond the last nothing.
  MOEJIT_DEVICE void start(const StreamShared& s, const Plan& launch_plan, int row_tiles, u32 share,
                           u32 shares) {
    cum = s.cum;
    owners = s.owners;
    plan = launch_plan;
    tiles = row_tiles;
    const i64 units = static_cast<i64>(plan.chunks) * row_tiles;
    unit = share < shares ? static_cast<int>(units * share / shares) : 0;
    end = share < shares ? static_cast<int>(units * (share + 1) / shares) : 0;
    expert = 0;
    if (unit >= end) return;
    chunk = kChunkMajor ? unit / tiles : unit % plan.chunks;
    tile = kChunkMajor ? unit % tiles : unit / plan.chunks;
    settle();
  }
  MOEJIT_DEVICE bool done() const { return unit >= end; }
  MOEJIT_DEVICE void next() {
    ++unit;
    if (unit >= end) return;
    if (kChunkMajor) {
      if (++tile < tiles) return;
      tile = 0;
      ++chunk;
    } else if (++chunk == plan.chunks) {
      chunk = 0;
      expert = 0;
      ++tile;
    }
    settle();
  }
  MOEJIT_DEVICE int first_row() const {
    return (chunk - static_cast<int>(lds_u32(cum + expert * 4))) * kUnitTokens;
  }
};

}  // namespace moe
