// h = act(x @ w13.T), one task: a block of I for one unit of rows.
#pragma once
#include "math.h"
#include "plan.h"
#include "stream.h"
#include "tile.h"
#include "weights.h"

namespace moejit_cpu {

constexpr int kRowBlocks = (kIntermediateSize + kSched_row_block - 1) / kSched_row_block;

// A tile of rows of one expert: where its weights are, and their biases.
struct GateUpRows {
  const WElem* w[kTileRows];
  float bias[kTileRows];
};

// The first tile of block `i` of expert `e`, in place: only for prefetching.
MOEJIT_INLINE void point_ahead(Ahead& ahead, const WElem* expert, i64 i) {
  MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
    const i64 row = kGated ? w13_row(i + r % 2, r / 2) : i + r;
    ahead.row[r] = (const char*)(expert + row * kHiddenSize);
  }
}

// One tile: C tokens by the rows of I at i; results go to h + token * kHStride + i.
template <int C>
static __attribute__((noinline)) void gate_up_tile(const GateUpRows& rows, const XElem* x,
                                                   i64 x_stride, const int* tokens,
                                                   const float* weights, XElem* h,
                                                   const Ahead& ahead, int pass, int passes) {
  Acc<C> acc;
  MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc.v[r][c] = F{};
  }
  const XElem* xs[C];
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) xs[c] = x + tokens[c] * x_stride;
  const WElem* w[kTileRows];
  MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) w[r] = rows.w[r];
  multiply<C>(w, xs, kHiddenSize, ahead, pass, passes, acc);

  F8 sums[groups_of(C)];
  reduce<C>(acc, sums);
  if constexpr (kWeightOnInput) {
    MOEJIT_UNROLL for (int g = 0; g < groups_of(C); ++g) {
      const float a = weights[2 * g], b = weights[2 * g + 1 < C ? 2 * g + 1 : 2 * g];
      sums[g] *= F8{a, b, a, b, a, b, a, b};
    }
  }
  if constexpr (kGated) {
    // Rows 0 and 1 are gates, 2 and 3 ups: halves of every group; two groups fill a vector of each.
    MOEJIT_UNROLL for (int q = 0; q < groups_of(C); q += 2) {
      const F8 first = sums[q], second = sums[q + 1 < groups_of(C) ? q + 1 : q];
      F8 g = __builtin_shufflevector(first, second, 0, 1, 2, 3, 8, 9, 10, 11);
      F8 u = __builtin_shufflevector(first, second, 4, 5, 6, 7, 12, 13, 14, 15);
      if constexpr (kBias) {
        const float* b = rows.bias;
        g += F8{b[0], b[0], b[1], b[1], b[0], b[0], b[1], b[1]};
        u += F8{b[2], b[2], b[3], b[3], b[2], b[2], b[3], b[3]};
      }
      const F8 v = activate(g, u);
      XElem pairs[8];  // two elements of I for each of four tokens
      store_x<8>(pairs, __builtin_shufflevector(v, v, 0, 2, 1, 3, 4, 6, 5, 7));
      typedef XElem Pair __attribute__((vector_size(2 * sizeof(XElem))));
      MOEJIT_UNROLL for (int j = 0; j < 4; ++j) {
        const int c = 2 * q + j;
        if (c < C) store<Pair>(h + c * kHStride, load<Pair>(pairs + 2 * j));
      }
    }
  } else {
    MOEJIT_UNROLL for (int g = 0; g < groups_of(C); ++g) {
      F8 v = by_token(sums[g]);
      if constexpr (kBias) {
        const float* b = rows.bias;
        v += F8{b[0], b[1], b[2], b[3], b[0], b[1], b[2], b[3]};
      }
      XElem quads[8];
      store_x<8>(quads, activate(v, F8{}));
      typedef XElem Quad __attribute__((vector_size(4 * sizeof(XElem))));
      MOEJIT_UNROLL for (int j = 0; j < 2; ++j) {
        const int c = 2 * g + j;
        if (c < C) store<Quad>(h + c * kHStride, load<Quad>(quads + 4 * j));
      }
    }
  }
}

// All rows of the unit by the tile of rows at i.
static void gate_up_rows(const Workspace& ws, const Unit& unit, const GateUpRows& rows, i64 i,
                         const Ahead& ahead) {
  const Tiling tiling = tiling_of(unit.count);
  const XElem* x = ws.plan->x;
  const i64 x_stride = ws.plan->x_stride;
  i64 place = unit.first;
  for (int pass = 0; pass < tiling.passes; ++pass) {
    const int count = tiling.size + (pass < tiling.larger);
    const int* tokens = ws.tokens + place;
    const float* weights = ws.weights + place;
    XElem* h = ws.h + place * kHStride + i;
    switch (count) {
#define MOEJIT_TILE(C)                                                                  \
  case C:                                                                               \
    gate_up_tile<C>(rows, x, x_stride, tokens, weights, h, ahead, pass, tiling.passes); \
    break
      MOEJIT_TILE(1);
      MOEJIT_TILE(2);
      MOEJIT_TILE(3);
#ifdef __AVX512F__
      MOEJIT_TILE(4);
      MOEJIT_TILE(5);
      MOEJIT_TILE(6);
#endif
#undef MOEJIT_TILE
    }
    place += count;
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
template <int C>
static __attribute__((noinline)) void gate_up_stream(const Workspace& ws, const Unit& unit,
                                                     const WElem* expert, const WElem* bias,
                                                     const WElem* scratch, i64 begin, i64 end,
                                                     const char* next) {
  constexpr i64 kRuns = kGated && !kInterleaved ? 2 : 1;
  constexpr i64 kRows = kSched_row_block * (kGated ? 2 : 1);
  alignas(64) float sums[C * kRows];
  const int* tokens = ws.tokens + unit.first;
  const float* weights = ws.weights + unit.first;
  const XElem* xs[C];
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) xs[c] = ws.plan->x + tokens[c] * ws.plan->x_stride;

  const i64 width = end - begin, run = width * (kGated ? 2 : 1) / kRuns;
  const auto run_begin = [&](i64 j) {
    // In memory order: with up_first, part 1 comes first, but either order reads all.
    if constexpr (kRuns == 1) return kInterleaved && kGated ? 2 * begin : begin;
    return begin + j * (i64)kIntermediateSize;
  };
  for (i64 j = 0; j < kRuns; ++j) {
    const char* following =
        j + 1 < kRuns ? (const char*)(expert + run_begin(j + 1) * kHiddenSize) : next;
    if constexpr (kTransposed) {
      constexpr i64 kStride = scratch_stride(kHiddenSize);
      const WElem* rows = scratch + j * run * kStride;
      dot_rows<C, kHiddenSize>(rows, kStride, run, (const char*)rows, xs, sums + j * run, kRows);
    } else {
      dot_rows<C, kHiddenSize>(expert + run_begin(j) * kHiddenSize, kHiddenSize, run, following, xs,
                               sums + j * run, kRows);
    }
  }

  for (int c = 0; c < C; ++c) {
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

static void gate_up(const MoeArgs* args, const Workspace& ws, WElem* scratch, int worker,
                    int workers) {
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
    const WElem* expert = w13 + unit.expert * kExpert;
    if constexpr (kTransposed) unpack_w13(expert, begin, end, scratch);
    if (unit.count <= stream_tokens<kHiddenSize>()) {
      const bool more = next_task >= 0;
      const i64 next_row =
          more ? w13_row(next_task % kRowBlocks * kSched_row_block, kGated && kUpFirst) : 0;
      const char* next =
          (const char*)(more ? w13 + ws.units[next_task / kRowBlocks].expert * kExpert +
                                   next_row * kHiddenSize
                             : expert);
      const WElem* bias = kBias ? b13 + unit.expert * kW13Rows : nullptr;
      switch (unit.count) {
#define MOEJIT_STREAM(C)                                                  \
  case C:                                                                 \
    gate_up_stream<C>(ws, unit, expert, bias, scratch, begin, end, next); \
    break
        MOEJIT_STREAM(1);
        MOEJIT_STREAM(2);
        MOEJIT_STREAM(3);
        MOEJIT_STREAM(4);
#undef MOEJIT_STREAM
      }
      continue;
    }
    for (i64 i = begin; i < end; i += kTileI) {
      GateUpRows rows;
      MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
        const i64 element = kGated ? i + r % 2 : i + r;
        const int part = kGated ? r / 2 : 0;
        const i64 row = w13_row(element, part);
        rows.w[r] = kTransposed ? scratch + scratch_row(element, part, begin, end) *
                                                scratch_stride(kHiddenSize)
                                : expert + row * kHiddenSize;
        if constexpr (kBias) rows.bias[r] = E::to_f32<1>(b13 + unit.expert * kW13Rows + row)[0];
      }
      Ahead ahead = {{}, 0};
      if (!kTransposed && kSched_prefetch != 0) {
        // The tile kSched_prefetch on from here, in this task or the next.
        ahead.bytes = (i64)kHiddenSize * sizeof(WElem);
        const i64 to = i + kSched_prefetch * kTileI;
        if (to < end) {
          point_ahead(ahead, expert, to);
        } else if (next_task >= 0) {
          const i64 next_begin = next_task % kRowBlocks * kSched_row_block;
          point_ahead(ahead, w13 + ws.units[next_task / kRowBlocks].expert * kExpert,
                      next_begin + (to - end));
        } else {
          ahead.bytes = 0;
        }
      }
      gate_up_rows(ws, unit, rows, i, ahead);
    }
  }
}

}  // namespace moejit_cpu
