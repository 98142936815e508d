// The second half of down where a layer takes three launches (schedule parameter `launches`): the
// blocks that are done with their tiles add up the partial results, which are dealt by ticket. Up
// to 128 tokens that is as fast as a combine (docs/performance_gpu_steps.md, 39).
//
// A ticket means waiting until all tiles are done. So a block takes one only when every block has
// started: tiles wait for nobody, and the wait ends whatever else runs on the device. A block that
// finds others missing leaves; the one that starts last finds all of them, and takes what is left.
#pragma once

#include "kernels/tile90_ring.h"

namespace moe {

static_assert(!kPlanRoutes || (kFewRows && kParts == 1 && kCluster == 1 && kSlots <= 32));
constexpr int kAdders = 128 * kConsumers;  // threads of a block
constexpr u32 kAddBarrier = kProducerBarrier + 1 + kConsumers;
constexpr int kVectorsAtOnce = 2;  // of a thread
constexpr int kVectorsOfTicket = kAdders * kVectorsAtOnce;
constexpr int kLinesOfTicket = kAdders * 8;

// Words that the plan clears behind the tickets of tiles: blocks that have started and finished,
// tickets of sums.
enum SumWord { kStarted, kFinished, kSums, kSumWords };
static_assert(!kPlanRoutes || kPlanCleared == 2 + kSumWords);
MOEJIT_DEVICE u32* sum_word(const MoeArgs& a, SumWord word) {
  return reinterpret_cast<u32*>(region(a, kRegion_counts)) + kPlanTickets + 2 + word;
}
// Before the block's tiles; one thread.
MOEJIT_DEVICE void count_started(const MoeArgs& a) {
  atomic_add_global(sum_word(a, kStarted), 1);
}
// The next ticket; one thread.
MOEJIT_DEVICE u32 take_sum(const MoeArgs& a) {
  return atomic_add_global(sum_word(a, kSums), 1);
}
// Until all tiles are done; one thread.
MOEJIT_DEVICE void wait_for_tiles(const MoeArgs& a) {
  while (ld_acquire(sum_word(a, kFinished)) != block_count()) {
  }
}

// Bit j: slot j of the token counts.
MOEJIT_DEVICE u32 slots_of(const MoeArgs& a, i64 token) {
  u32 slots = 0;
  MOEJIT_UNROLL
  for (int j = 0; j < kSlots; ++j) {
    const i32 id = j < kTopK ? ldg_i32(a.topk_ids + token * kTopK + j) : 0;
    slots |= (id >= 0 && id < kNumExperts ? 1u : 0u) << j;
  }
  return slots;
}

// Vectors `begin` and behind it, of `count` of all tokens: the same sums in the same order as
// combine_vector's, with all loads of a thread under way at once. `complete`: no slot is skipped.
// Then the lines of y are dead.
MOEJIT_DEVICE void add_vectors(const MoeArgs& a, i64 begin, i64 count, bool complete) {
  constexpr int kV = kVector<kPartial16>;
  constexpr int kVectors = kHiddenSize / kV;
  constexpr u32 kAll = 0xffffffffu >> (32 - min_of(kSlots, 32));
  constexpr i64 kRow = Keep90::kRowOfY;
  constexpr int kRows = min_of(kSlots, 8);  // under way
  const int thread = static_cast<int>(thread_id()) - 128;
  u8* y[kVectorsAtOnce];
  u32 slots[kVectorsAtOnce];
  bool real[kVectorsAtOnce];
  MOEJIT_UNROLL
  for (int i = 0; i < kVectorsAtOnce; ++i) {
    const i64 vector = begin + i * kAdders + thread;
    real[i] = vector < count;
    const i64 token = min_of64(vector, count - 1) / kVectors;
    const i64 column = min_of64(vector, count - 1) - token * kVectors;
    slots[i] = complete ? kAll : slots_of(a, token);
    if (!real[i]) slots[i] = 0;
    y[i] = region(a, kRegion_y) + token * kSlots * kRow + column * 16;
  }
  f32 sum[kVectorsAtOnce][kV] = {};
  MOEJIT_UNROLL
  for (int from = 0; from < kSlots; from += kRows) {
    u32x4 v[kVectorsAtOnce * kRows];
    MOEJIT_UNROLL
    for (int i = 0; i < kVectorsAtOnce * kRows; ++i) {
      const int j = from + i % kRows;
      v[i] = {0u, 0u, 0u, 0u};
      if (j < kSlots && (slots[i / kRows] >> j & 1u) != 0)
        v[i] = ldg_u32x4(y[i / kRows] + j * kRow);
    }
    MOEJIT_UNROLL
    for (int i = 0; i < kVectorsAtOnce * kRows; ++i) {
      const u32 w[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
      MOEJIT_UNROLL
      for (int c = 0; c < kV; ++c) {
        sum[i / kRows][c] += kPartial16
                                 ? to_f32(static_cast<u16>(c % 2 == 0 ? w[c / 2] : w[c / 2] >> 16))
                                 : as_f32(w[c % 4]);
      }
    }
  }
  warp_sync();  // a line is read by eight lanes
  MOEJIT_UNROLL
  for (int i = 0; i < kVectorsAtOnce; ++i) {
    if (!real[i]) continue;
    const f32(&s)[kV] = sum[i];
    u8* out = at(a.out, (begin + i * kAdders + thread) * (kV * 2));
    if constexpr (kPartial16) {
      stg_u32x4(out, {pack2(s[0], s[1]), pack2(s[2], s[3]), pack2(s[4], s[5]), pack2(s[6], s[7])});
    } else {
      stg_u32x2(out, {pack2(s[0], s[1]), pack2(s[2], s[3])});
    }
    if (Keep90::kTokensY == 0 || thread % 8 != 0 || !Keep90::y(a.num_tokens)) continue;
    MOEJIT_UNROLL
    for (int j = 0; j < kSlots; ++j) {
      if ((slots[i] >> j & 1u) != 0) discard_line(y[i] + j * kRow);
    }
  }
}

// The consumers of a block, when its tiles are done. `tickets`: two words of shared memory. Behind
// the tickets of sums come those of lines of h, which all tiles are done with, too.
MOEJIT_DEVICE void add_up(const MoeArgs& a, u32 tickets) {
  constexpr i64 kVectors = kHiddenSize / kVector<kPartial16>;
  const bool leads = thread_id() == 128;
  const i32 rows = ldg_i32(plan_counts(a) + 1 + kExperts);
  const i64 vectors = a.num_tokens * kVectors;
  const i64 lines = Keep90::h(a.num_tokens) ? rows * Keep90::kRowOfH / kLineBytes : 0;
  const u32 sums = static_cast<u32>((vectors + kVectorsOfTicket - 1) / kVectorsOfTicket);
  const u32 all = sums + static_cast<u32>((lines + kLinesOfTicket - 1) / kLinesOfTicket);
  u32 next = all;
  // Taken while the others still store.
  if (leads && ld_acquire(sum_word(a, kStarted)) == block_count()) next = take_sum(a);
  bar_sync(kAddBarrier, kAdders);
  if (leads) {
    atomic_add_acq_rel(sum_word(a, kFinished), 1);
    if (next < all) {
      wait_for_tiles(a);
    }
  }
  for (;; tickets ^= 4u) {
    if (leads) sts_u32(tickets, next);
    bar_sync(kAddBarrier, kAdders);
    const u32 ticket = lds_u32(tickets);
    if (ticket >= all) break;
    if (leads) {
      next = take_sum(a);
    }
    if (ticket < sums) {
      add_vectors(a, static_cast<i64>(ticket) * kVectorsOfTicket, vectors,
                  rows == a.num_tokens * kSlots);
      continue;
    }
    const i64 begin = static_cast<i64>(ticket - sums) * kLinesOfTicket;
    const i64 end = min_of64(lines, begin + kLinesOfTicket);
    for (i64 line = begin + thread_id() - 128; line < end; line += kAdders)
      discard_line(region(a, kRegion_h) + line * kLineBytes);
  }
}

}  // namespace moe
