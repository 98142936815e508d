// The plan of few tokens, as many as few_tokens() of cuda_stream.cpp says: every block makes it for
// itself from topk_ids or from the router's logits. Each token is a column of the products.
#pragma once

#include "kernels/route_block.h"

namespace moe {

constexpr int kFewSlots = 128;  // most slots of a launch; a thread looks after one

// In place of the list of stream_plan.h.
struct FewShared {
  u32 columns;  // [kFewSlots][8] u16, slot of each token in each chunk, or kNoSlot
  u32 ids;      // [T][kTopK] i32
  u32 weights;  // [T][kTopK] f32
  u32 keys;     // [kFewSlots] expert and, where a token has it more than once, which time
  u32 firsts;   // [kFewSlots / 32] bits: this slot begins a chunk
};
constexpr u32 kNoSlot = 0xffffu;
MOEJIT_DEVICE FewShared few_shared(const StreamShared& s) {
  static_assert(kFewSlots * 16 <= kListSlots * 2 && kFewSlots * 12 + 16 <= kListSlots * 2);
  return {s.slots, s.starts, s.starts + kFewSlots * 4, s.starts + kFewSlots * 8,
          s.starts + kFewSlots * 12};
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

// Several tokens: a chunk is an expert, once more for a token that has it again. Block-collective.
MOEJIT_DEVICE void plan_tokens(const MoeArgs& a, const StreamShared& s, const FewShared& few) {
  const int thread = static_cast<int>(thread_id());
  const int slots = static_cast<int>(a.num_tokens) * kSlots;
  if (a.routed != 0) {
    const u32 token = warp_id();
    if (static_cast<i64>(token) < a.num_tokens) {
      const Choice choice = route_token(a, token, s.ring, [](i32) {});
      if (static_cast<int>(lane_id()) < kTopK) {
        sts_u32(few.ids + (token * kTopK + lane_id()) * 4, static_cast<u32>(choice.id));
        sts_f32(few.weights + (token * kTopK + lane_id()) * 4, choice.weight);
      }
    }
  } else if (thread < static_cast<int>(a.num_tokens) * kTopK) {
    sts_u32(few.ids + thread * 4, static_cast<u32>(ldg_i32(a.topk_ids + thread)));
    sts_f32(few.weights + thread * 4, ldg_f32(a.topk_weights + thread));
  }
  if (thread < kFewSlots) {
    sts_u32x4(few.columns + thread * 16, {0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu});
  }
  if (thread < kFewSlots / 32) sts_u32(few.firsts + thread * 4, 0);
  block_sync();
  constexpr u32 kNone = 0xffffffffu;
  const int token = thread / kSlots;
  u32 key = kNone;
  if (thread < slots) {
    const auto expert_of = [&](int j) {
      if (kNumSharedExperts > 0 && j >= kTopK) return static_cast<u32>(kNumExperts + (j - kTopK));
      const u32 id = lds_u32(few.ids + (token * kTopK + j) * 4);
      return id < static_cast<u32>(kNumExperts) ? id : kNone;
    };
    const int j = thread - token * kSlots;
    const u32 expert = expert_of(j);
    u32 again = 0;
    for (int i = 0; i < j; ++i) again += expert_of(i) == expert ? 1 : 0;
    if (expert != kNone) key = expert | again << 16;
    sts_u32(few.keys + thread * 4, key);
  }
  block_sync();
  int first = thread;  // slot that begins this one's chunk
  if (key != kNone) {
    for (int i = thread - 1; i >= 0; --i) {
      if (lds_u32(few.keys + i * 4) == key) first = i;
    }
    if (first == thread) atomic_add_shared(few.firsts + (thread >> 5) * 4, 1u << (thread & 31));
  }
  block_sync();
  if (key != kNone) {
    u32 chunk = popc(lds_u32(few.firsts + (first >> 5) * 4) & ((1u << (first & 31)) - 1u));
    for (int w = 0; w < first >> 5; ++w) chunk += popc(lds_u32(few.firsts + w * 4));
    if (first == thread) sts_u16(s.owners + chunk * 2, static_cast<u16>(key & 0xffffu));
    sts_u16(few.columns + chunk * 16 + token * 2, static_cast<u16>(thread));
  }
  if (thread == 0) {
    u32 chunks = 0;
    for (int w = 0; w < kFewSlots / 32; ++w) chunks += popc(lds_u32(few.firsts + w * 4));
    sts_u32(s.cum, chunks);
  }
  block_sync();
}

// Block-collective.
MOEJIT_DEVICE Plan make_few_plan(const MoeArgs& a, const StreamShared& s, const FewShared& few) {
  if (kSlots <= 32 && a.num_tokens == 1) {
    plan_token(a, s, few);
  } else {
    plan_tokens(a, s, few);
  }
  return {static_cast<int>(lds_u32(s.cum)), true};
}

}  // namespace moe
