// out = sum over a token's experts of weight * (h @ w2.T), one task: a block of columns of H for
// all tokens and experts. A task owns its columns, so sums are kept in f32 and added in the order
// of the experts: no y in memory, no combine, no atomics, and the same bits for any number of
// workers. Every task costs the same, however the routing is skewed.
#pragma once
#include "tasks.h"
#include "tile.h"
#include "weights.h"

namespace moejit_cpu {

// A panel's columns from n on, of one unit's tokens, to the sums of those tokens.
static __attribute__((noinline)) void add_columns(const float* sums, const int* tokens,
                                                  const float* weights, const WElem* bias, i64 n,
                                                  int count, float* acc) {
  F b = {};
  if constexpr (kBias) {
    MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
      if (bias != nullptr && n + r < kHiddenSize) b[r] = E::to_f32<1>(bias + n + r)[0];
    }
  }
  for (int c = 0; c < count; ++c) {
    F y = load<F>(sums + c * kTileRows) + b;
    if constexpr (!kWeightOnInput) y *= weights[c];
    float* to = acc + (i64)tokens[c] * kSched_column_block;
    store<F>(to, load<F>(to) + y);
  }
}

// One unit of few tokens: all of its columns.
template <int C>  // 0: more than kStreamTokens
static __attribute__((noinline)) void down_stream(const MoeArgs* args, const Workspace& ws,
                                                  const Unit& unit, i64 begin, i64 end,
                                                  const WElem* scratch, float* acc,
                                                  const char* following) {
  alignas(64) float sums[(C > 0 ? C : kDotTokens) * kSched_column_block];
  const XElem* hs[kDotTokens];
  for (int c = 0; c < unit.count; ++c) hs[c] = ws.h + (unit.first + c) * kHStride;
  const i64 width = end - begin;
  const WElem* first =
      (const WElem*)args->w2 + (unit.expert * (i64)kHiddenSize + begin) * kIntermediateSize;
  Rows rows = {first, kIntermediateSize, kIntermediateSize, width,
               following ? following : (const char*)first};
  if constexpr (kTransposed) {
    rows = {scratch, scratch_stride(kIntermediateSize), kIntermediateSize, width,
            (const char*)scratch};
  }
  if constexpr (C == 0) {
    dot_fours(unit.count, rows, hs, sums, kSched_column_block);
  } else {
    dot_rows<C, kIntermediateSize>(rows.first, kTransposed ? rows.stride : (i64)kIntermediateSize,
                                   width, rows.following, hs, sums, kSched_column_block);
  }
  for (int c = 0; c < unit.count; ++c) {
    float* to = acc + (i64)ws.tokens[unit.first + c] * kSched_column_block;
    const float weight = ws.weights[unit.first + c];
    for (i64 n = 0; n < width; n += 4) {
      F4 y = load<F4>(sums + c * kSched_column_block + n);
      if constexpr (kBias) {
        y += E::to_f32<4>((const WElem*)args->b2 + unit.expert * (i64)kHiddenSize + begin + n);
      }
      if constexpr (!kWeightOnInput) y *= weight;
      store<F4>(to + n, load<F4>(to + n) + y);
    }
  }
}

// A place in the walk of a task: units, then pieces of I, then panels of columns.
struct DownAt {
  i64 unit, k, n, begin, end;
};

// The place after `at`; unit < 0 at the end. `next_task` comes after this one.
MOEJIT_INLINE DownAt after(const Workspace& ws, DownAt at, i64 next_task) {
  at.n += kTileRows;
  if (at.n < at.end) return at;
  at.n = at.begin;
  at.k += kPiece;
  if (at.k < kIntermediateSize) return at;
  at.k = 0;
  if (++at.unit < ws.plan->num_units) return at;
  at.unit = next_task < 0 ? -1 : 0;
  at.n = at.begin = next_task * kSched_column_block;
  at.end = at.n + kSched_column_block < kHiddenSize ? at.n + kSched_column_block : (i64)kHiddenSize;
  return at;
}

// None for a unit of few tokens, which streams.
MOEJIT_INLINE Panel down_panel(const MoeArgs* args, const Workspace& ws, const DownAt& at,
                               const WElem* scratch, bool same_expert) {
  if (at.unit < 0) return no_panel();
  const Unit& unit = ws.units[at.unit];
  if (unit.count <= kDotTokens) return no_panel();
  const i64 length = at.k + kPiece < kIntermediateSize ? kPiece : kIntermediateSize - at.k;
  if constexpr (kTransposed) {
    constexpr i64 kStride = scratch_stride(kIntermediateSize);
    if (!same_expert) return no_panel();
    return panel_of(scratch + (at.n - at.begin) * kStride + at.k, kStride, length, at.end - at.n);
  }
  const WElem* expert = (const WElem*)args->w2 + unit.expert * (i64)kHiddenSize * kIntermediateSize;
  return panel_of(expert + at.n * kIntermediateSize + at.k, kIntermediateSize, length,
                  at.end - at.n);
}

// What a worker owns.
struct DownMemory {
  float* acc;
  WElem* scratch;
  PanelBuffers buffers;
};

// One unit of more tokens.
static __attribute__((noinline)) void down_unit(const MoeArgs* args, const Workspace& ws,
                                                DownMemory& own, DownAt at, i64 next_task) {
  const i64 index = at.unit, begin = at.begin;
  const Unit unit = ws.units[index];
  const WElem* bias = kBias ? (const WElem*)args->b2 + unit.expert * (i64)kHiddenSize : nullptr;
  // The next unit's rows of h come to the L2, a slice with every panel.
  const char* next_h = (const char*)(ws.h + (unit.first + unit.count) * kHStride);
  const i64 next_bytes = kPiece < kIntermediateSize || index + 1 >= ws.plan->num_units
                             ? 0
                             : ws.units[index + 1].count * kHStride * (i64)sizeof(XElem);
  const char* h_end = next_h + next_bytes;
  const i64 slice = next_bytes * kTileRows / (at.end - begin) / 64 * 64 + 64;

  alignas(64) float sums[kSched_token_block * kTileRows];
  const XElem* hs[kSched_token_block];
  const auto panel_at = [&](const DownAt& place) {
    const bool same =
        place.unit >= 0 && place.begin == begin && ws.units[place.unit].expert == unit.expert;
    return down_panel(args, ws, place, own.scratch, same);
  };
  DownAt next_at = after(ws, at, next_task);
  Panel panel = panel_at(at), next = panel_at(next_at);
  while (at.unit == index && at.begin == begin) {
    if (at.n == begin) {
      for (int c = 0; c < unit.count; ++c) hs[c] = ws.h + (unit.first + c) * kHStride + at.k;
    }
    for (const char* stop = next_h + slice < h_end ? next_h + slice : h_end; next_h < stop;
         next_h += 64) {
      prefetch(next_h);
    }
    const DownAt after_at = next_at.unit < 0 ? next_at : after(ws, next_at, next_task);
    const Panel behind = panel_at(after_at);
    multiply(own.buffers, panel, next, behind, hs, unit.count, sums);
    add_columns(sums, ws.tokens + unit.first, ws.weights + unit.first, at.k == 0 ? bias : nullptr,
                at.n, unit.count, own.acc + (at.n - begin));
    at = next_at;
    next_at = after_at;
    panel = next;
    next = behind;
  }
}

static void down(const MoeArgs* args, const Workspace& ws, DownMemory own, int worker,
                 int workers) {
  const i64 tokens = args->num_tokens, units = ws.plan->num_units;
  const WElem* w2 = (const WElem*)args->w2;
  constexpr i64 kExpert = (i64)kHiddenSize * kIntermediateSize;
  TaskQueue queue(ws.plan->down, kColumnBlocks, worker, workers);
  for (i64 task = queue.take(); task >= 0; task = queue.take()) {
    const i64 next_task = queue.peek();
    const i64 begin = task * kSched_column_block;
    const i64 end =
        begin + kSched_column_block < kHiddenSize ? begin + kSched_column_block : (i64)kHiddenSize;
    for (i64 n = 0; n < tokens * kSched_column_block; n += kLanes) store<F>(own.acc + n, F{});
    for (i64 u = 0; u < units; ++u) {
      const Unit unit = ws.units[u];
      if constexpr (kTransposed) {
        if (u == 0 || ws.units[u - 1].expert != unit.expert) {
          unpack(w2 + unit.expert * kExpert + begin, kHiddenSize, kIntermediateSize,
                 (int)(end - begin), own.scratch, scratch_stride(kIntermediateSize));
          own.buffers.packed = nullptr;
        }
      }
      if (unit.count > kDotTokens) {
        down_unit(args, ws, own, {u, 0, begin, begin, end}, next_task);
        continue;
      }
      const WElem* following = nullptr;
      if (u + 1 < units) {
        following = w2 + ws.units[u + 1].expert * kExpert + begin * kIntermediateSize;
      } else if (next_task >= 0) {
        following =
            w2 + ws.units[0].expert * kExpert + next_task * kSched_column_block * kIntermediateSize;
      }
      const char* then = (const char*)following;
      if (unit.count == 1) {
        down_stream<1>(args, ws, unit, begin, end, own.scratch, own.acc, then);
      } else if (unit.count == 2) {
        down_stream<2>(args, ws, unit, begin, end, own.scratch, own.acc, then);
      } else {
        down_stream<0>(args, ws, unit, begin, end, own.scratch, own.acc, then);
      }
    }
    finish(args, own.acc, begin, end);
  }
}

}  // namespace moejit_cpu
