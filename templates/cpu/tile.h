// The micro-kernel: 4 weight rows times up to kTileTokens tokens, lanes along K. Both operands are
// read where they lie (rows of K contiguous elements), so nothing is packed, no token is padded,
// and one token runs the same code as many. Ten loads for 24 dot products leave the dot units as
// the limit from the L2 on. A (row, token) result has the same bits whatever else is in the tile.
#pragma once
#include "simd.h"

namespace moejit_cpu {

constexpr bool kHasTail = kHiddenSize % kStep != 0 || kIntermediateSize % kStep != 0;

template <int C>
struct Acc {
  F v[kTileRows][C];
};

// Four rows to bring into the L2 while a tile is computed, `bytes` of each.
struct Ahead {
  const char* row[kTileRows];
  i64 bytes;
};

// To the L2: the tiles to come would push this one out of the L1.
MOEJIT_INLINE void prefetch(const char* p) {
  __builtin_prefetch(p, 0, 2);
}

// acc += w[r][k] . x[c][k] over k < length. The tile is one of several passes over the same rows:
// the first one, two or four of them prefetch `ahead`, in address order, as DRAM likes it.
template <int C>
MOEJIT_INLINE void multiply(const WElem* const* w, const XElem* const* x, i64 length,
                            const Ahead& ahead, int pass, int passes, Acc<C>& acc) {
  constexpr int kLines = kTileRows * kStep * (int)sizeof(WElem) / 64;  // that one step reads
  constexpr int kOne = kLines < 1 ? 1 : kLines;
  const i64 whole = length / kStep;
  const i64 quarter = (whole + 3) / 4;
  // log2 of the passes that prefetch; each of a pass's quarters has its own piece of a row.
  const int split = kSched_prefetch == 0       ? 0
                    : passes >= 4 && kOne >= 4 ? 2
                    : passes >= 2 && kOne >= 2 ? 1
                                               : 0;
  const int per_step = pass >> split || ahead.bytes == 0 ? 0 : kOne >> split;
  const i64 piece_bytes = ((ahead.bytes >> split) + 63) & ~63ll;
  i64 k = 0;
  for (int part = 0; part < 4; ++part) {
    const i64 stop = (part == 3                      ? whole
                      : quarter * (part + 1) < whole ? quarter * (part + 1)
                                                     : whole) *
                     kStep;
    const int piece = part + 4 * pass;
    const char* next = ahead.row[(piece >> split) & 3] + (piece & ((1 << split) - 1)) * piece_bytes;
    for (; k < stop; k += kStep) {
      if constexpr (kSched_prefetch != 0) {
#pragma clang loop unroll(disable)
        for (int j = 0; j < per_step; ++j, next += 64) prefetch(next);
      }
      decltype(Op::x(x[0])) xv[C];
      MOEJIT_UNROLL for (int c = 0; c < C; ++c) xv[c] = Op::x(x[c] + k);
      MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
        const auto wv = Op::w(w[r] + k);
        MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc.v[r][c] = Op::dot(acc.v[r][c], wv, xv[c]);
      }
    }
  }
  if (const int tail = (int)(length % kStep); kHasTail && tail != 0) {
    decltype(Op::x(x[0])) xv[C];
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) xv[c] = Op::x_tail(x[c] + k, tail);
    MOEJIT_UNROLL for (int r = 0; r < kTileRows; ++r) {
      const auto wv = Op::w_tail(w[r] + k, tail);
      MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc.v[r][c] = Op::dot(acc.v[r][c], wv, xv[c]);
    }
  }
}

// Horizontal sums, on 256 bits at any width: half of a 512-bit operation's cost once the upper half
// is added. A tile's results come as vectors of two tokens: lane r * 2 + c.
constexpr int groups_of(int tokens) {
  return (tokens + 1) / 2;
}

MOEJIT_INLINE F8 fold(F v) {
#ifdef __AVX512F__
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
         __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
#else
  return v;
#endif
}

// Four rows of one token: each 128-bit half holds two partial sums of two rows, in order.
MOEJIT_INLINE F8 fold_rows(F8 a, F8 b, F8 c, F8 d) {
  const F8 ac = __builtin_shufflevector(a, c, 0, 1, 2, 3, 12, 13, 14, 15) +
                __builtin_shufflevector(a, c, 4, 5, 6, 7, 8, 9, 10, 11);
  const F8 bd = __builtin_shufflevector(b, d, 0, 1, 2, 3, 12, 13, 14, 15) +
                __builtin_shufflevector(b, d, 4, 5, 6, 7, 8, 9, 10, 11);
  return __builtin_shufflevector(ac, bd, 0, 1, 10, 11, 4, 5, 14, 15) +
         __builtin_shufflevector(ac, bd, 2, 3, 8, 9, 6, 7, 12, 13);
}

template <int C>
MOEJIT_INLINE void reduce(const Acc<C>& acc, F8 (&out)[groups_of(C)]) {
  MOEJIT_UNROLL for (int g = 0; g < groups_of(C); ++g) {
    F8 y[2];
    MOEJIT_UNROLL for (int j = 0; j < 2; ++j) {
      const int c = 2 * g + j < C ? 2 * g + j : C - 1;  // beyond the end: unused lanes
      y[j] = fold_rows(fold(acc.v[0][c]), fold(acc.v[1][c]), fold(acc.v[2][c]), fold(acc.v[3][c]));
    }
    out[g] = __builtin_shufflevector(y[0], y[1], 0, 8, 2, 10, 4, 12, 6, 14) +
             __builtin_shufflevector(y[0], y[1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
}

// Lane r * 2 + c to c * 4 + r.
MOEJIT_INLINE F8 by_token(F8 v) {
  return __builtin_shufflevector(v, v, 0, 2, 4, 6, 1, 3, 5, 7);
}

// Token tiles of a block: as few as can be, of sizes that differ by one at most.
struct Tiling {
  int passes, size, larger;  // the first `larger` tiles have size + 1 tokens
};
MOEJIT_INLINE Tiling tiling_of(int tokens) {
  const int passes = (tokens + kTileTokens - 1) / kTileTokens;
  return {passes, tokens / passes, tokens % passes};
}

}  // namespace moejit_cpu
