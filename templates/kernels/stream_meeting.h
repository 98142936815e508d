// Where the blocks of one launch meet: two words of the workspace that need no launch to clear
// them. A word holds kIdle + count * kStep modulo 2^64; whoever finds anything else, as in a
// workspace that is new or was used for something else, sets it to kIdle before it counts. The last
// block leaves both words at kIdle.
//
// Work is dealt in shares by ticket. A block takes shares until there are none left and only then
// waits for the others: every share is then held by a block that runs, so the wait ends even where
// not all blocks are resident at once.
#pragma once

#include "kernels/stream_plan.h"

namespace moe {

constexpr u64 kIdle = 0x6d0a71c5e8b24b93ull;
constexpr u64 kStep = 0xd1342543de82ef95ull;
constexpr u64 inverse_of(u64 odd) {  // modulo 2^64; every round doubles the right bits
  u64 x = odd;
  for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
  return x;
}
constexpr u64 kStepInverse = inverse_of(kStep);
static_assert(kStep * kStepInverse == 1);

// First word, `tickets`: tickets taken, and in kSecond blocks that started. Second word, `done`:
// shares that are done, and in kSecond blocks that have seen all of them done.
constexpr u64 kSecond = 1 << 16;
// The words lie in two lines.

struct Meeting {
  u64* tickets;
  u64* done;
};
MOEJIT_DEVICE Meeting meeting(const MoeArgs& a) {
  u64* words = reinterpret_cast<u64*>(region(a, kRegion_meeting));
  return {words, words + 16};
}
MOEJIT_DEVICE u32 count_of(u64 word) {
  return static_cast<u32>((word - kIdle) * kStepInverse);
}
// Whether `word` is of this launch. All others fail but one of 2^30, and those of ordinary data do.
MOEJIT_DEVICE bool is_count(u64 word) {
  const u64 count = (word - kIdle) * kStepInverse;
  return count < static_cast<u64>(block_count() + 1) * kSecond &&
         (count & (kSecond - 1)) <= 2 * block_count();
}
MOEJIT_DEVICE void settle_word(u64* word, u64 seen) {
  while (!is_count(seen)) {
    const u64 found = word_swap_if(word, seen, kIdle);
    if (found == seen) return;
    seen = found;
  }
}

// This block's first ticket, and its number in the order of starting. One thread.
struct Start {
  u32 ticket, number;
};
MOEJIT_DEVICE Start start_meeting(const Meeting& m) {
  MOEJIT_NO_UNROLL
  for (;;) {
    const u64 old = word_add(m.tickets, kStep * (kSecond + 1));
    if (is_count(old)) return {count_of(old) & 0xffffu, count_of(old) >> 16};
    settle_word(m.tickets, old + kStep * (kSecond + 1));
  }
}
// Before this block's first share is done. One thread.
MOEJIT_DEVICE void open_meeting(const Meeting& m) {
  settle_word(m.done, word_add(m.done, 0));
}
// The next ticket after this block's share, whose results a block_sync has ordered before. One
// thread.
MOEJIT_DEVICE u32 next_ticket(const Meeting& m) {
  word_add_release(m.done, kStep);  // first: others wait for it
  return count_of(word_add(m.tickets, kStep)) & 0xffffu;
}
// Until all shares are done. One thread.
MOEJIT_DEVICE void wait_for_all(const Meeting& m) {
  while ((count_of(word_acquire(m.done)) & 0xffffu) != block_count()) {
  }
}
// One thread of each block, after its last ticket: the count of blocks that left before.
MOEJIT_DEVICE u32 leave_meeting(const Meeting& m) {
  return count_of(word_add(m.done, kStep * kSecond)) >> 16;
}
// By the block that left last.
MOEJIT_DEVICE void close_meeting(const Meeting& m) {
  const u64 blocks = block_count();
  word_add(m.tickets, 0 - kStep * (blocks * kSecond + 2 * blocks));
  word_add(m.done, 0 - kStep * (blocks * kSecond + blocks));
}

}  // namespace moe
