// Decode in one persistent launch: entry `moe_stream_fused`, after `moe_stream_clear` has set its
// counters to zero. The rings run from the last weights of gate+up into those of down, so the
// memory pipe does not drain between the products.
//
// Both products are cut into as many shares as there are blocks. A block takes shares of gate+up by
// ticket until there are none left, and only then waits for the others: every share is then held by
// a block that runs, so the wait ends even where not all blocks are resident at once.
#pragma once

#include "kernels/stream_tokens.h"

namespace moe {

// Further counters, after those of the row tiles of down.
constexpr int kGateTicket = kDownTiles;
constexpr int kDownTicket = kDownTiles + 1;
constexpr int kGateDone = kDownTiles + 2;
constexpr int kFusedCounters = kDownTiles + 3;

// A Feeder that goes on to the weights of the second product.
template <typename Second>
struct FusedFeeder {
  Feeder<true> first;
  Second second;
  bool switched;
  u32 ring;

  MOEJIT_DEVICE void issue() {
    if (!switched && (first.walk.done() || first.share.count == 0)) {
      switched = true;
      second.slot = first.slot;
    }
    if (switched) {
      second.issue();
    } else {
      first.issue();
    }
  }
};

// make_second(): the feeder of this block's share of down. run_down(feeder, slot): its products.
template <typename MakeSecond, typename RunDown>
MOEJIT_DEVICE void run_fused(const MoeArgs& a, const StreamShared& s, const Plan& plan, u32 share,
                             MakeSecond make_second, RunDown run_down) {
  u32* counters = reinterpret_cast<u32*>(region(a, kRegion_counters));
  const Share gate_share = warp_share(kStagesH, warp_id());
  FusedFeeder<decltype(make_second())> feeder;
  feeder.ring = s.ring;
  int slot = 0;
  MOEJIT_NO_UNROLL
  for (;;) {
    Walk<true> gate;
    gate.start(s, plan, kGateTiles, share, block_count());
    feeder.first = make_feeder<true>(a, s, gate, gate_share);
    feeder.second = make_second();
    feeder.switched = false;
    MOEJIT_NO_UNROLL
    for (int i = 0; i < kRing - 1; ++i) feeder.issue();
    slot = 0;
    gate_up_units(a, s, plan, gate, feeder, gate_share, &slot);
    fence_gpu();
    block_sync();
    if (thread_id() == 0) {
      if (share < block_count()) atomic_add_acq_rel(counters + kGateDone, 1);
      sts_u32(s.sums, atomic_add_global(counters + kGateTicket, 1));
    }
    block_sync();
    share = lds_u32(s.sums);
    if (share >= block_count()) break;
    // A share of a block that has not started: what the ring holds is asked for again after it.
    cp_async_wait<0>();
    block_sync();
  }
  if (thread_id() == 0) {
    while (ld_acquire(counters + kGateDone) < block_count()) {
    }
  }
  block_sync();
  run_down(feeder, &slot);
}

}  // namespace moe

MOEJIT_KERNEL(moe_stream_clear, 256, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  grid_wait();
  grid_launch_dependents();
  u32* counters = reinterpret_cast<u32*>(region(a, kRegion_counters));
  for (int i = static_cast<int>(thread_id()); i < kFusedCounters; i += 256)
    stg_u32(counters + i, 0);
}

MOEJIT_KERNEL(moe_stream_fused, moe::kWarps * 32, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  using namespace moe;
  grid_wait();
  const u32 warp = warp_id();
  const StreamShared s = stream_shared(warp);
  u32* counters = reinterpret_cast<u32*>(region(a, kRegion_counters));
  if (thread_id() == kWarps * 32 - 1) {
    sts_u32(s.sums, atomic_add_global(counters + kGateTicket, 1));
    sts_u32(s.sums + 4, atomic_add_global(counters + kDownTicket, 1));
  }
  const Plan plan = make_plan(a, s);
  if (plan.chunks == 0) {
    write_zeros(a);
    return;
  }
  const u32 share = lds_u32(s.sums), down_share = lds_u32(s.sums + 4);
  if constexpr (kSched_down == 1) {
    if (sums_tokens(a, s, plan)) {
      TokenSteps steps;
      steps.start(s, plan, down_share, block_count());
      run_fused(
          a, s, plan, share, [&] { return make_token_feeder(a, s, steps); },
          [&](auto& feeder, int* slot) { down_tokens(a, s, steps, feeder, slot); });
      return;
    }
  }
  Walk<false> down;
  down.start(s, plan, kDownTiles, down_share, block_count());
  const Share of_warp = warp_share(kStagesI, warp);
  run_fused(
      a, s, plan, share, [&] { return make_feeder<false>(a, s, down, of_warp); },
      [&](auto& feeder, int* slot) { down_units(a, s, plan, down, feeder, of_warp, slot); });
}
