// The router of one token by several warps of a block, with the rules of route_token: there one
// warp looks for the best expert kTopK times, one after the other, while no weight can be asked
// for. Here every expert counts the experts before it; where there are many, first among 32.
#pragma once

#include "kernels/stream_plan.h"

namespace moe {

// The last two warps open the meeting of the blocks at that time.
constexpr int kPickThreads = (kWarps - 2) * 32;
// Few rounds of route_token are quicker; the counting grows with the square of the experts. Groups
// and a softmax before a bias need a look at all experts first.
constexpr bool kPicks = kTopK > 2 && kNumExperts <= min_of(256, kPickThreads) &&
                        !(kNGroup > 1 && kTopkGroup < kNGroup) &&
                        !(kRouterOrder == 0 && kScoring == 0 && kHasCorrectionBias);
constexpr int kPickBarrier = 1;

// In how many parts each of `count` counts `keys` keys: a power of two, and not so many that adding
// them up takes longer than the counting.
constexpr int pick_parts(int count, int keys, int threads) {
  int parts = 1;
  while (parts < 32 && parts * 8 < keys && parts * 2 * count <= threads) parts *= 2;
  return parts;
}
// The best kSieved of 32 experts each go on to the second count, equal ones in the order of the
// experts.
constexpr int kSieved = ceil_div(kTopK, 4) * 4;
constexpr bool kSieves = kNumExperts > 64 && ceil_div(kNumExperts, 32) * kSieved * 2 <= kNumExperts;
constexpr int kPickExperts = ceil_div(kNumExperts, kSieves ? 32 : 4) * (kSieves ? 32 : 4);
constexpr int kPickKeys = kSieves ? 32 : kPickExperts;
constexpr int kPickParts = pick_parts(kPickExperts, kPickKeys, kPickThreads);
constexpr int kPickWarps = ceil_div(kPickExperts * kPickParts, 32);
constexpr int kFinalists = kPickExperts / 32 * kSieved;
constexpr int kFinalParts = pick_parts(kFinalists, kFinalists, kPickWarps * 32);
constexpr int kFinalWarps = ceil_div(kFinalists * kFinalParts, 32);

// In the ring of warp 0: that warp alone fills it, after it has read the weights of the choice.
struct PickShared {
  u32 keys;       // of all experts
  u32 finalists;  // keys of those that go on, then expert and score of each
  u32 choice;     // [kTopK] expert and score
  u32 scores;     // of all experts, where kWeighsAll
};
MOEJIT_DEVICE PickShared pick_shared() {
  constexpr int kKeyBytes = kPickWarps * 32 / kPickParts * 4;
  constexpr int kFinalBytes = kSieves ? kFinalists * 12 : 0;
  static_assert(!kPicks || kKeyBytes + kFinalBytes + kTopK * 8 + kNumExperts * 4 <= kRingBytes);
  PickShared p;
  p.keys = shared_base();
  p.finalists = p.keys + kKeyBytes;
  p.choice = p.finalists + kFinalBytes;
  p.scores = p.choice + kTopK * 8;
  return p;
}

// How many of kKeys keys come before number `number` of them: larger ones, and equal ones of
// smaller number. kParts lanes side by side count for one key. Warp-collective.
template <int kKeys, int kParts>
MOEJIT_DEVICE u32 count_before(u32 keys, u32 key, u32 number) {
  constexpr int kEach = ceil_div(kKeys / 4, kParts);
  constexpr int kAtOnce = min_of(4, kEach);
  // 0, or -1 where k is less: a borrow takes fewer instructions than a comparison.
  const auto less = [](u32 k, u64 least) { return static_cast<u32>((k - least) >> 32); };
  const u32 part = lane_id() % kParts;
  const u32x4 own = lds_u32x4(keys + number / 4 * 16);
  u32 before = 0;
  MOEJIT_NO_UNROLL
  for (int i = 0; i < kEach; i += kAtOnce) {
    MOEJIT_UNROLL
    for (int u = 0; u < kAtOnce; ++u) {
      const u32 piece = part + static_cast<u32>((i + u) * kParts);
      if (kKeys / 4 % (kAtOnce * kParts) != 0 && piece >= kKeys / 4) break;
      const u32x4 k = lds_u32x4(keys + piece * 16);
      const u32 least = key + (piece < number / 4 ? 0 : 1);
      before += 4 + less(k.x, least) + less(k.y, least) + less(k.z, least) + less(k.w, least);
    }
  }
  // Equal ones in the same piece.
  const u32 earlier = part == 0 ? number % 4 : 0;
  before += earlier > 0 && own.x == key ? 1 : 0;
  before += earlier > 1 && own.y == key ? 1 : 0;
  before += earlier > 2 && own.z == key ? 1 : 0;
  MOEJIT_UNROLL
  for (u32 m = 1; m < kParts; m <<= 1) before += shfl_xor_u32(before, m);
  return before;
}

// The experts of token 0 and their scores to p.choice. The first kPickWarps warps must call it, all
// may; warp 0 has the choice then.
MOEJIT_DEVICE void pick_experts(const MoeArgs& a, const PickShared& p) {
  if (warp_id() >= kPickWarps) return;
  u32 number = thread_id() / kPickParts;
  bool writes = thread_id() % kPickParts == 0;
  u32 key = 0;  // also where there is no expert: those have the last numbers
  u32x2 pick = {number, 0};
  if (number < kNumExperts) {
    f32 score = load_logit(a, number);
    if constexpr (kRouterOrder == 0 && !kByLogit) score = pointwise_score(score);
    f32 v = score;
    if constexpr (kHasCorrectionBias) v += ldg_f32(a.correction_bias + number);
    key = order_key(v);
    pick.y = as_u32(score);
    if (kWeighsAll && writes) sts_f32(p.scores + number * 4, score);
  }
  if (writes) sts_u32(p.keys + number * 4, key);
  bar_sync(kPickBarrier, kPickWarps * 32);
  u32 before;
  if constexpr (kSieves) {
    before = count_before<kPickKeys, kPickParts>(p.keys + number / 32 * 128, key, number % 32);
    if (writes && before < kSieved) {
      const u32 place = number / 32 * kSieved + before;
      sts_u32(p.finalists + place * 4, key);
      sts_u32x2(p.finalists + kFinalists * 4 + place * 8, pick);
    }
    bar_sync(kPickBarrier, kPickWarps * 32);
    if (warp_id() >= kFinalWarps) return;
    number = thread_id() / kFinalParts;
    writes = thread_id() % kFinalParts == 0;
    key = 0;
    if (number < kFinalists) {
      key = lds_u32(p.finalists + number * 4);
      pick = lds_u32x2(p.finalists + kFinalists * 4 + number * 8);
    }
    before = count_before<kFinalists, kFinalParts>(p.finalists, key, number);
  } else {
    before = count_before<kPickKeys, kPickParts>(p.keys, key, number);
  }
  if (writes && before < kTopK) sts_u32x2(p.choice + before * 8, pick);
  bar_sync(kPickBarrier, (kSieves ? kFinalWarps : kPickWarps) * 32);
}

// What pick_experts found; `chosen` as in route_token. The scores are read after it: read before,
// the compiler computes the weights first, and the plan waits. Warp 0.
template <typename Chosen>
MOEJIT_DEVICE Choice take_choice(const PickShared& p, Chosen chosen) {
  const int lane = static_cast<int>(lane_id());
  const u32 mine = p.choice + lane * 8;
  const i32 id = lane < kTopK ? static_cast<i32>(lds_u32(mine)) : 0;
  chosen(id);
  const f32 my_score = lane < kTopK ? lds_f32(mine + 4) : 0.0f;
  f32 score[kPerLane] = {};
  if constexpr (kWeighsAll) {
    MOEJIT_UNROLL
    for (int j = 0; j < kPerLane; ++j) {
      const int e = j * 32 + lane;
      score[j] = e < kNumExperts ? lds_f32(p.scores + e * 4) : as_f32(0xff800000u);
    }
  }
  warp_sync();  // copies into the ring may follow
  return {id, choice_weight(my_score, score)};
}

}  // namespace moe
