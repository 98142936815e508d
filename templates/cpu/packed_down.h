// out = sum over a token's experts of weight * (h @ w2.T) of packed weights; tasks as in down.h.
#pragma once
#include "packed.h"

namespace moejit_cpu {

// The bias of columns [n, n + kLanes) of out.
MOEJIT_INLINE F column_bias(const WElem* bias, i64 n) {
  F b = {};
  MOEJIT_UNROLL for (int r = 0; r < kLanes; ++r) {
    if (n + r < kHiddenSize) b[r] = E::to_f32<1>(bias + n + r)[0];
  }
  return b;
}

// A block's columns from n on, of one unit's tokens, to the sums of those tokens.
static __attribute__((noinline)) void add_block(const float* sums, const int* tokens,
                                                const float* weights, const WElem* bias, i64 n,
                                                int count, float* acc) {
  F first = {}, second = {};
  if (kBias && bias != nullptr) {
    first = column_bias(bias, n);
    second = column_bias(bias, n + kLanes);
  }
  for (int c = 0; c < count; ++c, sums += kBlockRows) {
    F a = load<F>(sums) + first, b = load<F>(sums + kLanes) + second;
    if constexpr (!kWeightOnInput) {
      a *= weights[c];
      b *= weights[c];
    }
    float* to = acc + (i64)tokens[c] * kSched_column_block;
    store<F>(to, load<F>(to) + a);
    store<F>(to + kLanes, load<F>(to + kLanes) + b);
  }
}

static void packed_down(const MoeArgs* args, const Workspace& ws, float* acc, int worker,
                        int workers) {
  const i64 tokens = args->num_tokens, units = ws.plan->num_units;
  const WElem* w2 = (const WElem*)args->w2;
  const auto block_at = [&](i64 unit, i64 n, i64 k) {
    return w2 + ws.units[unit].expert * kPackedW2 + n * kIntermediateSize + k * kBlockRows;
  };
  TaskQueue queue(ws.plan->down, kColumnBlocks, worker, workers);
  for (i64 task = queue.take(); task >= 0; task = queue.take()) {
    const i64 next_task = queue.peek();
    const i64 begin = task * kSched_column_block;
    const i64 end =
        begin + kSched_column_block < kHiddenSize ? begin + kSched_column_block : (i64)kHiddenSize;
    for (i64 n = 0; n < tokens * kSched_column_block; n += kLanes) store<F>(acc + n, F{});
    alignas(64) float sums[kSched_token_block * kBlockRows];
    const XElem* hs[kSched_token_block];
    for (i64 u = 0; u < units; ++u) {
      const Unit unit = ws.units[u];
      const WElem* bias = kBias ? (const WElem*)args->b2 + unit.expert * (i64)kHiddenSize : nullptr;
      // A few rows stay in the L2 whole.
      const i64 piece = unit.count <= kBlockTokens ? (i64)kIntermediateSize : kPiece;
      for (i64 k = 0; k < kIntermediateSize; k += piece) {
        const i64 length = k + piece < kIntermediateSize ? piece : kIntermediateSize - k;
        for (int c = 0; c < unit.count; ++c) hs[c] = ws.h + (unit.first + c) * kHStride + k;
        for (i64 n = begin; n < end; n += kBlockRows) {
          const WElem* following = block_at(u, begin, 0);
          if (n + kBlockRows < end) {
            following = block_at(u, n + kBlockRows, k);
          } else if (k + piece < kIntermediateSize) {
            following = block_at(u, begin, k + piece);
          } else if (u + 1 < units) {
            following = block_at(u + 1, begin, 0);
          } else if (next_task >= 0) {
            following = block_at(0, next_task * kSched_column_block, 0);
          }
          multiply_block(block_at(u, n, k), length, hs, unit.count, (const char*)following, sums);
          add_block(sums, ws.tokens + unit.first, ws.weights + unit.first, k == 0 ? bias : nullptr,
                    n, unit.count, acc + (n - begin));
        }
      }
    }
    finish(args, acc, begin, end);
  }
}

}  // namespace moejit_cpu
