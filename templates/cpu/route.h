// The router: logits [T,E] to top_k (id, weight) pairs per token; rules in RouterConfig.
#pragma once
#include "math.h"
#include "plan.h"

namespace moejit_cpu {

constexpr int kPaddedExperts = (kNumExperts + 7) / 8 * 8;
constexpr bool kScoreFirst = kRouterOrder == 0;

// Order-preserving integer of a float: NaN below every number, -0 equal to +0.
MOEJIT_INLINE int order_key(float v) {
  if (v != v) return -0x7fffffff - 1;
  const int bits = __builtin_bit_cast(int, v + 0.0f);
  return bits < 0 ? bits ^ 0x7fffffff : bits;
}

// The scoring function over `count` values in place; storage up to the next whole vector is
// scratch.
MOEJIT_INLINE void score(float* values, int count) {
  constexpr int kSoftmax = 0, kSigmoid = 1;
  if constexpr (kScoring == kSoftmax) {
    float top = -__builtin_inff();
    for (int e = 0; e < count; ++e) top = values[e] > top ? values[e] : top;
    float sum = 0;
    for (int e = 0; e < count; e += 8) {
      store<F8>(values + e, exp(load<F8>(values + e) - splat(top)));
      const int stop = count - e < 8 ? count - e : 8;
      for (int l = 0; l < stop; ++l) sum += values[e + l];
    }
    for (int e = 0; e < count; ++e) values[e] /= sum;
  } else {
    for (int e = 0; e < count; e += 8) {
      const F8 v = load<F8>(values + e);
      store<F8>(values + e, kScoring == kSigmoid ? sigmoid(v) : sqrt(softplus(v)));
    }
  }
}

// A candidate. A list of the best is kept sorted, best first, the lower index first among equals.
struct Best {
  int key;
  int index;
};

template <int kCount>
MOEJIT_INLINE void insert(Best (&list)[kCount], int& size, int key, int index) {
  // A key equal to the worst kept one came later, so it has the higher index: it stays out.
  if (size == kCount && key <= list[kCount - 1].key) return;
  int at = size < kCount ? size++ : kCount - 1;
  for (; at > 0 && list[at - 1].key < key; --at) list[at] = list[at - 1];
  list[at] = {key, index};
}

static void route_token(const float* logits, const float* correction, int* ids, float* weights) {
  alignas(64) float scores[kPaddedExperts];
  for (int e = 0; e < kPaddedExperts; ++e) scores[e] = e < kNumExperts ? logits[e] : 0.0f;
  if constexpr (kScoreFirst) score(scores, kNumExperts);
  float selection[kNumExperts];
  for (int e = 0; e < kNumExperts; ++e) {
    selection[e] = kHasCorrectionBias ? scores[e] + correction[e] : scores[e];
  }

  Best chosen[kTopK];
  int count = 0;
  if constexpr (kNGroup == 1) {
    for (int e = 0; e < kNumExperts; ++e) insert(chosen, count, order_key(selection[e]), e);
  } else {
    constexpr int kSize = kNumExperts / kNGroup;
    constexpr int kTop = kSize > 1 ? 2 : 1;
    Best groups[kTopkGroup];
    int num_groups = 0;
    for (int g = 0; g < kNGroup; ++g) {
      Best top[kTop];
      int size = 0;
      for (int e = g * kSize; e < (g + 1) * kSize; ++e)
        insert(top, size, order_key(selection[e]), e);
      float value = selection[top[0].index];
      if (kHasCorrectionBias && kTop == 2) value += selection[top[kTop - 1].index];
      insert(groups, num_groups, order_key(value), g);
    }
    bool open[kNGroup] = {};
    for (int g = 0; g < kTopkGroup; ++g) open[groups[g].index] = true;
    for (int g = 0; g < kNGroup; ++g) {
      if (!open[g]) continue;
      for (int e = g * kSize; e < (g + 1) * kSize; ++e)
        insert(chosen, count, order_key(selection[e]), e);
    }
  }

  alignas(64) float values[(kTopK + 7) / 8 * 8] = {};
  for (int k = 0; k < kTopK; ++k) values[k] = scores[chosen[k].index];
  if constexpr (!kScoreFirst) score(values, kTopK);
  float sum = 1e-20f;
  if constexpr (kRenormalize) {
    for (int k = 0; k < kTopK; ++k) sum += values[k];
  }
  for (int k = 0; k < kTopK; ++k) {
    ids[k] = chosen[k].index;
    weights[k] = (kRenormalize ? values[k] / sum : values[k]) * (float)kScalingFactor;
  }
}

template <int kType>
MOEJIT_INLINE void read_logits(const void* logits, i64 token, float* to) {
  typedef typename Element<kType>::T T;
  const T* from = (const T*)logits + token * kNumExperts;
  int e = 0;
  for (; e + 8 <= kNumExperts; e += 8) {
    store<F8>(to + e, Element<kType>::template to_f32<8>(from + e));
  }
  for (; e < kNumExperts; ++e) to[e] = Element<kType>::template to_f32<1>(from + e)[0];
}

static void route(const MoeArgs* args, int worker, int workers) {
  int* ids = const_cast<int*>(args->topk_ids);
  float* weights = const_cast<float*>(args->topk_weights);
  const i64 tokens = args->num_tokens;
  for (i64 t = tokens * worker / workers; t < tokens * (worker + 1) / workers; ++t) {
    float logits[kNumExperts];
    if (args->logits_dtype == 0) {
      read_logits<0>(args->router_logits, t, logits);
    } else if (args->logits_dtype == 1) {
      read_logits<1>(args->router_logits, t, logits);
    } else {
      read_logits<2>(args->router_logits, t, logits);
    }
    route_token(logits, args->correction_bias, ids + t * kTopK, weights + t * kTopK);
  }
}

}  // namespace moejit_cpu
