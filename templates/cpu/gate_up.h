// h = act(x @ w13.T), one task: a block of I for one unit of rows.
#pragma once
#include "math.h"
#include "tasks.h"
#include "tile.h"
#include "weights.h"

namespace moejit_cpu {

// A worker's buffers, with nothing in them.
MOEJIT_INLINE PanelBuffers buffers_of(const Workspace& ws, int worker) {
  XElem* first = ws.panels + 2 * worker * kPanelElements;
  return {first, first + kPanelElements, nullptr, 0};
}

// The rows of w13 of one expert that give the elements of I from i on.
MOEJIT_INLINE Panel gate_up_panel(const WElem* expert, i64 i) {
  constexpr i64 K = kHiddenSize;
  if constexpr (!kGated) {
    return panel_of(expert + i * K, K, K, kIntermediateSize - i);
  } else {
    const int last = (int)(i + kTileI < kIntermediateSize ? kTileI : kIntermediateSize - i) - 1;
    return {{expert + w13_row(i, 0) * K, expert + w13_row(i, 1) * K},
            kInterleaved ? 2 * K : K,
            K,
            {last, last}};
  }
}

// Results of a panel for `count` tokens to h + token * kHStride. What lies beyond I goes to the
// padding of the rows of h.
static __attribute__((noinline)) void gate_up_results(const float* sums, const float* weights,
                                                      const WElem* bias, i64 i, int count,
                                                      XElem* h) {
  F b = {};
  if constexpr (kBias) {
    MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
      const i64 element = i + (kGated ? r % kHalfRows : r);
      const i64 row = w13_row(element, kGated ? r / kHalfRows : 0);
      if (element < kIntermediateSize) b[r] = E::to_f32<1>(bias + row)[0];
    }
  }
  for (int c = 0; c < count; ++c, h += kHStride) {
    F v = load<F>(sums + c * kTileRows);
    if constexpr (kWeightOnInput) v *= weights[c];
    v += b;
#ifdef __AVX512F__
    const F8 low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    const F8 high = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    if constexpr (kGated) {
      store_x<8>(h, activate(low, high));
    } else {
      store_x<8>(h, activate(low, F8{}));
      store_x<8>(h + 8, activate(high, F8{}));
    }
#else
    if constexpr (kGated) {
      const F8 a = activate(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 4, 5, 6, 7));
      store_x<4>(h, __builtin_shufflevector(a, a, 0, 1, 2, 3));
    } else {
      store_x<8>(h, activate(v, F8{}));
    }
#endif
  }
}

// Unpacks columns [begin, end) of I of a transposed w13 into `to`, in the order of memory;
// scratch_row says which row is gate or up i.
static void unpack_w13(const WElem* expert, i64 begin, i64 end, WElem* to) {
  constexpr i64 kStride = scratch_stride(kHiddenSize);
  const int columns = (int)(end - begin);
  if constexpr (!kGated) {
    unpack(expert + begin, kW13Rows, kHiddenSize, columns, to, kStride);
  } else if constexpr (kInterleaved) {
    unpack(expert + 2 * begin, kW13Rows, kHiddenSize, 2 * columns, to, kStride);
  } else {
    unpack(expert + begin, kW13Rows, kHiddenSize, columns, to, kStride);
    unpack(expert + begin + kIntermediateSize, kW13Rows, kHiddenSize, columns,
           to + columns * kStride, kStride);
  }
}
MOEJIT_INLINE i64 scratch_row(i64 i, int part, i64 begin, i64 end) {
  if constexpr (!kGated) return i - begin;
  const int place = kUpFirst ? 1 - part : part;
  return kInterleaved ? 2 * (i - begin) + place : i - begin + place * (end - begin);
}

// A whole task for few tokens: runs of rows in memory order, then the activation along I. `next` is
// what to prefetch behind the last run.
template <int C>  // 0: more than kStreamTokens
static __attribute__((noinline)) void gate_up_stream(const Workspace& ws, const Unit& unit,
                                                     const WElem* expert, const WElem* bias,
                                                     const WElem* scratch, i64 begin, i64 end,
                                                     const char* next) {
  constexpr i64 kRuns = kGated && !kInterleaved ? 2 : 1;
  constexpr i64 kRows = kSched_row_block * (kGated ? 2 : 1);
  alignas(64) float sums[(C > 0 ? C : kDotTokens) * kRows];
  const int* tokens = ws.tokens + unit.first;
  const float* weights = ws.weights + unit.first;
  const XElem* xs[kDotTokens];
  for (int c = 0; c < unit.count; ++c) xs[c] = ws.plan->x + tokens[c] * ws.plan->x_stride;

  const i64 width = end - begin, run = width * (kGated ? 2 : 1) / kRuns;
  const auto run_begin = [&](i64 j) {
    // In memory order: with up_first, part 1 comes first, but either order reads all.
    if constexpr (kRuns == 1) return kInterleaved && kGated ? 2 * begin : begin;
    return begin + j * (i64)kIntermediateSize;
  };
  for (i64 j = 0; j < kRuns; ++j) {
    const char* following =
        j + 1 < kRuns ? (const char*)(expert + run_begin(j + 1) * kHiddenSize) : next;
    Rows rows = {expert + run_begin(j) * kHiddenSize, kHiddenSize, kHiddenSize, run, following};
    if constexpr (kTransposed) {
      constexpr i64 kStride = scratch_stride(kHiddenSize);
      const WElem* first = scratch + j * run * kStride;
      rows = {first, kStride, kHiddenSize, run, (const char*)first};
    }
    if constexpr (C == 0) {
      dot_fours(unit.count, rows, xs, sums + j * run, kRows);
    } else {
      dot_rows<C, kHiddenSize>(rows.first, kTransposed ? rows.stride : (i64)kHiddenSize, run,
                               rows.following, xs, sums + j * run, kRows);
    }
  }

  for (int c = 0; c < unit.count; ++c) {
    const float* s = sums + c * kRows;
    XElem* h = ws.h + (unit.first + c) * kHStride + begin;
    for (i64 i = 0; i < width; i += 4) {
      F4 g, u = {};
      if constexpr (!kGated) {
        g = load<F4>(s + i);
      } else if constexpr (kInterleaved) {
        const F8 both = load<F8>(s + 2 * i);
        g = __builtin_shufflevector(both, both, 0, 2, 4, 6);
        u = __builtin_shufflevector(both, both, 1, 3, 5, 7);
      } else {
        g = load<F4>(s + i);
        u = load<F4>(s + run + i);
      }
      if constexpr (kGated && kUpFirst) {
        const F4 swap = g;
        g = u;
        u = swap;
      }
      if constexpr (kWeightOnInput) {
        g *= weights[c];
        u *= weights[c];
      }
      if constexpr (kBias) {
        if constexpr (kGated && kInterleaved) {
          const F8 both = E::to_f32<8>(bias + 2 * (begin + i));
          const F4 even = __builtin_shufflevector(both, both, 0, 2, 4, 6);
          const F4 odd = __builtin_shufflevector(both, both, 1, 3, 5, 7);
          g += kUpFirst ? odd : even;
          u += kUpFirst ? even : odd;
        } else {
          g += E::to_f32<4>(bias + w13_row(begin + i, 0));
          if constexpr (kGated) u += E::to_f32<4>(bias + w13_row(begin + i, 1));
        }
      }
      const F8 v = activate(__builtin_shufflevector(g, g, 0, 1, 2, 3, 0, 1, 2, 3),
                            __builtin_shufflevector(u, u, 0, 1, 2, 3, 0, 1, 2, 3));
      store_x<4>(h + i, __builtin_shufflevector(v, v, 0, 1, 2, 3));
    }
  }
}

static void gate_up(const MoeArgs* args, const Workspace& ws, WElem* scratch, PanelBuffers buffers,
                    int worker, int workers) {
  const i64 tasks = ws.plan->num_units * kRowBlocks;
  const WElem* w13 = (const WElem*)args->w13;
  const WElem* b13 = (const WElem*)args->b13;
  constexpr i64 kExpert = kW13Rows * kHiddenSize;
  TaskQueue queue(ws.plan->gate_up, tasks, worker, workers);
  for (i64 task = queue.take(); task >= 0; task = queue.take()) {
    const i64 next_task = queue.peek();
    const Unit unit = ws.units[task / kRowBlocks];
    const i64 begin = task % kRowBlocks * kSched_row_block;
    const i64 end = begin + kSched_row_block < kIntermediateSize ? begin + kSched_row_block
                                                                 : (i64)kIntermediateSize;
    const Unit next_unit = next_task < 0 ? Unit{0, 0, 0} : ws.units[next_task / kRowBlocks];
    const i64 next_begin = next_task < 0 ? 0 : next_task % kRowBlocks * kSched_row_block;
    const WElem* expert = w13 + unit.expert * kExpert;
    const WElem* next_expert = w13 + next_unit.expert * kExpert;
    const WElem* bias = kBias ? b13 + unit.expert * kW13Rows : nullptr;
    if constexpr (kTransposed) {
      unpack_w13(expert, begin, end, scratch);
      buffers.packed = nullptr;
    }
    if (unit.count <= kDotTokens) {
      const WElem* next = next_expert + w13_row(next_begin, kGated && kUpFirst) * (i64)kHiddenSize;
      const char* following = (const char*)(next_task < 0 ? expert : next);
      if (unit.count == 1) {
        gate_up_stream<1>(ws, unit, expert, bias, scratch, begin, end, following);
      } else if (unit.count == 2) {
        gate_up_stream<2>(ws, unit, expert, bias, scratch, begin, end, following);
      } else {
        gate_up_stream<0>(ws, unit, expert, bias, scratch, begin, end, following);
      }
      continue;
    }
    const int* tokens = ws.tokens + unit.first;
    const XElem* xs[kSched_token_block];
    for (int c = 0; c < unit.count; ++c) xs[c] = ws.plan->x + tokens[c] * ws.plan->x_stride;
    // The panel of the elements from i on, in this task or the next.
    const auto panel_at = [&](i64 i) {
      if constexpr (kTransposed) {
        if (i >= end) return no_panel();
        constexpr i64 kStride = scratch_stride(kHiddenSize);
        if constexpr (!kGated) {
          return panel_of(scratch + (i - begin) * kStride, kStride, kHiddenSize, end - i);
        }
        const int last = (int)(i + kTileI < end ? kTileI : end - i) - 1;
        return Panel{{scratch + scratch_row(i, 0, begin, end) * kStride,
                      scratch + scratch_row(i, 1, begin, end) * kStride},
                     kInterleaved ? 2 * kStride : kStride,
                     kHiddenSize,
                     {last, last}};
      } else {
        if (i < end) return gate_up_panel(expert, i);
        const i64 to = next_begin + (i - end);
        if (next_unit.count <= kDotTokens || to >= kIntermediateSize) return no_panel();
        return gate_up_panel(next_expert, to);
      }
    };
    XRows to_come = x_rows_of(unit, next_unit, next_task, kTileI, end - begin);
    alignas(64) float sums[kSched_token_block * kTileRows];
    Panel panel = panel_at(begin), next = panel_at(begin + kTileI);
    for (i64 i = begin; i < end; i += kTileI) {
      const Panel after = panel_at(i + 2 * kTileI);
      to_come.fetch_slice(ws);
      multiply(buffers, panel, next, after, xs, unit.count, sums);
      gate_up_results(sums, ws.weights + unit.first, bias, i, unit.count,
                      ws.h + unit.first * kHStride + i);
      panel = next;
      next = after;
    }
  }
}

}  // namespace moejit_cpu
