// h = act(x @ w13.T), one task: a block of I for one unit of rows.
#pragma once
#include "math.h"
#include "plan.h"
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

  F sums[groups_of(C)];
  reduce<C>(acc, sums);
  if constexpr (kWeightOnInput) {
    MOEJIT_UNROLL for (int g = 0; g < groups_of(C); ++g) {
      F scale = {};
      MOEJIT_UNROLL for (int l = 0; l < kLanes; ++l) {
        const int c = g * kGroup + l % kGroup;
        scale[l] = weights[c < C ? c : C - 1];
      }
      sums[g] *= scale;
    }
  }
  if constexpr (kGated) {
    // Rows 0 and 1 are gates, 2 and 3 ups: halves of every group; two groups fill one vector.
    constexpr int kLast = groups_of(C) - 1;
    F g = lower_halves(sums[0], sums[kLast]);
    F u = upper_halves(sums[0], sums[kLast]);
    if constexpr (kBias) {
      g += two_rows(rows.bias[0], rows.bias[1]);
      u += two_rows(rows.bias[2], rows.bias[3]);
    }
    XElem pairs[2 * kLanes];
    store_x<kLanes>(pairs, pairs_by_token(activate(g, u)));
    typedef XElem Pair __attribute__((vector_size(2 * sizeof(XElem))));
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) store<Pair>(h + c * kHStride, load<Pair>(pairs + 2 * c));
  } else {
    MOEJIT_UNROLL for (int g = 0; g < groups_of(C); ++g) {
      F v = by_token(sums[g]);
      if constexpr (kBias) {
        MOEJIT_UNROLL for (int l = 0; l < kLanes; ++l) v[l] += rows.bias[l % kTileRows];
      }
      XElem quads[kLanes];
      store_x<kLanes>(quads, activate(v, F{}));
      typedef XElem Quad __attribute__((vector_size(4 * sizeof(XElem))));
      MOEJIT_UNROLL for (int j = 0; j < kGroup; ++j) {
        if (g * kGroup + j < C) store<Quad>(h + (g * kGroup + j) * kHStride, load<Quad>(quads + 4 * j));
      }
    }
  }
}

// All rows of the unit by the tile of rows at i.
static void gate_up_rows(const Workspace& ws, const Unit& unit, const GateUpRows& rows, i64 i,
                         const Ahead& ahead) {
  const int passes = passes_of(unit.count);
  const XElem* x = ws.plan->x;
  const i64 x_stride = ws.plan->x_stride;
  for (int pass = 0; pass < passes; ++pass) {
    const int begin = pass_begin(pass, passes, unit.count);
    const int count = pass_begin(pass + 1, passes, unit.count) - begin;
    const i64 place = unit.first + begin;
    const int* tokens = ws.tokens + place;
    const float* weights = ws.weights + place;
    XElem* h = ws.h + place * kHStride + i;
    switch (count) {
#define MOEJIT_TILE(C) \
  case C: gate_up_tile<C>(rows, x, x_stride, tokens, weights, h, ahead, pass, passes); break
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
  }
}

// Unpacks columns [begin, end) of I of a transposed w13 into `to`; returns where row `i` of `part` is
// through scratch_row below.
static void unpack_w13(const WElem* expert, i64 begin, i64 end, WElem* to) {
  constexpr i64 kStride = scratch_stride(kHiddenSize);
  const int columns = (int)(end - begin);
  if constexpr (!kGated) {
    unpack(expert + begin, kW13Rows, kHiddenSize, columns, to, kStride);
  } else if constexpr (kInterleaved) {
    unpack(expert + 2 * begin, kW13Rows, kHiddenSize, 2 * columns, to, kStride);
  } else {
    unpack(expert + w13_row(begin, 0), kW13Rows, kHiddenSize, columns, to, kStride);
    unpack(expert + w13_row(begin, 1), kW13Rows, kHiddenSize, columns, to + columns * kStride, kStride);
  }
}
MOEJIT_INLINE i64 scratch_row(i64 i, int part, i64 begin, i64 end) {
  if constexpr (!kGated) return i - begin;
  if constexpr (kInterleaved) return 2 * (i - begin) + (kUpFirst ? 1 - part : part);
  return i - begin + part * (end - begin);
}

static void gate_up(const MoeArgs* args, const Workspace& ws, WElem* scratch) {
  const i64 tasks = ws.plan->num_units * kRowBlocks;
  const WElem* w13 = (const WElem*)args->w13;
  const WElem* b13 = (const WElem*)args->b13;
  constexpr i64 kExpert = kW13Rows * kHiddenSize;
  for (i64 task = take(&ws.plan->next_gate_up); task < tasks;) {
    // The next task is taken early, so that this one's last tile can prefetch its first.
    const i64 next_task = take(&ws.plan->next_gate_up);
    const Unit unit = ws.units[task / kRowBlocks];
    const i64 begin = task % kRowBlocks * kSched_row_block;
    const i64 end = begin + kSched_row_block < kIntermediateSize ? begin + kSched_row_block
                                                                 : (i64)kIntermediateSize;
    const WElem* expert = w13 + unit.expert * kExpert;
    if constexpr (kTransposed) unpack_w13(expert, begin, end, scratch);
    for (i64 i = begin; i < end; i += kTileI) {
      GateUpRows rows;
      MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
        const i64 element = kGated ? i + r % 2 : i + r;
        const int part = kGated ? r / 2 : 0;
        const i64 row = w13_row(element, part);
        rows.w[r] = kTransposed ? scratch + scratch_row(element, part, begin, end) * scratch_stride(kHiddenSize)
                                : expert + row * kHiddenSize;
        if constexpr (kBias) rows.bias[r] = E::to_f32<1>(b13 + unit.expert * kW13Rows + row)[0];
      }
      Ahead ahead = {{}, 0};
      if (!kTransposed) {
        ahead.bytes = (i64)kHiddenSize * sizeof(WElem);
        if (i + kTileI < end) {
          point_ahead(ahead, expert, i + kTileI);
        } else if (next_task < tasks) {
          point_ahead(ahead, w13 + ws.units[next_task / kRowBlocks].expert * kExpert,
                      next_task % kRowBlocks * kSched_row_block);
        } else {
          ahead.bytes = 0;
        }
      }
      gate_up_rows(ws, unit, rows, i, ahead);
    }
    task = next_task;
  }
}

}  // namespace moejit_cpu
