// Few tokens: dot products of rows of weights where they lie, lanes along K, nothing packed. One or
// two tokens stream one row after the other; more take four rows at a time, ten loads for 24 dot
// products, in one or two passes.
#pragma once
#include "simd.h"

namespace moejit_cpu {

// Most tokens of one expert that are multiplied so: with more, packing panels (tile.h) pays.
constexpr int kDotTokens = 2 * kTileTokens;
// Of them, most that stream one row after the other.
constexpr int kStreamTokens = 2;
// So many rows before the end of a run, what follows it is prefetched: about 4 KiB on the way hide
// the latency.
template <int kLength>
constexpr int rows_ahead() {
  constexpr i64 kBytes = (i64)kLength * sizeof(WElem);
  return (int)((kSched_stream_ahead * 1024 + kBytes - 1) / kBytes);
}

constexpr bool kHasTail = kHiddenSize % kStep != 0 || kIntermediateSize % kStep != 0;

// sum[c] = row . x[c], as vectors still to be summed; `ahead`, unless null, is another row, to be
// prefetched.
template <int C>
MOEJIT_INLINE void dot_row(const WElem* row, const XElem* const* x, i64 length, const char* ahead,
                           F (&sum)[C]) {
  constexpr int kChains = C == 1 ? 4 : 2;
  constexpr i64 kBlock = kChains * kStep;
  F acc[kChains][C];
  MOEJIT_UNROLL for (int j = 0; j < kChains; ++j) {
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[j][c] = F{};
  }
  i64 k = 0;
  for (; k + kBlock <= length; k += kBlock) {
    MOEJIT_UNROLL for (int j = 0; j < kChains; ++j) {
      const i64 at = k + j * kStep;
      // One for each line, whatever the width of a step.
      if (ahead != nullptr && (sizeof(WElem) * kStep == 64 || at * (i64)sizeof(WElem) % 64 == 0)) {
        __builtin_prefetch(ahead + at * (i64)sizeof(WElem), 0, 3);
      }
      const auto wv = Op::w(row + at);
      MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[j][c] =
          Op::dot(acc[j][c], wv, Op::x(x[c] + at));
    }
  }
  for (; k + kStep <= length; k += kStep) {
    if (ahead != nullptr) __builtin_prefetch(ahead + k * (i64)sizeof(WElem), 0, 3);
    const auto wv = Op::w(row + k);
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[0][c] = Op::dot(acc[0][c], wv, Op::x(x[c] + k));
  }
  if (const int tail = (int)(length - k); kHasTail && tail != 0) {
    const auto wv = Op::w_tail(row + k, tail);
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
      acc[0][c] = Op::dot(acc[0][c], wv, Op::x_tail(x[c] + k, tail));
    }
  }
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
    sum[c] = acc[0][c];
    MOEJIT_UNROLL for (int j = 1; j < kChains; ++j) sum[c] += acc[j][c];
  }
}

// `count` rows (a multiple of 4) that lie one after the other from `rows`, then `following`.
// sums[c * stride + row] for C tokens.
template <int C, int kLength>
MOEJIT_INLINE void dot_rows(const WElem* rows, i64 row_stride, i64 count, const char* following,
                            const XElem* const* x, float* sums, i64 stride) {
  constexpr int kAhead = rows_ahead<kLength>();
  const i64 row_bytes = row_stride * (i64)sizeof(WElem);
  for (i64 n = 0; n < count; n += 4) {
    F part[4][C];
    MOEJIT_UNROLL for (int r = 0; r < 4; ++r) {
      const i64 to = n + r + kAhead;
      // Within the run the hardware sees a stream, and reads it faster without our help.
      const char* ahead = to < count ? nullptr : following + (to - count) * row_bytes;
      dot_row<C>(rows + (n + r) * row_stride, x, kLength, ahead, part[r]);
    }
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
      const F y = sum_quads(part[0][c], part[1][c], part[2][c], part[3][c]);
      store<F4>(sums + c * stride + n, sum_parts(y));
    }
  }
}

// Rows that lie one after the other, in the weights or in the scratch.
struct Rows {
  const WElem* first;
  i64 stride, length;     // elements
  i64 count;              // a multiple of 4
  const char* following;  // what is read after them
};

// Four rows and C tokens. From `ahead` on memory is prefetched, in address order, as DRAM likes it:
// as much as the rows take, or half of it in each of two passes over them, so that DRAM never
// rests.
template <int C>
static __attribute__((noinline)) void dot_four(const WElem* w, i64 stride, i64 length,
                                               const XElem* const* tokens, const char* ahead,
                                               bool half, float* sums, i64 sums_stride) {
  constexpr int kLines = 4 * kStep * (int)sizeof(WElem) / 64;  // that one step reads
  const XElem* x[C];
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) x[c] = tokens[c];
  F acc[4][C];
  MOEJIT_UNROLL for (int r = 0; r < 4; ++r) {
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = F{};
  }
  i64 k = 0;
  for (; k + kStep <= length; k += kStep) {
    if (!half) {
      MOEJIT_UNROLL for (int j = 0; j < kLines; ++j) prefetch(ahead + j * 64);
      ahead += kLines * 64;
    } else if (kLines > 1 || k % (2 * kStep) == 0) {
      constexpr int kHalf = (kLines + 1) / 2;
      MOEJIT_UNROLL for (int j = 0; j < kHalf; ++j) prefetch(ahead + j * 64);
      ahead += kHalf * 64;
    }
    decltype(Op::x(x[0])) xv[C];
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) xv[c] = Op::x(x[c] + k);
    MOEJIT_UNROLL for (int r = 0; r < 4; ++r) {
      const auto wv = Op::w(w + r * stride + k);
      MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[r][c] = Op::dot(acc[r][c], wv, xv[c]);
    }
  }
  if (const int tail = (int)(length - k); kHasTail && tail != 0) {
    MOEJIT_UNROLL for (int r = 0; r < 4; ++r) {
      const auto wv = Op::w_tail(w + r * stride + k, tail);
      MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
        acc[r][c] = Op::dot(acc[r][c], wv, Op::x_tail(x[c] + k, tail));
      }
    }
  }
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
    const F y = sum_quads(acc[0][c], acc[1][c], acc[2][c], acc[3][c]);
    store<F4>(sums + c * sums_stride, sum_parts(y));
  }
}

// Token tiles of a block: as few as can be, of sizes that differ by one at most.
constexpr int passes_of(int tokens) {
  return (tokens + kTileTokens - 1) / kTileTokens;
}

template <int C>
MOEJIT_INLINE void dot_four_if(int count, const WElem* w, i64 stride, i64 length,
                               const XElem* const* tokens, const char* ahead, bool half,
                               float* sums, i64 sums_stride) {
  // Three tokens or more make tiles of at least two, or, where six fit, of three.
  if constexpr (C <= kTileTokens && 2 * C >= kTileTokens) {
    if (count == C) dot_four<C>(w, stride, length, tokens, ahead, half, sums, sums_stride);
  }
}

// sums[c * stride + row] for `count` tokens, from kStreamTokens + 1 to kDotTokens.
static __attribute__((noinline)) void dot_fours(int count, const Rows& rows,
                                                const XElem* const* tokens, float* sums,
                                                i64 stride) {
  constexpr i64 kAheadRows = 12;
  const int passes = passes_of(count), size = count / passes, larger = count % passes;
  for (i64 n = 0; n < rows.count; n += 4) {
    const i64 to = n + kAheadRows;
    const char* ahead = to < rows.count
                            ? (const char*)(rows.first + to * rows.stride)
                            : rows.following + (to - rows.count) * rows.stride * (i64)sizeof(WElem);
    for (int pass = 0, place = 0; pass < passes; ++pass) {
      const int tile = size + (pass < larger);
      const WElem* w = rows.first + n * rows.stride;
      const XElem* const* x = tokens + place;
      float* out = sums + place * stride + n;
      dot_four_if<2>(tile, w, rows.stride, rows.length, x, ahead, passes > 1, out, stride);
      dot_four_if<3>(tile, w, rows.stride, rows.length, x, ahead, passes > 1, out, stride);
      dot_four_if<4>(tile, w, rows.stride, rows.length, x, ahead, passes > 1, out, stride);
      dot_four_if<5>(tile, w, rows.stride, rows.length, x, ahead, passes > 1, out, stride);
      dot_four_if<6>(tile, w, rows.stride, rows.length, x, ahead, passes > 1, out, stride);
      ahead += 2 * rows.length * (i64)sizeof(WElem);
      place += tile;
    }
  }
}

}  // namespace moejit_cpu
