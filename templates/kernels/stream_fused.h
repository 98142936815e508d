// Decode of few tokens in one persistent launch: entry `moe_stream_fused`, which also routes. More
// tokens take the two launches of stream.h.
//
// The 8-token columns of both products are the tokens of the layer. The rings run from the last
// weights of gate+up into those of down, so the memory pipe does not drain between the products; a
// block sums all experts of its rows of down, whose h carry their routing weights, in its
// accumulators. Instructions count here: what a stage costs beside its bytes is a dozen of them.
#pragma once

#include "kernels/stream.h"
#include "kernels/stream_hidden.h"
#include "kernels/stream_meeting.h"

namespace moe {

// The block's shares, by one thread beside the plan, in words of s.sums: the ticket of gate+up, the
// block's rows of down, and where its rows of gate+up begin if every slot has a chunk of its own.
MOEJIT_DEVICE void open_shares(const MoeArgs& a, const StreamShared& s, const Meeting& m) {
  static_assert(kWarps >= 8);
  const Start mine = start_meeting(m);
  sts_u32(s.sums, mine.ticket);
  const Cut rows = even_cut(kHiddenSize, mine.number, block_count());
  const u32 count = static_cast<u32>(rows.end - rows.first);
  const u32 tiles = (count + kUnitOut - 1) / kUnitOut;
  sts_u32(s.sums + 4, static_cast<u32>(rows.first));
  sts_u32(s.sums + 8, static_cast<u32>(rows.end));
  sts_u32(s.sums + 12, tiles > 1 ? (count + tiles - 1) / tiles : kUnitOut);
  if (mine.ticket >= block_count()) return;
  const Cut gate = even_cut(static_cast<int>(a.num_tokens) * kSlots * kIntermediateSize,
                            mine.ticket, block_count());
  const int chunk = static_cast<int>(gate.first) / kIntermediateSize;
  sts_u32(s.sums + 16, static_cast<u32>(chunk));
  sts_u32(s.sums + 20, static_cast<u32>(gate.first - chunk * kIntermediateSize));
  sts_u32(s.sums + 24, static_cast<u32>(gate.end - gate.first));
}
MOEJIT_DEVICE GateWalk gate_share(const Plan& plan, const StreamShared& s, const MoeArgs& a,
                                  u32 share, bool again) {
  GateWalk gate;
  gate.bind(s, plan);
  if (again || share >= block_count() || plan.chunks != static_cast<int>(a.num_tokens) * kSlots) {
    gate.start(share, block_count());
    return gate;
  }
  gate.chunk = static_cast<int>(lds_u32(s.sums + 16));
  gate.row = static_cast<int>(lds_u32(s.sums + 20));
  gate.left = static_cast<int>(lds_u32(s.sums + 24));
  gate.enter();
  return gate;
}
// The block's rows of down. Rows, not tiles, are dealt to the blocks alike, and a block's rows to
// its tiles. Read again where they are needed: registers are few.
struct DownShare {
  int row, row_end;  // of the block
  int rows;          // of a tile
};
MOEJIT_DEVICE DownShare down_share(u32 sums) {
  return {static_cast<int>(lds_u32(sums + 4)), static_cast<int>(lds_u32(sums + 8)),
          static_cast<int>(lds_u32(sums + 12))};
}

// Fills the ring: a warp's stages of gate+up, then of down.
struct FusedFeeder {
  static constexpr int kNoRow = 0x7fffffff;
  Feeder<GateWalk> gate;
  const u8* w2;
  u32 owners, sums;
  int chunks;
  bool in_down;
  int row;  // first of the tile, or kNoRow
  DownStage at;
  int rows_left;  // of the tile, from the lane's first row
  const u8* from;

  MOEJIT_DEVICE void enter_chunk() {
    const int expert = lds_u16(owners + at.chunk * 2);
    from = w2 +
           (static_cast<i64>(expert) * kHiddenSize + row + static_cast<int>(lane_id() >> 3)) *
               kPitchI +
           (at.stage * 8 + static_cast<int>(lane_id() & 7u)) * 16;
  }
  MOEJIT_DEVICE void enter_tile() {
    const DownShare down = down_share(sums);
    at.start();
    if (row >= down.row_end || at.chunk >= chunks) {
      row = kNoRow;
      return;
    }
    rows_left = min_of(down.rows, down.row_end - row) - static_cast<int>(lane_id() >> 3);
    enter_chunk();
  }
  MOEJIT_DEVICE void turn_down() {
    if (in_down || !gate.done()) return;
    in_down = true;
    row = down_share(sums).row;
    enter_tile();
  }
  MOEJIT_DEVICE void start(const Feeder<GateWalk>& of_gate) {
    gate = of_gate;
    in_down = false;
    turn_down();
  }
  MOEJIT_DEVICE void issue_down() {
    if (row != kNoRow) {
      const bool piece =
          kPiecesI % 8 == 0 || at.stage * 8 + static_cast<int>(lane_id() & 7u) < kPiecesI;
      MOEJIT_UNROLL
      for (int r = 0; r < 4; ++r) {
        cp_async16_hint(gate.to + r * 512, from + r * 4 * kPitchI, piece && rows_left > r * 4,
                        gate.policy);
      }
      gate.to = gate.to + kStageBytes == gate.ring_end ? gate.ring : gate.to + kStageBytes;
      from += DownStage::kStages * 128;
      const bool enters = at.next();
      if (at.chunk >= chunks) {
        row += down_share(sums).rows;
        enter_tile();
      } else if (enters) {
        enter_chunk();
      }
    }
    cp_async_commit();
  }
  // The next stage, or an empty group when there is none left. Warp-collective.
  MOEJIT_DEVICE void issue() {
    if (in_down) {
      issue_down();
      return;
    }
    gate.issue_stage();
    cp_async_commit();
    turn_down();
  }
};

// The units of a walk: x, w13 -> h [T * kSlots, I] in the order of the slots. Block-collective.
MOEJIT_DEVICE void gate_few(const MoeArgs& a, const StreamShared& s, const FewShared& few,
                            GateWalk walk, FusedFeeder& feeder, Share share, Reader& reader) {
  const u32 warp = warp_id();
  const u32 lane = lane_id();
  u8* h = region(a, kRegion_h);
  const TokenRows tokens = {
      {static_cast<i64>(lane >> 2) < a.num_tokens ? token_row(a.x, lane >> 2, kPitchH) : nullptr}};
  // This warp's columns of x, the same for every unit: in registers where they have room.
  constexpr bool kKept = MOEJIT_KEEPS_X != 0;
  constexpr int kTurns = kKept ? ceil_div(kStagesH, kWarps) : 1;
  u32x4 x[kTurns][kTileN][2];
  MOEJIT_UNROLL
  for (int i = 0; i < kTurns; ++i) {
    if (i < share.count) load_tokens<kPiecesH>(tokens, share.stage(i), x[i]);
  }
  MOEJIT_NO_UNROLL
  for (u32 turn = 0; !walk.done(); walk.next(), ++turn) {
    f32 acc[kTileM][kTileN][4];
    zero(acc);
    const auto step = [&](const u32x4(&of_stage)[kTileN][2]) {
      cp_async_wait<kRing - 2>();
      warp_sync();
      feeder.issue();  // into the slot that the previous step read
      multiply_stage(reader, of_stage, acc);
    };
    if constexpr (kKept) {
      MOEJIT_UNROLL
      for (int i = 0; i < kTurns; ++i) {
        if (i < share.count) step(x[i]);
      }
    } else {
      MOEJIT_NO_UNROLL
      for (int i = 0; i < share.count; ++i) {
        step(x[0]);
        // After the last stage of a unit the first of the next, which is the same for every unit.
        load_tokens<kPiecesH>(tokens, share.stage(i + 1 < share.count ? i + 1 : 0), x[0]);
      }
    }
    const u32 buffer = s.reduce + (turn & 1u) * (kReduceBytes / 2);
    store_fragments(buffer, warp, acc);
    block_sync();
    // The next unit writes the other buffer; this one is free again after the next barrier.
    if (warp != turn % kWarps) continue;
    const f32x4 sum = reduce_fragment(buffer, 0);
    const int of_unit = static_cast<int>(lane >> 2);
    MOEJIT_UNROLL
    for (u32 c = 0; c < 2; ++c) {
      const u32 out = column_slot(few, walk.chunk, (lane & 3u) * 2 + c);
      if (out == kNoSlot) continue;
      const f32 weight = weight_of(few, static_cast<i32>(out));
      f32 top = c == 0 ? sum.x : sum.y;
      f32 low = c == 0 ? sum.z : sum.w;
      if constexpr (kWeightOnInput) {
        top *= weight;
        low *= weight;
      }
      MOEJIT_UNROLL
      for (int part = 0; part < (kGated ? 1 : 2); ++part) {
        if (of_unit + part * 8 >= walk.rows) continue;
        const int i = walk.row + of_unit + part * 8;
        if constexpr (kGated && kBias) {
          top += bias13(a, walk.expert, gate_row(i));
          low += bias13(a, walk.expert, up_row(i));
        }
        f32 gate = part == 0 ? top : low;
        if constexpr (!kGated && kBias) gate += bias13(a, walk.expert, i);
        f32 v = activate(gate, kGated ? low : gate);
        if constexpr (!kWeightOnInput) v *= weight;
        store_element(h, static_cast<i64>(out) * kIntermediateSize + i, v);
      }
    }
  }
}

// Every column is that token; the first counts. Its stages are few and most lie in the ring
// already: the four products of one go to two sums, so that they wait for each other half as long.
MOEJIT_DEVICE void multiply_hidden(Reader& reader, u32 stage, f32 (&acc)[kTileM][kTileN][4],
                                   f32 (&odd)[kTileM][kTileN][4]) {
  static_assert(kTileM == 1 && kTileN == 1);
  MOEJIT_UNROLL
  for (u32 half = 0; half < 2; ++half) {
    const u32x4 x = lds_u32x4(stage + half * 64);
    const u32x4 top = lds_u32x4(reader.at + half * reader.half);
    const u32x4 low = lds_u32x4(reader.at + half * reader.half + 1024);
    const u32 a0[4] = {top.x, low.x, top.y, low.y};
    const u32 a1[4] = {top.z, low.z, top.w, low.w};
    const u32 b0[2] = {x.x, x.y}, b1[2] = {x.z, x.w};
    mma(acc[0][0], a0, b0);
    mma(odd[0][0], a1, b1);
  }
  reader.next();
}

// The block's rows of down: h, w2 -> out. Block-collective.
MOEJIT_DEVICE void down_few(const MoeArgs& a, const StreamShared& s, const FewShared& few,
                            FusedFeeder& feeder, Reader& reader) {
  constexpr int kAhead = 4;  // stages whose h is under way
  const u32 warp = warp_id();
  const u32 lane = lane_id();
  const DownShare down = down_share(s.sums);
  const int chunks = feeder.chunks;
  const int count = down_turns(chunks);
  // Beyond the plan; the host gives it room where there is any.
  const u32 hidden = s.cum + kPlanBytes;
  u32x4 x[kAhead][kTileN][2];
  HiddenRows rows_of_h = {&few, region(a, kRegion_h), chunks, {}, {}};
  const auto begin_tile = [&] {
    if (count == 0) return;
    rows_of_h.rewind();
    MOEJIT_UNROLL
    for (int i = 0; i < kAhead; ++i) rows_of_h.load(x[i]);
  };
  const bool one = MOEJIT_HIDDEN_BYTES > 0 && a.num_tokens == 1;
  if (one) {
    fetch_hidden(a, few, chunks, hidden);
  } else {
    begin_tile();
  }
  int row = down.row;
  MOEJIT_NO_UNROLL
  for (u32 turn = 0; row < down.row_end; row += down.rows, ++turn) {
    const int rows = min_of(down.rows, down.row_end - row);
    f32 acc[kTileM][kTileN][4];
    zero(acc);
    if constexpr (kBias) {
      // The sums of all warps are added up: any of them may have an expert's bias.
      MOEJIT_NO_UNROLL
      for (int chunk = static_cast<int>(warp); chunk < chunks; chunk += kWarps) {
        const int expert = lds_u16(s.owners + chunk * 2);
        MOEJIT_UNROLL
        for (u32 c = 0; c < 2; ++c) {
          const u32 slot = column_slot(few, chunk, (lane & 3u) * 2 + c);
          if (slot == kNoSlot) continue;
          const f32 weight = kWeightOnInput ? 1.0f : weight_of(few, static_cast<i32>(slot));
          MOEJIT_UNROLL
          for (int part = 0; part < 2; ++part) {
            const int of_tile = part * 8 + static_cast<int>(lane >> 2);
            if (of_tile >= rows) continue;
            acc[0][0][part * 2 + c] +=
                weight * load_element(a.b2, static_cast<i64>(expert) * kHiddenSize + row + of_tile);
          }
        }
      }
    }
    if (one) {
      f32 odd[kTileM][kTileN][4];
      zero(odd);
      MOEJIT_NO_UNROLL
      for (int i = static_cast<int>(warp); i < chunks * kStagesI; i += kWarps) {
        cp_async_wait<kRing - 2>();
        warp_sync();
        feeder.issue_down();  // into the slot that the previous step read
        multiply_hidden(reader, hidden + i * 128 + (lane & 3u) * 16, acc, odd);
      }
      MOEJIT_UNROLL
      for (int c = 0; c < 4; ++c) acc[0][0][c] += odd[0][0][c];
    } else {
      MOEJIT_NO_UNROLL
      for (int i = 0; i < count;) {
        MOEJIT_UNROLL
        for (int u = 0; u < kAhead; ++u) {
          if (i == count) break;
          ++i;
          cp_async_wait<kRing - 2>();
          warp_sync();
          feeder.issue_down();  // into the slot that the previous step read
          multiply_stage(reader, x[u], acc);
          rows_of_h.load(x[u]);
        }
      }
      if (row + down.rows < down.row_end) begin_tile();
    }
    const u32 buffer = s.reduce + (turn & 1u) * (kReduceBytes / 2);
    store_fragments(buffer, warp, acc);
    block_sync();
    if (warp == turn % kWarps) {
      const f32x4 sum = reduce_fragment(buffer, 0);
      MOEJIT_UNROLL
      for (int part = 0; part < 2; ++part) {
        const int of_tile = part * 8 + static_cast<int>(lane >> 2);
        MOEJIT_UNROLL
        for (int c = 0; c < 2; ++c) {
          const i64 token = (lane & 3u) * 2 + c;
          if (of_tile >= rows || token >= a.num_tokens) continue;
          const f32 v = part == 0 ? (c == 0 ? sum.x : sum.y) : (c == 0 ? sum.z : sum.w);
          store_element(a.out, token * kHiddenSize + row + of_tile, v);
        }
      }
    }
  }
}

}  // namespace moe

MOEJIT_KERNEL(moe_stream_fused, moe::kWarps * 32, moejit_cfg::kSched_blocks)
(moejit_abi::MoeArgs a) {
  using namespace moe;
  const u32 warp = warp_id();
  const StreamShared s = stream_shared(warp);
  const FewShared few = few_shared(s);
  const Meeting m = meeting(a);
  clear_few(a, few);
  if (thread_id() == kWarps * 32 - 32) open_shares(a, s, m);
  if (thread_id() == kWarps * 32 - 64) open_meeting(m);
  const Plan plan = make_few_plan(a, s, few);
  u32 share = lds_u32(s.sums);
  FusedFeeder feeder;
  feeder.w2 = static_cast<const u8*>(a.w2);
  feeder.owners = s.owners;
  feeder.sums = s.sums;
  feeder.chunks = plan.chunks;
  const Share of_warp = warp_share(kStagesH, warp);
  Reader reader = make_reader(s);
  MOEJIT_NO_UNROLL
  for (bool again = false;; again = true) {
    const GateWalk gate = gate_share(plan, s, a, share, again);
    feeder.start(make_feeder(a, s, gate, of_warp));
    reader.rewind();
    MOEJIT_NO_UNROLL
    for (int i = 0; i < kRing - 1; ++i) feeder.issue();
    if (share >= block_count()) break;  // all were taken before this block started
    gate_few(a, s, few, gate, feeder, of_warp, reader);
    block_sync();
    if (thread_id() == 0) sts_u32(s.sums, next_ticket(m));
    if (share == 0 && a.routed != 0) publish_choice(a, few);  // nobody in the launch waits for it
    block_sync();
    share = lds_u32(s.sums);
    if (share >= block_count()) break;
    // A share of a block that has not started: what the ring holds is asked for again after it.
    cp_async_wait<0>();
    block_sync();
  }
  if (thread_id() == 0) wait_for_all(m);
  block_sync();
  u32 left = 0;
  if (thread_id() == 0) left = leave_meeting(m);  // its answer is not waited for
  down_few(a, s, few, feeder, reader);
  if (thread_id() == 0 && left == block_count() - 1) close_meeting(m);
}
