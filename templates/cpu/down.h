// out = sum over a token's experts of weight * (h @ w2.T), one task: a block of columns of H for
// all tokens and experts. A task owns its columns, so sums are kept in f32 and added in the order
// of the experts: no y in memory, no combine, no atomics, and the same bits for any number of
// workers. Every task costs the same, however the routing is skewed.
#pragma once
#include "plan.h"
#include "stream.h"
#include "tile.h"
#include "weights.h"

namespace moejit_cpu {

constexpr int kColumnBlocks = (kHiddenSize + kSched_column_block - 1) / kSched_column_block;

// C tokens by four columns, over `length` elements of I.
template <int C>
static __attribute__((noinline)) void down_tile(const WElem* const* rows, const XElem* h,
                                                i64 length, F4 bias, const int* tokens,
                                                const float* weights, float* acc_out,
                                                const Ahead& ahead, int pass, int passes) {
  Acc<C> acc;
  MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc.v[r][c] = F{};
  }
  const XElem* hs[C];
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) hs[c] = h + c * kHStride;
  const WElem* w[kTileRows];
  MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) w[r] = rows[r];
  multiply<C>(w, hs, length, ahead, pass, passes, acc);

  F8 sums[groups_of(C)];
  reduce<C>(acc, sums);
  MOEJIT_UNROLL for (int g = 0; g < groups_of(C); ++g) {
    const F8 v = by_token(sums[g]);
    MOEJIT_UNROLL for (int j = 0; j < 2; ++j) {
      const int c = 2 * g + j;
      if (c >= C) break;
      F4 y = j == 0 ? __builtin_shufflevector(v, v, 0, 1, 2, 3)
                    : __builtin_shufflevector(v, v, 4, 5, 6, 7);
      if constexpr (kBias) y += bias;
      if constexpr (!kWeightOnInput) y *= weights[c];
      float* to = acc_out + (i64)tokens[c] * kSched_column_block;
      store<F4>(to, load<F4>(to) + y);
    }
  }
}

static void down_rows(const Workspace& ws, const Unit& unit, const WElem* const* rows, i64 k,
                      i64 length, F4 bias, float* acc, const Ahead& ahead) {
  const Tiling tiling = tiling_of(unit.count);
  i64 place = unit.first;
  for (int pass = 0; pass < tiling.passes; ++pass) {
    const int count = tiling.size + (pass < tiling.larger);
    const int* tokens = ws.tokens + place;
    const float* weights = ws.weights + place;
    const XElem* h = ws.h + place * kHStride + k;
    switch (count) {
#define MOEJIT_TILE(C)                                                                     \
  case C:                                                                                  \
    down_tile<C>(rows, h, length, bias, tokens, weights, acc, ahead, pass, tiling.passes); \
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

// One unit's contribution to columns [begin, end), over elements [k, k + length) of I. `following`
// is where the weights are that come next, or null.
static void down_unit(const MoeArgs* args, const Workspace& ws, const Unit& unit, i64 begin,
                      i64 end, i64 k, i64 length, const WElem* scratch, float* acc,
                      const char* following, const char* next_h, i64 next_h_bytes) {
  const WElem* expert = (const WElem*)args->w2 + unit.expert * (i64)kHiddenSize * kIntermediateSize;
  constexpr i64 kRowBytes = (i64)kIntermediateSize * sizeof(WElem);
  // The next unit's rows of h, a slice with every tile.
  const i64 slice = next_h_bytes / ((end - begin) / kTileRows) / 64 * 64 + 64;
  const char* h_end = next_h + next_h_bytes;
  for (i64 n = begin; n < end; n += kTileRows) {
    for (const char* stop = next_h + slice < h_end ? next_h + slice : h_end; next_h < stop;
         next_h += 64) {
      prefetch(next_h);
    }
    const WElem* rows[kTileRows];
    // The tile kSched_prefetch on from here, in this block of columns or in what follows it.
    const i64 to = n + kSched_prefetch * kTileRows;
    Ahead ahead = {{}, kTransposed || (to >= end && !following) ? 0 : length * (i64)sizeof(WElem)};
    const char* next = to < end ? (const char*)(expert + to * kIntermediateSize + k)
                                : following + (to - end) * kRowBytes;
    MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
      rows[r] = kTransposed ? scratch + (n - begin + r) * scratch_stride(kIntermediateSize) + k
                            : expert + (n + r) * kIntermediateSize + k;
      ahead.row[r] = next + r * kRowBytes;
    }
    F4 bias = {};
    if constexpr (kBias) {
      if (k == 0) bias = E::to_f32<4>((const WElem*)args->b2 + unit.expert * (i64)kHiddenSize + n);
    }
    down_rows(ws, unit, rows, k, length, bias, acc + (n - begin), ahead);
  }
}

// The same for few tokens.
template <int C>
static __attribute__((noinline)) void down_stream(const MoeArgs* args, const Workspace& ws,
                                                  const Unit& unit, i64 begin, i64 end,
                                                  const WElem* scratch, float* acc,
                                                  const char* following) {
  alignas(64) float sums[C * kSched_column_block];
  const XElem* hs[C];
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) hs[c] = ws.h + (unit.first + c) * kHStride;
  const WElem* rows =
      (const WElem*)args->w2 + (unit.expert * (i64)kHiddenSize + begin) * kIntermediateSize;
  const i64 width = end - begin;
  if constexpr (kTransposed) {
    dot_rows<C, kIntermediateSize>(scratch, scratch_stride(kIntermediateSize), width,
                                   (const char*)scratch, hs, sums, kSched_column_block);
  } else {
    dot_rows<C, kIntermediateSize>(rows, kIntermediateSize, width,
                                   following ? following : (const char*)rows, hs, sums,
                                   kSched_column_block);
  }
  for (int c = 0; c < C; ++c) {
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

// Writes columns [begin, end) of out.
static void finish(const MoeArgs* args, const float* acc, i64 begin, i64 end) {
  for (i64 t = 0; t < args->num_tokens; ++t) {
    const float* from = acc + t * kSched_column_block;
    WElem* to = (WElem*)args->out + t * kHiddenSize + begin;
    i64 n = 0;
    for (; n + kLanes <= end - begin; n += kLanes) E::from_f32<kLanes>(to + n, load<F>(from + n));
    for (; n < end - begin; n += 4) E::from_f32<4>(to + n, load<F4>(from + n));
  }
}

static void down(const MoeArgs* args, const Workspace& ws, float* acc, WElem* scratch, int worker,
                 int workers) {
  const i64 tokens = args->num_tokens, units = ws.plan->num_units;
  constexpr i64 kExpertBytes = (i64)kHiddenSize * kIntermediateSize * sizeof(WElem);
  TaskQueue queue(ws.plan->down, kColumnBlocks, worker, workers);
  for (i64 task = queue.take(); task >= 0; task = queue.take()) {
    const i64 next_task = queue.peek();
    const i64 begin = task * kSched_column_block;
    const i64 end =
        begin + kSched_column_block < kHiddenSize ? begin + kSched_column_block : (i64)kHiddenSize;
    for (i64 n = 0; n < tokens * kSched_column_block; n += kLanes) store<F>(acc + n, F{});
    for (i64 u = 0; u < units; ++u) {
      const Unit unit = ws.units[u];
      // A long I is cut so that the unit's rows of h stay in the L2; a few rows fit whole.
      const i64 chunk = unit.count <= stream_tokens<kIntermediateSize>() ||
                                unit.count * (i64)kHStride <= (i64)kSched_token_block * kDownChunk
                            ? (i64)kIntermediateSize
                            : (i64)kDownChunk;
      if constexpr (kTransposed) {
        if (u == 0 || ws.units[u - 1].expert != unit.expert) {
          unpack(
              (const WElem*)args->w2 + unit.expert * (i64)kHiddenSize * kIntermediateSize + begin,
              kHiddenSize, kIntermediateSize, (int)(end - begin), scratch,
              scratch_stride(kIntermediateSize));
        }
      }
      const char* next_h = (const char*)(ws.h + (unit.first + unit.count) * kHStride);
      const i64 next_h_bytes = chunk < kIntermediateSize || u + 1 >= units
                                   ? 0
                                   : ws.units[u + 1].count * kHStride * (i64)sizeof(XElem);
      for (i64 k = 0; k < kIntermediateSize; k += chunk) {
        const i64 length = k + chunk < kIntermediateSize ? chunk : kIntermediateSize - k;
        const char* following = nullptr;
        if (k + chunk < kIntermediateSize) {
          following = (const char*)args->w2 + unit.expert * kExpertBytes +
                      (begin * kIntermediateSize + k + chunk) * (i64)sizeof(WElem);
        } else if (u + 1 < units) {
          following = (const char*)args->w2 + ws.units[u + 1].expert * kExpertBytes +
                      begin * kIntermediateSize * (i64)sizeof(WElem);
        } else if (next_task >= 0) {
          following = (const char*)args->w2 + ws.units[0].expert * kExpertBytes +
                      next_task * kSched_column_block * kIntermediateSize * (i64)sizeof(WElem);
        }
        switch (unit.count <= stream_tokens<kIntermediateSize>() ? unit.count : 0) {
#define MOEJIT_STREAM(C)                                                 \
  case C:                                                                \
    down_stream<C>(args, ws, unit, begin, end, scratch, acc, following); \
    break
          MOEJIT_STREAM(1);
          MOEJIT_STREAM(2);
          MOEJIT_STREAM(3);
          MOEJIT_STREAM(4);
#undef MOEJIT_STREAM
          default:
            down_unit(args, ws, unit, begin, end, k, length, scratch, acc, following, next_h,
                      next_h_bytes);
        }
      }
    }
    finish(args, acc, begin, end);
  }
}

}  // namespace moejit_cpu
