// Few tokens: one weight row after the other, as one contiguous stream from DRAM. Reading sets the
// pace there; tokens stay in the L1 and each row has several accumulators along K.
#pragma once
#include "tile.h"

namespace moejit_cpu {

// Most tokens of one expert that stream: each line of weights then costs at most five loads, less
// than the time in which DRAM delivers it, and the tokens' rows fit the L1.
template <int kLength>
constexpr int stream_tokens() {
  constexpr i64 kFit = (i64)32768 / (kLength * (i64)sizeof(XElem));
  return kFit >= 4 ? 4 : kFit >= 1 ? (int)kFit : 1;
}
// Rows further on that are prefetched: about 4 KiB on the way hide the latency.
template <int kLength>
constexpr int rows_ahead() {
  constexpr i64 kBytes = (i64)kLength * sizeof(WElem);
  return (int)((kSched_stream_ahead * 1024 + kBytes - 1) / kBytes);
}

// sum[c] = row . x[c], as vectors still to be summed; `ahead` is another row, to be prefetched.
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
      if (sizeof(WElem) * kStep == 64 || at * (i64)sizeof(WElem) % 64 == 0) {
        __builtin_prefetch(ahead + at * (i64)sizeof(WElem), 0, 3);
      }
      const auto wv = Op::w(row + at);
      MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[j][c] =
          Op::dot(acc[j][c], wv, Op::x(x[c] + at));
    }
  }
  for (; k + kStep <= length; k += kStep) {
    __builtin_prefetch(ahead + k * (i64)sizeof(WElem), 0, 3);
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
  constexpr i64 kAheadBytes = kSched_stream_ahead * 1024;
  constexpr bool kLongRows = kLength * (i64)sizeof(WElem) > kAheadBytes;
  const i64 row_bytes = row_stride * (i64)sizeof(WElem);
  for (i64 n = 0; n < count; n += 4) {
    F part[4][C];
    MOEJIT_UNROLL for (int r = 0; r < 4; ++r) {
      const i64 to = n + r + kAhead;
      // Long rows: a fixed distance in the stream, so that what is on the way fits the L1 beside x.
      const char* ahead = kLongRows    ? (const char*)(rows + (n + r) * row_stride) + kAheadBytes
                          : to < count ? (const char*)(rows + to * row_stride)
                                       : following + (to - count) * row_bytes;
      dot_row<C>(rows + (n + r) * row_stride, x, kLength, ahead, part[r]);
    }
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
      const F8 y =
          fold_rows(fold(part[0][c]), fold(part[1][c]), fold(part[2][c]), fold(part[3][c]));
      const F4 low =
          __builtin_shufflevector(y, y, 0, 2, 4, 6) + __builtin_shufflevector(y, y, 1, 3, 5, 7);
      store<F4>(sums + c * stride + n, low);
    }
  }
}

}  // namespace moejit_cpu
