// Where the rows of an expert's weights are: in place, or, for a transposed layout, unpacked block
// by block into rows in the worker's scratch, so that one micro-kernel serves both.
#pragma once
#include "panel.h"
#include "rows.h"

namespace moejit_cpu {

// Elements of I that a panel of rows gives.
constexpr int kTileI = kGated ? kTileRows / 2 : kTileRows;

// Rows of the scratch are an odd number of lines apart, like those of x.
constexpr i64 scratch_stride(i64 k) {
  return ((k * (i64)sizeof(WElem) + 63) / 64 | 1) * 64 / (i64)sizeof(WElem);
}

// `count` rows from `first` on, `stride` elements apart, as a panel; rows beyond do not exist.
MOEJIT_INLINE Panel panel_of(const WElem* first, i64 stride, i64 length, i64 count) {
  const bool two = count > kHalfRows;
  const int last = (int)(count < kTileRows ? count : kTileRows) - 1;
  return {{first, two ? first + kHalfRows * stride : first},
          stride,
          length,
          {two ? kHalfRows - 1 : last, two ? last - kHalfRows : last}};
}

// A square of 16-byte rows, transposed in registers.
template <typename T>
MOEJIT_INLINE void transpose(const T* from, i64 from_stride, T* to, i64 to_stride) {
  constexpr int kN = 16 / (int)sizeof(T);
  typedef T V __attribute__((vector_size(16)));
  V v[kN], a[kN];
  MOEJIT_UNROLL for (int r = 0; r < kN; ++r) v[r] = load<V>(from + r * from_stride);
  if constexpr (kN == 8) {
    V b[8];
    MOEJIT_UNROLL for (int j = 0; j < 4; ++j) {
      a[2 * j] = __builtin_shufflevector(v[2 * j], v[2 * j + 1], 0, 8, 2, 10, 4, 12, 6, 14);
      a[2 * j + 1] = __builtin_shufflevector(v[2 * j], v[2 * j + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    MOEJIT_UNROLL for (int j = 0; j < 4; ++j) {
      const int i = j / 2 * 4 + j % 2;
      b[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + 2] = __builtin_shufflevector(a[i], a[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    MOEJIT_UNROLL for (int j = 0; j < 4; ++j) {
      v[j] = __builtin_shufflevector(b[j], b[4 + j], 0, 1, 2, 3, 8, 9, 10, 11);
      v[4 + j] = __builtin_shufflevector(b[j], b[4 + j], 4, 5, 6, 7, 12, 13, 14, 15);
    }
  } else {
    MOEJIT_UNROLL for (int j = 0; j < 2; ++j) {
      a[2 * j] = __builtin_shufflevector(v[2 * j], v[2 * j + 1], 0, 4, 2, 6);
      a[2 * j + 1] = __builtin_shufflevector(v[2 * j], v[2 * j + 1], 1, 5, 3, 7);
    }
    MOEJIT_UNROLL for (int j = 0; j < 2; ++j) {
      v[j] = __builtin_shufflevector(a[j], a[2 + j], 0, 1, 4, 5);
      v[2 + j] = __builtin_shufflevector(a[j], a[2 + j], 2, 3, 6, 7);
    }
  }
  MOEJIT_UNROLL for (int r = 0; r < kN; ++r) store<V>(to + r * to_stride, v[r]);
}

// to[c][k] = from[k][c] for `columns` columns and `depth` rows, both of whole 16-byte pieces.
static void unpack(const WElem* from, i64 from_stride, i64 depth, int columns, WElem* to,
                   i64 to_stride) {
  constexpr int kN = 16 / (int)sizeof(WElem);
  for (i64 k = 0; k < depth; k += kN) {
    // The rows to come are far apart in memory: nothing else fetches them.
    MOEJIT_UNROLL for (int r = 0; r < kN; ++r) {
      for (int c = 0; c < columns; c += 64 / (int)sizeof(WElem)) {
        __builtin_prefetch(from + (k + 4 * kN + r) * from_stride + c, 0, 3);
      }
    }
    for (int c = 0; c < columns; c += kN) {
      transpose<WElem>(from + k * from_stride + c, from_stride, to + c * to_stride + k, to_stride);
    }
  }
}

}  // namespace moejit_cpu
