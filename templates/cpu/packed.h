// Weights in the order in which they are read (config.packed; runtime/pack.cpp makes it): blocks of
// two vectors' rows, in each, step after step along K, every row's elements of that step. A lane is
// a row: no horizontal sums, nothing to pack, and for any number of tokens a block is one stream,
// which the hardware fetches ahead faster than instructions do.
#pragma once
#include "rows.h"
#include "simd.h"
#include "tasks.h"

namespace moejit_cpu {

constexpr int kDepth = kNativeDot ? 2 : 1;           // elements of K of a row in one step
constexpr int kBlockRows = 2 * kLanes;               // gated w13: kLanes of gate, then of up
constexpr int kBlockStep = kBlockRows * kDepth;      // elements of a step
constexpr int kBlockTokens = kLanes == 16 ? 12 : 6;  // 2 x 12 accumulators of 32 registers
constexpr i64 kBlockBytes = kBlockStep * (i64)sizeof(WElem);
// Steps whose products are summed in registers before they are added to the sums: a bound on what
// rounding adds up to, the same for any number of tokens.
constexpr i64 kBlockChunk = 512;
// Elements of I that a block of w13 gives.
constexpr int kBlockI = kGated ? kLanes : kBlockRows;

constexpr i64 blocks_of(i64 rows, i64 per_block) {
  return (rows + per_block - 1) / per_block;
}
// Elements of an expert.
constexpr i64 kPackedW13 = blocks_of(kIntermediateSize, kBlockI) * kBlockRows * (i64)kHiddenSize;
constexpr i64 kPackedW2 = blocks_of(kHiddenSize, kBlockRows) * kBlockRows * (i64)kIntermediateSize;

// What is fetched into the L2 beside the products: `lines` of it every four steps.
struct Fetch {
  const char* next;
  int lines;
};

template <int C>
MOEJIT_INLINE void block_step(const WElem* w, const XElem* const (&x)[C], i64 k, F (&acc)[2][C]) {
  // Empty asm keeps things where they are. Loads of weights in the order of memory: the hardware
  // fetches ahead of a stream that ascends. One token after the other: no register is left to begin
  // with the next.
  __asm__ volatile("" ::: "memory");
  const auto w0 = Op::w(w), w1 = Op::w(w + kLanes * kDepth);
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
    const auto xv = Op::broadcast(x[c] + k);
    acc[0][c] = Op::dot(acc[0][c], w0, xv);
    acc[1][c] = Op::dot(acc[1][c], w1, xv);
    __asm__ volatile("" : "+v"(acc[0][c]), "+v"(acc[1][c])::"memory");
  }
}

// sums[c * kBlockRows + row] += `steps` steps of a block by C tokens, from element k of theirs on;
// the first of them are not added to anything.
template <int C>
static __attribute__((noinline)) void block_tile(const WElem* w, const XElem* const* tokens, i64 k,
                                                 i64 steps, Fetch fetch, float* sums) {
  F acc[2][C];
  const XElem* x[C];
  const bool first = k == 0;
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
    x[c] = tokens[c];
    acc[0][c] = acc[1][c] = F{};
  }
  const i64 end = k + steps * kDepth;
  // Rows are of whole 16 bytes, so of whole fours of steps.
  for (; k < end; w += 4 * kBlockStep, k += 4 * kDepth) {
    for (int j = 0; j < fetch.lines; ++j, fetch.next += 64) prefetch(fetch.next);
    MOEJIT_UNROLL for (int u = 0; u < 4; ++u) {
      block_step<C>(w + u * kBlockStep, x, k + u * kDepth, acc);
    }
  }
  MOEJIT_UNROLL for (int c = 0; c < C; ++c) {
    float* to = sums + c * kBlockRows;
    store<F>(to, first ? acc[0][c] : load<F>(to) + acc[0][c]);
    store<F>(to + kLanes, first ? acc[1][c] : load<F>(to + kLanes) + acc[1][c]);
  }
}

template <int C>
MOEJIT_INLINE void block_tile_if(int count, const WElem* w, const XElem* const* tokens, i64 k,
                                 i64 steps, const Fetch& fetch, float* sums) {
  if constexpr (C <= kBlockTokens) {
    if (count == C) block_tile<C>(w, tokens, k, steps, fetch, sums);
  }
}

// How far ahead of itself a pass fetches, where the hardware alone falls behind its arithmetic:
// from 8 tokens on, or 4 where a vector of weights is half as long in memory.
constexpr i64 kFetchAhead = 5 * 1024;
constexpr int kFetchFrom = kBlockBytes == 2 * 4 * kLanes ? 8 : 4;

// sums[c * kBlockRows + row] = `length` elements of K of a block's rows by those of `count` tokens.
// What lies behind comes to the L2 meanwhile, and after the block `following`.
static __attribute__((noinline)) void multiply_block(const WElem* block, i64 length,
                                                     const XElem* const* tokens, int count,
                                                     const char* following, float* sums) {
  const int passes = (count + kBlockTokens - 1) / kBlockTokens;
  const int size = count / passes, larger = count % passes;
  const i64 steps = length / kDepth;
  // Lines of four steps, or a pass's share of them.
  constexpr int kLines = 4 * (int)kBlockBytes / 64;
  const int lines = passes > 1 ? (kLines + passes - 1) / passes : count < kFetchFrom ? 0 : kLines;
  if (passes == 1 && following != (const char*)(block + steps * kBlockStep)) {
    for (i64 at = 0; at < kFetchAhead; at += 64) prefetch(following + at);
  }
  for (i64 s = 0; s < steps; s += kBlockChunk) {
    const i64 part = s + kBlockChunk < steps ? kBlockChunk : steps - s;
    const WElem* w = block + s * kBlockStep;
    Fetch fetch = {following, lines};
    if (passes == 1) {
      fetch.next = (const char*)w + kFetchAhead;
    } else if (s + kBlockChunk < steps) {
      fetch.next = (const char*)(w + kBlockChunk * kBlockStep);
    }
    for (int pass = 0, place = 0; pass < passes; ++pass) {
      const int tile = size + (pass < larger);
      const XElem* const* x = tokens + place;
      float* to = sums + place * kBlockRows;
      const i64 k = s * kDepth;
      block_tile_if<1>(tile, w, x, k, part, fetch, to);
      block_tile_if<2>(tile, w, x, k, part, fetch, to);
      block_tile_if<3>(tile, w, x, k, part, fetch, to);
      block_tile_if<4>(tile, w, x, k, part, fetch, to);
      block_tile_if<5>(tile, w, x, k, part, fetch, to);
      block_tile_if<6>(tile, w, x, k, part, fetch, to);
      block_tile_if<7>(tile, w, x, k, part, fetch, to);
      block_tile_if<8>(tile, w, x, k, part, fetch, to);
      block_tile_if<9>(tile, w, x, k, part, fetch, to);
      block_tile_if<10>(tile, w, x, k, part, fetch, to);
      block_tile_if<11>(tile, w, x, k, part, fetch, to);
      block_tile_if<12>(tile, w, x, k, part, fetch, to);
      fetch.next += part / 4 * lines * 64;
      place += tile;
    }
  }
}

}  // namespace moejit_cpu
