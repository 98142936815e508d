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

MOEJIT_INLINE void prefetch(const char* p) {
  // To the L2: the next tile's rows would push this tile's out of the L1.
  if constexpr (kSched_prefetch == 2) {
    __builtin_prefetch(p, 0, 3);
  } else {
    __builtin_prefetch(p, 0, 2);
  }
}

// acc += w[r][k] . x[c][k] over k < length. The tile is pass `pass` of `passes` over the same rows:
// each prefetches its share of `ahead`, in address order, as DRAM likes it.
template <int C>
MOEJIT_INLINE void multiply(const WElem* const* w, const XElem* const* x, i64 length,
                            const Ahead& ahead, int pass, int passes, Acc<C>& acc) {
  const i64 whole = length / kStep;
  const i64 quarter = (whole + 3) / 4;
  // Lines of a quarter's share, and how many to ask for in each step.
  const i64 share = ((ahead.bytes + 63) / 64 + passes - 1) / passes;
  const int per_step = quarter > 0 ? (int)((share + quarter - 1) / quarter) : 0;
  i64 k = 0;
  for (int part = 0; part < 4; ++part) {
    const i64 stop = (part == 3 ? whole : quarter * (part + 1) < whole ? quarter * (part + 1) : whole) * kStep;
    const int piece = part + 4 * pass;
    const char* next = ahead.row[piece / passes] + (i64)(piece % passes) * share * 64;
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

// Horizontal sums. A tile's results come as vectors of kGroup tokens: lane r * kGroup + c.
constexpr int kGroup = kLanes / kTileRows;
constexpr int groups_of(int tokens) { return (tokens + kGroup - 1) / kGroup; }

#ifdef __AVX512F__
// Four rows of one token to one vector: 128-bit part r holds four partial sums of row r.
MOEJIT_INLINE F fold_rows(F a, F b, F c, F d) {
  const F ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +
               __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
  const F cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31) +
               __builtin_shufflevector(c, d, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23);
  return __builtin_shufflevector(ab, cd, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
         __builtin_shufflevector(ab, cd, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
// Two partial sums of a next to two of b in every 128-bit part.
MOEJIT_INLINE F fold_pair(F a, F b) {
  return __builtin_shufflevector(a, b, 0, 1, 18, 19, 4, 5, 22, 23, 8, 9, 26, 27, 12, 13, 30, 31) +
         __builtin_shufflevector(a, b, 2, 3, 16, 17, 6, 7, 20, 21, 10, 11, 24, 25, 14, 15, 28, 29);
}
MOEJIT_INLINE F fold_last(F a, F b) {
  return __builtin_shufflevector(a, b, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30) +
         __builtin_shufflevector(a, b, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31);
}
// kGroup tokens, each folded by fold_rows.
MOEJIT_INLINE F fold_tokens(const F* y) { return fold_last(fold_pair(y[0], y[1]), fold_pair(y[2], y[3])); }
// Lane r * kGroup + c to c * kTileRows + r.
MOEJIT_INLINE F by_token(F v) {
  return __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}
MOEJIT_INLINE F lower_halves(F a, F b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}
MOEJIT_INLINE F upper_halves(F a, F b) {
  return __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}
// In each half (two rows of kGroup tokens): lane r * kGroup + c to c * 2 + r.
MOEJIT_INLINE F pairs_by_token(F v) {
  return __builtin_shufflevector(v, v, 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
}
// v[l] for the value of lane l's row, where lanes are two rows of kGroup tokens in each half.
MOEJIT_INLINE F two_rows(float a, float b) {
  return F{a, a, a, a, b, b, b, b, a, a, a, a, b, b, b, b};
}
#else
MOEJIT_INLINE F fold_rows(F a, F b, F c, F d) {
  const F ac = __builtin_shufflevector(a, c, 0, 1, 2, 3, 12, 13, 14, 15) +
               __builtin_shufflevector(a, c, 4, 5, 6, 7, 8, 9, 10, 11);
  const F bd = __builtin_shufflevector(b, d, 0, 1, 2, 3, 12, 13, 14, 15) +
               __builtin_shufflevector(b, d, 4, 5, 6, 7, 8, 9, 10, 11);
  return __builtin_shufflevector(ac, bd, 0, 1, 10, 11, 4, 5, 14, 15) +
         __builtin_shufflevector(ac, bd, 2, 3, 8, 9, 6, 7, 12, 13);
}
MOEJIT_INLINE F fold_tokens(const F* y) {
  const F a = y[0], b = y[1];
  return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
         __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
}
MOEJIT_INLINE F by_token(F v) { return __builtin_shufflevector(v, v, 0, 2, 4, 6, 1, 3, 5, 7); }
MOEJIT_INLINE F lower_halves(F a, F b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
}
MOEJIT_INLINE F upper_halves(F a, F b) {
  return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
MOEJIT_INLINE F pairs_by_token(F v) { return __builtin_shufflevector(v, v, 0, 2, 1, 3, 4, 6, 5, 7); }
MOEJIT_INLINE F two_rows(float a, float b) { return F{a, a, b, b, a, a, b, b}; }
#endif

template <int C>
MOEJIT_INLINE void reduce(const Acc<C>& acc, F (&out)[groups_of(C)]) {
  MOEJIT_UNROLL for (int g = 0; g < groups_of(C); ++g) {
    F y[kGroup];
    MOEJIT_UNROLL for (int j = 0; j < kGroup; ++j) {
      const int c = g * kGroup + j < C ? g * kGroup + j : C - 1;  // beyond the end: unused lanes
      y[j] = fold_rows(acc.v[0][c], acc.v[1][c], acc.v[2][c], acc.v[3][c]);
    }
    out[g] = fold_tokens(y);
  }
}

// Token tiles of a block: as few as can be, of sizes that differ by one at most.
MOEJIT_INLINE int passes_of(int tokens) { return (tokens + kTileTokens - 1) / kTileTokens; }
MOEJIT_INLINE int pass_begin(int pass, int passes, int tokens) {
  return (int)((i64)tokens * pass / passes);
}

}  // namespace moejit_cpu
