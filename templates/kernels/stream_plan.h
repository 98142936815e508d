// What a block of the stream kernels knows before it asks for the first weight: its shared memory
// and the work list, which every block makes from topk_ids itself, so that there is no sort launch.
#pragma once

#include "kernels/route.h"

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
constexpr int kCountBytes = ceil_div((2 * kExperts + 2) * 4 + kWarps * 4, 16) * 16;
constexpr int kStartBytes = max_of(kWarps * 128, (kListSlots + 8) * 2);
constexpr int kPlanBytes = ceil_div(kCountBytes + kStartBytes + 2 * kListSlots * 2, 128) * 128;

struct StreamShared {
  u32 ring;     // of this warp
  u32 reduce;   // [2][kWarps][kFragments][32] f32x4
  u32 cum;      // [kExperts + 1] chunks before each expert, where not listed
  u32 ends;     // [kExperts + 1] sorted slots up to and with each expert, while the list is made
  u32 sums;     // [kWarps] scratch
  u32 scratch;  // [32] of this warp, where not listed
  u32 starts;   // [kListSlots + 1] u16, first sorted slot of each chunk; in place of the scratch
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
  s.starts = s.cum + kCountBytes;
  s.scratch = s.starts + warp * 128;
  s.slots = s.starts + kStartBytes;
  s.owners = s.slots + kListSlots * 2;
  return s;
}

// The work of a launch. A chunk is up to kUnitTokens rows of one expert; chunks are numbered by
// expert, then by row.
struct Plan {
  int chunks;
  bool listed;  // starts, slots and owners are filled
};

// The plan where all slots fit one warp, which sorts them in its registers. Block-collective.
MOEJIT_DEVICE Plan make_small_plan(const MoeArgs& a, const StreamShared& s) {
  if (warp_id() == 0) {
    const u32 lane = lane_id();
    const i32 expert = lane < static_cast<u32>(a.num_tokens * kSlots)
                           ? slot_expert(a, static_cast<i64>(lane))
                           : -1;
    const u32 key = static_cast<u32>(expert);  // absent slots come last
    u32 first = 0, rank = 0;                   // rows of smaller experts, of this one before it
    MOEJIT_UNROLL
    for (u32 j = 0; j < 32; ++j) {
      const u32 other = shfl_u32(key, j);
      first += other < key ? 1 : 0;
      rank += other == key && j < lane ? 1 : 0;
    }
    const bool head = expert >= 0 && rank % kUnitTokens == 0;  // begins a chunk
    const u32 heads = warp_add_u32(head ? 1u << (first + rank) : 0u);
    const u32 chunk = popc(heads & ((1u << ((first + rank) & 31u)) - 1u));
    if (expert >= 0) sts_u16(s.slots + (first + rank) * 2, static_cast<u16>(lane));
    if (head) {
      sts_u16(s.owners + chunk * 2, static_cast<u16>(expert));
      sts_u16(s.starts + chunk * 2, static_cast<u16>(first + rank));
    }
    const u32 present = warp_ballot(expert >= 0);
    if (lane == 0) {
      sts_u16(s.starts + popc(heads) * 2, static_cast<u16>(popc(present)));
      sts_u32(s.cum + kExperts * 4, popc(heads));
    }
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
  // The reduce buffers are free until the first unit; they hold the totals of the warps.
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
      for (u32 c = 0; c < chunks; ++c) {
        sts_u16(s.owners + (offset + c) * 2, static_cast<u16>(e));
        sts_u16(s.starts + (offset + c) * 2, static_cast<u16>(row_offset + c * kUnitTokens));
      }
    }
    offset += chunks;
    row_offset += rows[j];
    if (e == kExperts - 1) {
      sts_u32(s.cum + kExperts * 4, offset);
      if (listed) sts_u16(s.starts + offset * 2, static_cast<u16>(row_offset));
    }
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

// Lane i gets the slot of row i of `chunk`, which is of `expert`, or -1 past the last.
// Warp-collective.
MOEJIT_DEVICE i32 find_rows(const MoeArgs& a, const StreamShared& s, const Plan& plan, int chunk,
                            int expert) {
  const int lane = static_cast<int>(lane_id());
  if (plan.listed) {
    const int row = lds_u16(s.starts + chunk * 2) + lane;
    const int end = lds_u16(s.starts + (chunk + 1) * 2);
    return row < end ? static_cast<i32>(lds_u16(s.slots + row * 2)) : -1;
  }
  const int first = (chunk - static_cast<int>(lds_u32(s.cum + expert * 4))) * kUnitTokens;
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

}  // namespace moe
