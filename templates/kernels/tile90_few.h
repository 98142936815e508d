// What spares up to kFewTokens tokens two launches: `moe_plan` routes them, and the tile of down
// that brings the last partial result of a token's columns adds them up. Nothing but the order of
// the slots decides a sum, as in `moe_combine`.
#pragma once

#include "kernels/combine_parts.h"
#include "kernels/route.h"
#include "kernels/tile90_walk.h"

namespace moe {

constexpr int kFewTokens = 128;
// Columns of y whose sum is one warp's work: those that a warp or a warpgroup brings of a tile.
constexpr int kArriving = kSwapped<false> ? 128 : kBn;
constexpr int kArrivals = ceil_div(kHiddenSize, kArriving);
constexpr int kPlanWarps = kPlanThreads / 32;
// The registers of a block of kPlanThreads hold the scores of so many experts.
constexpr bool kRoutesFew = kNumExperts <= 512;

MOEJIT_DEVICE bool few_tokens(const MoeArgs& a) {
  return a.num_tokens <= kFewTokens;
}
// Region: [kFewTokens][kArrivals], partial results that have come less those that will.
MOEJIT_DEVICE u32* arrivals(const MoeArgs& a, i64 token) {
  return reinterpret_cast<u32*>(region(a, kRegion_arrivals)) + token * kArrivals;
}

// The tokens of a warp of `moe_plan`, one after the other.
template <typename Visit>
MOEJIT_DEVICE void for_each_token(const MoeArgs& a, Visit visit) {
  for (i64 token = warp_id() * MOEJIT_PLAN_BLOCKS + block_id(); token < a.num_tokens;
       token += MOEJIT_PLAN_BLOCKS * kPlanWarps) {
    visit(token);
  }
}

MOEJIT_DEVICE void route_few(const MoeArgs& a) {
  const u32 scratch = shared_base() + kPlanShared + warp_id() * ((kNumExperts + kNGroup) * 4);
  for_each_token(
      a, [&](i64 token) { store_choice(a, token, route_token(a, token, scratch, [](i32) {})); });
  cluster_sync();  // all blocks of the plan read the ids
}

// Says what will arrive; a token for which nothing does is all zeros.
MOEJIT_DEVICE void expect_arrivals(const MoeArgs& a) {
  const int lane = static_cast<int>(lane_id());
  for_each_token(a, [&](i64 token) {
    u32 slots = 0;
    for (int base = 0; base < kSlots; base += 32) {
      const int j = base + lane;
      slots += popc(warp_ballot(j < kSlots && slot_expert(a, token * kSlots + j) >= 0));
    }
    for (int i = lane; i < kArrivals; i += 32) stg_u32(arrivals(a, token) + i, 0u - slots * kParts);
    if (slots != 0) return;
    for (int i = lane; i < kHiddenSize / 8; i += 32)
      stg_u32x4(at(a.out, (token * kHiddenSize + i * 8) * 2), {0u, 0u, 0u, 0u});
  });
}

// A lane's row, of slot `slot`, where `own`: what this warp, or its warpgroup before a barrier, has
// stored of columns `column` * kArriving and on. Tokens that are complete with it go to `list` in
// shared memory, behind `count` others; returns their number. Warp-collective.
MOEJIT_DEVICE int arrive_few(const MoeArgs& a, bool own, i32 slot, int column, u32 list,
                             int count) {
  const i32 token = slot / kSlots;
  bool last = false;
  if (own) last = atomic_add_acq_rel(arrivals(a, token) + column, 1) == 0xffffffffu;
  const u32 complete = warp_ballot(last);
  const int before = static_cast<int>(popc(complete & ((1u << lane_id()) - 1)));
  if (last) sts_u32(list + (count + before) * 4, static_cast<u32>(token));
  return count + static_cast<int>(popc(complete));
}
// The sums of the tokens of the list. Warp-collective.
MOEJIT_DEVICE void combine_few(const MoeArgs& a, int column, u32 list, int count) {
  constexpr int kVector = kCombineVector<kPartial16>;
  const int end = min_of(kHiddenSize, (column + 1) * kArriving);
  warp_sync();
  MOEJIT_NO_UNROLL
  for (int i = 0; i < count; ++i) {
    const i64 token = static_cast<i64>(lds_u32(list + i * 4));
    for (int c = column * kArriving + static_cast<int>(lane_id()) * kVector; c < end;
         c += 32 * kVector) {
      combine_vector<kParts, kPartial16>(a, token, c);
    }
  }
  warp_sync();
}

}  // namespace moe

MOEJIT_KERNEL(moe_plan, moe::kPlanThreads, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  grid_launch_dependents();  // gate+up asks for weights before it waits for this entry
  grid_wait();
  const bool few = few_tokens(a);
  if (kRoutesFew && few && a.routed != 0) route_few(a);
  if (few) expect_arrivals(a);
  make_plan(a);
}
