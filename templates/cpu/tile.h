// The micro-kernel: a panel of 16 weight rows (8 on 256 bits) times up to kTileTokens tokens. Each
// vector of the panel meets one quad of a token's row, repeated: a lane sums a quarter of K, and
// the four quarters of a row are added at the end. No token is padded, K has no tail, and a (row,
// token) result has the same bits whatever else is in the tile. While it computes, the next panel
// is packed and the one after it comes to the L2: packing costs no time of its own.
#pragma once
#include "panel.h"
#include "stream.h"

namespace moejit_cpu {

constexpr bool kHasPartColumn = kHiddenSize % kColumn != 0 || kIntermediateSize % kColumn != 0;

// Work on the side of one tile.
struct Aside {
  Panel next;  // groups [group, group_end) of it are packed to `to`
  int group, group_end;
  i64 lines;  // prefetched a column
  XElem* to;
  Lines ahead;
};

// One quad of each row. The order of loads decides what is live: 4 x 6 accumulators leave room for
// the panel's four vectors and one of x, 4 x 3 for one vector of the panel and three of x.
template <int C>
MOEJIT_INLINE void multiply_step(const XElem* panel, const XElem* const (&x)[C], i64 k,
                                 F (&acc)[kTileVectors][C]) {
  const XElem* w = panel + k * kTileRows;
  constexpr int kVector = kGroup * kQuad;
  if constexpr (kLanes == 16) {
    decltype(Op::packed(w)) wv[kTileVectors];
    MOEJIT_UNROLL for (int v = 0; v < kTileVectors; ++v) wv[v] = Op::packed(w + v * kVector);
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
      // Keeps the loads of the next token and step where they are: there are no registers for them.
      __asm__ volatile("" ::: "memory");
      const auto xv = Op::spread(x[c] + k);
      MOEJIT_UNROLL for (int v = 0; v < kTileVectors; ++v) acc[v][c] =
          Op::dot(acc[v][c], wv[v], xv);
    }
  } else {
    decltype(Op::spread(x[0])) xv[C];
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) xv[c] = Op::spread(x[c] + k);
    MOEJIT_UNROLL for (int v = 0; v < kTileVectors; ++v) {
      const auto wv = Op::packed(w + v * kVector);
      MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[v][c] = Op::dot(acc[v][c], wv, xv[c]);
    }
  }
}

// sums[c * kTileRows + row].
template <int C>
static __attribute__((noinline)) void tile(const XElem* panel, const XElem* const* tokens,
                                           i64 length, const Aside& aside, float* sums) {
  F acc[kTileVectors][C];
  MOEJIT_UNROLL for (int v = 0; v < kTileVectors; ++v) {
    MOEJIT_UNROLL for (int c = 0; c < C; ++c) acc[v][c] = F{};
  }
  const XElem* x[C];
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) x[c] = tokens[c];
  Lines ahead = aside.ahead;
  i64 k = 0;
  for (; k + kColumn <= length; k += kColumn) {
    for (i64 j = 0; j < aside.lines; ++j) ahead.step();
    for (int v = aside.group; v < aside.group_end; ++v) pack_group(aside.next, k, v, aside.to);
    MOEJIT_UNROLL for (int s = 0; s < 4; ++s) multiply_step<C>(panel, x, k + s * kQuad, acc);
  }
  if constexpr (kHasPartColumn) {
    for (; k < length; k += kQuad) multiply_step<C>(panel, x, k, acc);
  }
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
    store<F>(sums + c * kTileRows, sum_quads(acc[0][c], acc[1][c], acc[2][c], acc[3][c]));
  }
}

// The least tile of a block of more than `few` tokens.
constexpr int least_tile(int few) {
  int least = kTileTokens;
  for (int n = few + 1; n < 4 * kTileTokens; ++n) {
    if (n / passes_of(n) < least) least = n / passes_of(n);
  }
  return least;
}
constexpr int kLeastTile = least_tile(kDotTokens);

template <int C>
MOEJIT_INLINE void tile_if(int count, const XElem* panel, const XElem* const* tokens, i64 length,
                           const Aside& aside, float* sums) {
  if constexpr (C >= kLeastTile && C <= kTileTokens) {
    if (count == C) tile<C>(panel, tokens, length, aside, sums);
  }
}

// sums[c * kTileRows + row] of `count` tokens by `panel`, which the buffers hold afterwards no
// more: they hold `next`. `after` is brought near.
static __attribute__((noinline)) void multiply(PanelBuffers& buffers, const Panel& panel,
                                               const Panel& next, const Panel& after,
                                               const XElem* const* tokens, int count, float* sums) {
  buffers.need(panel);
  const int passes = passes_of(count), size = count / passes, larger = count % passes;
  const i64 columns = panel.length / kColumn;
  const bool packs = next.length == panel.length;
  const int groups = (kTileVectors + passes - 1) / passes;
  const i64 lines = columns == 0 || after.length == 0
                        ? 0
                        : after.length * (i64)sizeof(WElem) * kTileRows / 64 / passes;  // of a pass
  Aside aside = {next, 0, 0, columns == 0 ? 0 : (lines + columns - 1) / columns, buffers.other, {}};
  for (int pass = 0, place = 0; pass < passes; ++pass) {
    const int group = pass * groups, end = group + groups;
    aside.group = group < kTileVectors ? group : kTileVectors;
    aside.group_end = !packs ? 0 : end < kTileVectors ? end : kTileVectors;
    if (lines != 0) aside.ahead = lines_of(after, pass * lines);
    const int tile_size = size + (pass < larger);
    const XElem* const* x = tokens + place;
    float* to = sums + place * kTileRows;
    tile_if<2>(tile_size, buffers.current, x, panel.length, aside, to);
    tile_if<3>(tile_size, buffers.current, x, panel.length, aside, to);
    tile_if<4>(tile_size, buffers.current, x, panel.length, aside, to);
    tile_if<5>(tile_size, buffers.current, x, panel.length, aside, to);
    tile_if<6>(tile_size, buffers.current, x, panel.length, aside, to);
    place += tile_size;
  }
  if (packs) pack_tail(next, buffers.other);
  buffers.turn(packs ? next : no_panel());
}

}  // namespace moejit_cpu
