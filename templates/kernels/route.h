// Entry `moe_route` (where the plan routes, plan.h, its functions alone): logits [T, E] ->
// topk_ids, topk_weights [T, K]; one warp per token. The rules are those of RouterConfig in
// config.h.
#pragma once

#include "kernels/common.h"

namespace moe {

constexpr int kRouteWarps = 4;
constexpr int kPerLane = ceil_div(kNumExperts, 32);  // expert j * 32 + lane

// An unsigned key in the order of the values; NaN is 0, below minus infinity. Both zeros are equal.
MOEJIT_DEVICE u32 order_key(f32 v) {
  const u32 b = as_u32(v + 0.0f);  // + 0 turns -0 into +0
  if ((b & 0x7fffffffu) > 0x7f800000u) return 0;
  return (b & 0x80000000u) != 0 ? ~b : b | 0x80000000u;
}
MOEJIT_DEVICE f32 key_value(u32 key) {
  if (key == 0) return as_f32(0xff800000u);
  return as_f32((key & 0x80000000u) != 0 ? key ^ 0x80000000u : ~key);
}
MOEJIT_DEVICE f32 warp_sum(f32 v) {
  MOEJIT_UNROLL
  for (u32 m = 16; m > 0; m >>= 1) v += shfl_xor_f32(v, m);
  return v;
}
MOEJIT_DEVICE f32 warp_max(f32 v) {
  return key_value(warp_max_u32(order_key(v)));
}

MOEJIT_DEVICE f32 pointwise_score(f32 logit) {
  if constexpr (kScoring == 1) return 1.0f / (1.0f + exp_f32(-logit));
  // softplus without overflow
  const f32 m = logit > 0.0f ? logit : 0.0f;
  const f32 magnitude = logit > 0.0f ? logit : -logit;
  return sqrt_f32(m + log1p_f32(exp_f32(-magnitude)));
}

MOEJIT_DEVICE f32 load_logit(const MoeArgs& a, i64 index) {
  if (a.logits_dtype == 0) return ldg_f32(at(a.router_logits, index * 4));
  const u16 bits = ldg_u16(at(a.router_logits, index * 2));
  return a.logits_dtype == 1 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

// Drops from `key` all experts outside the kTopkGroup best groups. `keys`: kNumExperts words of
// shared memory of this warp; `scores`: kNGroup words.
MOEJIT_DEVICE void limit_groups(u32 (&key)[kPerLane], u32 keys, u32 scores) {
  constexpr int kGroupSize = kNumExperts / kNGroup;
  const u32 lane = lane_id();
  MOEJIT_UNROLL
  for (int j = 0; j < kPerLane; ++j) {
    const int e = j * 32 + static_cast<int>(lane);
    if (e < kNumExperts) sts_u32(keys + e * 4, key[j]);
  }
  warp_sync();
  for (int g = static_cast<int>(lane); g < kNGroup; g += 32) {
    u32 first = 0, second = 0;
    for (int i = 0; i < kGroupSize; ++i) {
      const u32 k = lds_u32(keys + (g * kGroupSize + i) * 4);
      if (k > first) {
        second = first;
        first = k;
      } else if (k > second) {
        second = k;
      }
    }
    u32 score = first;
    if (kHasCorrectionBias && kGroupSize > 1)
      score = order_key(key_value(first) + key_value(second));
    sts_u32(scores + g * 4, score);
  }
  warp_sync();
  // A group stays when fewer than kTopkGroup groups are better (or equal and earlier).
  MOEJIT_UNROLL
  for (int j = 0; j < kPerLane; ++j) {
    const int e = j * 32 + static_cast<int>(lane);
    if (e >= kNumExperts) continue;
    const int mine = e / kGroupSize;
    const u32 score = lds_u32(scores + mine * 4);
    int better = 0;
    for (int g = 0; g < kNGroup; ++g) {
      const u32 other = lds_u32(scores + g * 4);
      if (other > score || (other == score && g < mine)) ++better;
    }
    if (better >= kTopkGroup) key[j] = 0;
  }
  warp_sync();
}

struct Choice {  // of lane k < kTopK: the k-th expert and its weight
  i32 id;
  f32 weight;
};
// Where softmax comes first and nothing is added to it, the logits have its order.
constexpr bool kByLogit = kRouterOrder == 0 && kScoring == 0 && !kHasCorrectionBias;
// Where not renormalised, the weights then need the logits of all experts.
constexpr bool kWeighsAll = kByLogit && !kRenormalize;

MOEJIT_DEVICE f32 largest_score(const f32 (&score)[kPerLane]) {
  f32 largest = as_f32(0xff800000u);
  MOEJIT_UNROLL
  for (int j = 0; j < kPerLane; ++j) {
    if (score[j] > largest) largest = score[j];
  }
  return warp_max(largest);
}
// The terms of softmax, which may take the place of the scores, and their sum.
MOEJIT_DEVICE f32 softmax_terms(const f32 (&score)[kPerLane], f32 largest, f32 (&terms)[kPerLane]) {
  f32 sum = 0.0f;
  MOEJIT_UNROLL
  for (int j = 0; j < kPerLane; ++j) {
    terms[j] = exp_f32(score[j] - largest);
    if (j * 32 + static_cast<int>(lane_id()) < kNumExperts) sum += terms[j];
  }
  return warp_sum(sum);
}

// Of lane k < kTopK: the weight of the k-th expert, whose score is `mine`. `score`: of all experts,
// read only where kWeighsAll. Warp-collective.
MOEJIT_DEVICE f32 choice_weight(f32 mine, const f32 (&score)[kPerLane]) {
  const bool chosen = static_cast<int>(lane_id()) < kTopK;
  if constexpr (kWeighsAll) {
    f32 terms[kPerLane];
    const f32 largest = largest_score(score);
    const f32 sum = softmax_terms(score, largest, terms);
    mine = exp_f32(mine - largest) / sum;
  } else if constexpr (kByLogit) {
    // The sum over all experts would cancel.
    const f32 top = warp_max(chosen ? mine : as_f32(0xff800000u));
    mine = chosen ? exp_f32(mine - top) : 0.0f;
  }
  if constexpr (kRouterOrder == 1) {
    if constexpr (kScoring == 0) {
      const f32 top = warp_max(chosen ? mine : as_f32(0xff800000u));
      mine = chosen ? exp_f32(mine - top) : 0.0f;
      mine = mine / warp_sum(mine);
    } else {
      mine = pointwise_score(mine);
    }
  }
  if constexpr (kRenormalize) mine = mine / (warp_sum(chosen ? mine : 0.0f) + 1e-20f);
  return mine * static_cast<f32>(kScalingFactor);
}

// `chosen(id)` is called with the experts before their weights are known. `scratch`: (kNumExperts +
// kNGroup) words of shared memory of this warp. Warp-collective.
template <typename Chosen>
MOEJIT_DEVICE Choice route_token(const MoeArgs& a, i64 token, u32 scratch, Chosen chosen) {
  const u32 lane = lane_id();
  f32 score[kPerLane];  // what becomes the weight
  u32 key[kPerLane];    // what selects, and 1 more; 0: does not exist, or was taken
  MOEJIT_UNROLL
  for (int j = 0; j < kPerLane; ++j) {
    const int e = j * 32 + static_cast<int>(lane);
    score[j] = e < kNumExperts ? load_logit(a, token * kNumExperts + e) : as_f32(0xff800000u);
  }
  if constexpr (kRouterOrder == 0 && !kByLogit) {
    if constexpr (kScoring == 0) {
      const f32 sum = softmax_terms(score, largest_score(score), score);
      MOEJIT_UNROLL
      for (int j = 0; j < kPerLane; ++j) score[j] = score[j] / sum;
    } else {
      MOEJIT_UNROLL
      for (int j = 0; j < kPerLane; ++j) score[j] = pointwise_score(score[j]);
    }
  }
  MOEJIT_UNROLL
  for (int j = 0; j < kPerLane; ++j) {
    const int e = j * 32 + static_cast<int>(lane);
    f32 v = score[j];
    if constexpr (kHasCorrectionBias) {
      if (e < kNumExperts) v += ldg_f32(a.correction_bias + e);
    }
    key[j] = order_key(v);
  }
  if constexpr (kNGroup > 1 && kTopkGroup < kNGroup) {
    limit_groups(key, scratch, scratch + kNumExperts * 4);
  }
  MOEJIT_UNROLL
  for (int j = 0; j < kPerLane; ++j)
    key[j] = j * 32 + static_cast<int>(lane) < kNumExperts ? key[j] + 1 : 0;

  // kTopK times the best remaining expert; lane k keeps the k-th.
  i32 my_id = 0;
  f32 my_score = 0.0f;
  MOEJIT_NO_UNROLL
  for (int k = 0; k < kTopK; ++k) {
    u32 best = key[0], best_id = lane;
    f32 best_score = score[0];
    MOEJIT_UNROLL
    for (int j = 1; j < kPerLane; ++j) {
      const bool better = key[j] > best;
      best = better ? key[j] : best;
      best_id = better ? static_cast<u32>(j) * 32 + lane : best_id;
      best_score = better ? score[j] : best_score;
    }
    // All keys of free experts, then the lowest id among the equal ones.
    const u32 top = warp_max_u32(best);
    const u32 id = warp_min_u32(best == top ? best_id : 0xffffffffu);
    MOEJIT_UNROLL
    for (int j = 0; j < kPerLane; ++j) {
      if (id == static_cast<u32>(j) * 32 + lane) key[j] = 0;
    }
    const f32 value = shfl_f32(best_score, id & 31u);
    if (static_cast<int>(lane) == k) {
      my_id = static_cast<i32>(id);
      my_score = value;
    }
  }
  chosen(my_id);
  return {my_id, choice_weight(my_score, score)};
}

MOEJIT_DEVICE void store_choice(const MoeArgs& a, i64 token, Choice choice) {
  if (static_cast<int>(lane_id()) >= kTopK) return;
  // A routed launch hands the arrays over as inputs of the other entries; only this one writes.
  stg_i32(const_cast<i32*>(a.topk_ids) + token * kTopK + lane_id(), choice.id);
  stg_f32(const_cast<f32*>(a.topk_weights) + token * kTopK + lane_id(), choice.weight);
}

}  // namespace moe

#if MOEJIT_PLAN_ROUTES == 0
MOEJIT_KERNEL(moe_route, moe::kRouteWarps * 32, 1)(moejit_abi::MoeArgs a) {
  using namespace moe;
  grid_launch_dependents();
  const i64 token = static_cast<i64>(block_id()) * kRouteWarps + warp_id();
  if (token >= a.num_tokens) return;
  const u32 scratch = shared_base() + warp_id() * ((kNumExperts + kNGroup) * 4);
  store_choice(a, token, route_token(a, token, scratch, [](i32) {}));
}
#endif
