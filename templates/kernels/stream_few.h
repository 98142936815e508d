// The plan of few tokens, as many as few_tokens() of cuda_stream.cpp says: every block makes it for
// itself from topk_ids or from the router's logits. Each token is a column of the products.
#pragma once

#include "kernels/route_block.h"

namespace moe {

constexpr int kFewSlots = 128;  // most slots of a launch

// In place of the list of stream_plan.h.
struct FewShared {
  u32 columns;  // [kFewSlots][8] u16, slot of each token in each chunk, or kNoSlot
  u32 ids;      // [T][kTopK] i32
  u32 weights;  // [T][kTopK] f32
  u32 users;    // [kExperts] bits: this token has the expert
  u32 again;    // [kFewSlots / 32] bits: the slot's token has its expert before
};
constexpr u32 kNoSlot = 0xffffu;
constexpr u32 kAbsent = 0xffffffffu;
MOEJIT_DEVICE FewShared few_shared(const StreamShared& s) {
  static_assert(kFewSlots * 16 <= kListSlots * 2 && kFewSlots * 8 + 16 <= kListSlots * 2);
  return {s.slots, s.starts, s.starts + kFewSlots * 4, s.ends, s.starts + kFewSlots * 8};
}

MOEJIT_DEVICE f32 weight_of(const FewShared& few, i32 slot) {
  const int token = slot / kSlots;
  const int j = slot - token * kSlots;
  if (kNumSharedExperts > 0 && j >= kTopK) return 1.0f;
  return lds_f32(few.weights + (token * kTopK + j) * 4);
}
// What the router chose, for the caller. After a block_sync since the plan. Block-collective.
MOEJIT_DEVICE void publish_choice(const MoeArgs& a, const FewShared& few) {
  for (int i = static_cast<int>(thread_id()); i < static_cast<int>(a.num_tokens) * kTopK;
       i += kWarps * 32) {
    stg_i32(const_cast<i32*>(a.topk_ids) + i, static_cast<i32>(lds_u32(few.ids + i * 4)));
    stg_f32(const_cast<f32*>(a.topk_weights) + i, lds_f32(few.weights + i * 4));
  }
}
// Slot of `token` in `chunk`, or kNoSlot.
MOEJIT_DEVICE u32 column_slot(const FewShared& few, int chunk, u32 token) {
  return lds_u16(few.columns + chunk * 16 + token * 2);
}

// One token: a chunk is a slot, and one warp needs no other for the plan. No weight can be asked
// for before it is there. The routing weights come after it: h is what needs them first.
// Block-collective.
MOEJIT_DEVICE void plan_token(const MoeArgs& a, const StreamShared& s, const FewShared& few) {
  if constexpr (kPicks) {
    if (a.routed != 0) pick_experts(a, pick_shared());
  }
  if (warp_id() != 0) {
    block_sync();
    return;
  }
  const int lane = static_cast<int>(lane_id());
  const auto chosen = [&](i32 id) {
    i32 expert = lane < kTopK && id < kNumExperts ? id : -1;
    if (lane >= kTopK && lane < kSlots) expert = kNumExperts + (lane - kTopK);
    const u32 valid = warp_ballot(expert >= 0);
    const u32 chunk = popc(valid & ((1u << lane) - 1u));
    if (expert >= 0) {
      sts_u16(s.owners + chunk * 2, static_cast<u16>(expert));
      sts_u32x4(few.columns + chunk * 16,
                {static_cast<u32>(lane) | kNoSlot << 16, 0xffffffffu, 0xffffffffu, 0xffffffffu});
    }
    if (lane == 0) sts_u32(s.cum, popc(valid));
    block_sync();
  };
  if (a.routed != 0) {
    Choice choice;
    if constexpr (kPicks) {
      choice = take_choice(pick_shared(), chosen);
    } else {
      choice = route_token(a, 0, s.ring, chosen);
    }
    if (lane < kTopK) {
      sts_u32(few.ids + lane * 4, static_cast<u32>(choice.id));
      sts_f32(few.weights + lane * 4, choice.weight);
    }
  } else {
    const i32 id = lane < kTopK ? ldg_i32(a.topk_ids + lane) : -1;
    const f32 weight = lane < kTopK ? ldg_f32(a.topk_weights + lane) : 0.0f;
    chosen(id);
    if (lane < kTopK) sts_f32(few.weights + lane * 4, weight);
  }
}

// Whether one warp makes the plan by itself.
MOEJIT_DEVICE bool plans_alone(const MoeArgs& a) {
  return kSlots <= 32 && a.num_tokens == 1;
}
// What plan_tokens adds to, before anything else. Block-collective.
MOEJIT_DEVICE void clear_few(const MoeArgs& a, const FewShared& few) {
  if (plans_alone(a)) return;
  const int thread = static_cast<int>(thread_id());
  for (int e = thread; e < kExperts; e += kWarps * 32) sts_u32(few.users + e * 4, 0);
  if (thread < kFewSlots) {
    sts_u32x4(few.columns + thread * 16, {0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu});
  }
  if (thread < kFewSlots / 32) sts_u32(few.again + thread * 4, 0);
  block_sync();
}

// Several tokens, or more slots than lanes; a warp looks after a token. A chunk is an expert, in
// their order; a slot whose token has its expert in an earlier slot has a chunk of its own, behind
// those. Block-collective.
MOEJIT_DEVICE void plan_tokens(const MoeArgs& a, const StreamShared& s, const FewShared& few) {
  // Slots of a lane: what was chosen is among the first ones, all others are shared experts.
  constexpr int kEach = ceil_div(kSlots, 32);
  static_assert(kTopK <= 32);
  const int token = static_cast<int>(warp_id());
  const int lane = static_cast<int>(lane_id());
  const int first = token * kSlots + lane;
  const bool mine = token < static_cast<int>(a.num_tokens);
  u32 expert[kEach];
  bool again = false;  // the token has the expert of `first` in an earlier slot
  if (mine) {
    const int choice_at = token * kTopK + lane;
    Choice choice = {-1, 0.0f};
    if (a.routed != 0) {
      choice = route_token(a, token, s.ring, [](i32) {});
    } else if (lane < kTopK) {
      choice = {ldg_i32(a.topk_ids + choice_at), ldg_f32(a.topk_weights + choice_at)};
    }
    if (lane < kTopK) {
      sts_u32(few.ids + choice_at * 4, static_cast<u32>(choice.id));
      sts_f32(few.weights + choice_at * 4, choice.weight);
    }
    const bool known = static_cast<u32>(choice.id) < static_cast<u32>(kNumExperts);
    MOEJIT_UNROLL
    for (int i = 0; i < kEach; ++i) {
      const int j = i * 32 + lane;
      expert[i] = kAbsent;
      if (j < kTopK) {
        if (known) expert[i] = static_cast<u32>(choice.id);
      } else if (j < kSlots) {
        expert[i] = static_cast<u32>(kNumExperts + (j - kTopK));
      }
    }
    if (a.routed == 0) {  // the router takes none twice
      warp_sync();
      const u32 ids = few.ids + token * kTopK * 4;
      for (int k = 0; k < kTopK; ++k)
        again |= k < lane && lane < kTopK && known && lds_u32(ids + k * 4) == expert[0];
    }
    MOEJIT_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if (expert[i] == kAbsent) continue;
      if (i == 0 && again) {
        atomic_add_shared(few.again + (first >> 5) * 4, 1u << (first & 31));
      } else {
        atomic_add_shared(few.users + expert[i] * 4, 1u << token);
      }
    }
  }
  block_sync();
  if (mine) {
    u32 chunk[kEach] = {};
    u32 chunks = 0;
    MOEJIT_UNROLL
    for (int w = 0; w < ceil_div(kExperts, 32); ++w) {
      const int e = w * 32 + lane;
      const u32 used = warp_ballot(e < kExperts && lds_u32(few.users + e * 4) != 0);
      MOEJIT_UNROLL
      for (int i = 0; i < kEach; ++i) {
        if (expert[i] >> 5 == static_cast<u32>(w))
          chunk[i] = chunks + popc(used & ((1u << (expert[i] & 31u)) - 1u));
      }
      chunks += popc(used);
    }
    MOEJIT_UNROLL
    for (int w = 0; w < kFewSlots / 32; ++w) {
      const u32 those = lds_u32(few.again + w * 4);
      if (again && first >> 5 == w) chunk[0] = chunks + popc(those & ((1u << (first & 31)) - 1u));
      chunks += popc(those);
    }
    if (token == 0 && lane == 0) sts_u32(s.cum, chunks);
    MOEJIT_UNROLL
    for (int i = 0; i < kEach; ++i) {
      if (expert[i] == kAbsent) continue;
      const u32 before = lds_u32(few.users + expert[i] * 4) & ((1u << token) - 1u);
      if ((i == 0 && again) || before == 0)
        sts_u16(s.owners + chunk[i] * 2, static_cast<u16>(expert[i]));
      sts_u16(few.columns + chunk[i] * 16 + token * 2, static_cast<u16>(first + i * 32));
    }
  }
  block_sync();
}

// Block-collective.
MOEJIT_DEVICE Plan make_few_plan(const MoeArgs& a, const StreamShared& s, const FewShared& few) {
  if (plans_alone(a)) {
    plan_token(a, s, few);
  } else {
    plan_tokens(a, s, few);
  }
  return {static_cast<int>(lds_u32(s.cum)), true};
}

}  // namespace moe
