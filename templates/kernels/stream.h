// Decode in two launches: entries `moe_stream_gate_up` and `moe_stream_down`.
#pragma once

#include "kernels/stream_units.h"

// Also clears the counters of `down`.
MOEJIT_KERNEL(moe_stream_gate_up, moe::kWarps * 32, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  using namespace moe;
  grid_wait();
  grid_launch_dependents();
  const u32 warp = warp_id();
  const StreamShared s = stream_shared(warp);
  u32* counters = reinterpret_cast<u32*>(region(a, kRegion_counters));
  for (int i = static_cast<int>(block_id() * kWarps * 32 + thread_id()); i < kDownTiles;
       i += static_cast<int>(block_count() * kWarps * 32)) {
    stg_u32(counters + i, 0);
  }
  const Plan plan = make_plan(a, s);
  GateWalk walk;
  walk.bind(s, plan);
  walk.start(block_id(), block_count());
  const Share share = warp_share(kStagesH, warp);
  Feeder<GateWalk> feeder = make_feeder(a, s, walk, share);
  MOEJIT_NO_UNROLL
  for (int i = 0; i < kRing - 1; ++i) feeder.issue();
  Reader reader = make_reader(s);
  gate_up_units(a, s, plan, walk, feeder, share, reader);
}

MOEJIT_KERNEL(moe_stream_down, moe::kWarps * 32, moejit_cfg::kSched_blocks)(moejit_abi::MoeArgs a) {
  using namespace moe;
  const u32 warp = warp_id();
  const StreamShared s = stream_shared(warp);
  // topk_ids are complete: gate_up let this entry start only after it had waited for them.
  const Plan plan = make_plan(a, s);
  DownWalk walk;
  walk.start(s, plan, block_id(), block_count());
  const Share share = warp_share(kStagesI, warp);
  Feeder<DownWalk> feeder = make_feeder(a, s, walk, share);
  MOEJIT_NO_UNROLL
  for (int i = 0; i < kRing - 1; ++i) feeder.issue();
  grid_wait();
  if (plan.chunks == 0) {
    write_zeros(a);
    return;
  }
  Reader reader = make_reader(s);
  down_units(a, s, plan, walk, feeder, share, reader);
}
