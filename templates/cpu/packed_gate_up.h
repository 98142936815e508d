// h = act(x @ w13.T) of packed weights, one task: a run of blocks for one unit of rows.
#pragma once
#include "math.h"
#include "packed.h"

namespace moejit_cpu {

// Gate and up of elements [i, i + kLanes) of I, to h; what lies beyond I is not stored.
MOEJIT_INLINE void store_activated(F g, F u, i64 i, XElem* h) {
  if (i >= kIntermediateSize) return;
#ifdef __AVX512F__
  store_x<8>(h, activate(__builtin_shufflevector(g, g, 0, 1, 2, 3, 4, 5, 6, 7),
                         __builtin_shufflevector(u, u, 0, 1, 2, 3, 4, 5, 6, 7)));
  store_x<8>(h + 8, activate(__builtin_shufflevector(g, g, 8, 9, 10, 11, 12, 13, 14, 15),
                             __builtin_shufflevector(u, u, 8, 9, 10, 11, 12, 13, 14, 15)));
#else
  store_x<8>(h, activate(g, u));
#endif
}

// The bias of rows [i, i + kLanes) of gate or, with part 1, up.
MOEJIT_INLINE F bias_of(const WElem* bias, i64 i, int part) {
  F b = {};
  MOEJIT_UNROLL for (int r = 0; r < kLanes; ++r) {
    if (i + r < kIntermediateSize) b[r] = E::to_f32<1>(bias + w13_row(i + r, part))[0];
  }
  return b;
}

// Sums of a block for `count` tokens to h + token * kHStride.
static __attribute__((noinline)) void block_results(const float* sums, const float* weights,
                                                    const WElem* bias, i64 i, int count, XElem* h) {
  F first = {}, second = {};
  if constexpr (kBias) {
    first = bias_of(bias, i, 0);
    second = kGated ? bias_of(bias, i, 1) : bias_of(bias, i + kLanes, 0);
  }
  for (int c = 0; c < count; ++c, sums += kBlockRows, h += kHStride) {
    F a = load<F>(sums), b = load<F>(sums + kLanes);
    if constexpr (kWeightOnInput) {
      a *= weights[c];
      b *= weights[c];
    }
    a += first;
    b += second;
    if constexpr (kGated) {
      store_activated(a, b, i, h);
    } else {
      store_activated(a, F{}, i, h);
      store_activated(b, F{}, i + kLanes, h + kLanes);
    }
  }
}

static void packed_gate_up(const MoeArgs* args, const Workspace& ws, int worker, int workers) {
  const WElem* w13 = (const WElem*)args->w13;
  const auto block_at = [&](const Unit& unit, i64 i) {
    return w13 + unit.expert * kPackedW13 + i / kBlockI * kBlockRows * (i64)kHiddenSize;
  };
  TaskQueue queue(ws.plan->gate_up, ws.plan->num_units * kRowBlocks, worker, workers);
  for (i64 task = queue.take(); task >= 0; task = queue.take()) {
    const i64 next_task = queue.peek();
    const Unit unit = ws.units[task / kRowBlocks];
    const i64 begin = task % kRowBlocks * kSched_row_block;
    const i64 end = begin + kSched_row_block < kIntermediateSize ? begin + kSched_row_block
                                                                 : (i64)kIntermediateSize;
    const Unit next_unit = next_task < 0 ? Unit{0, 0, 0} : ws.units[next_task / kRowBlocks];
    const WElem* next = next_task < 0
                            ? block_at(unit, begin)
                            : block_at(next_unit, next_task % kRowBlocks * kSched_row_block);
    const WElem* bias = kBias ? (const WElem*)args->b13 + unit.expert * kW13Rows : nullptr;
    const XElem* xs[kSched_token_block];
    for (int c = 0; c < unit.count; ++c) {
      xs[c] = ws.plan->x + ws.tokens[unit.first + c] * ws.plan->x_stride;
    }
    XRows to_come = x_rows_of(unit, next_unit, next_task, kBlockI, end - begin);
    alignas(64) float sums[kSched_token_block * kBlockRows];
    for (i64 i = begin; i < end; i += kBlockI) {
      to_come.fetch_slice(ws);
      const WElem* following = i + kBlockI < end ? block_at(unit, i + kBlockI) : next;
      multiply_block(block_at(unit, i), kHiddenSize, xs, unit.count, (const char*)following, sums);
      block_results(sums, ws.weights + unit.first, bias, i, unit.count,
                    ws.h + unit.first * kHStride + i);
    }
  }
}

}  // namespace moejit_cpu
