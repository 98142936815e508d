// mbarrier objects: phases, arrivals, transaction bytes (PTX ISA 9.7.13.15).
#include <algorithm>

#include "backends/sim/engine.h"

namespace moejit::internal::sim {

namespace {

constexpr uint32_t kMostArrivals = (1u << 20) - 1;
constexpr int64_t kMostTx = (1 << 20) - 1;

}  // namespace

// Uses of the object are atomic; only its initialisation is an ordinary write, so a thread that
// uses it without a barrier after the initialisation is a race.
Mbar& Engine::mbar_at(Block* block, uint32_t address, const Access& access, const Thread* thread) {
  auto it = block->mbars.find(address);
  if (it == block->mbars.end()) {
    fail(FindingKind::kBarrierMisuse,
         where(thread, access.line) + "\n  no mbarrier was initialised at byte " +
             std::to_string(static_cast<int32_t>(address - block->shared_base)) +
             " of shared memory");
  }
  if (races_) {
    Cell earlier;
    size_t at = 0;
    const Conflict conflict = block->shadow.record(address - block->shared_base, 8, access,
                                                   entry_of_block_, &earlier, &at);
    if (conflict == Conflict::kRace) {
      fail_conflict(conflict, access, earlier,
                    "the mbarrier at byte " + std::to_string(at) + " of shared memory", thread);
    }
  }
  return it->second;
}

void Engine::mbar_init(uint32_t bar, uint32_t count, uint32_t line) {
  ++counters_.instructions;
  Thread* thread = current_;
  Block* block = thread->block;
  const uint32_t offset = bar - block->shared_base;
  const auto text = [&](const char* why) {
    return where(thread, line) + "\n  mbarrier at byte " +
           std::to_string(static_cast<int32_t>(offset)) + " of " +
           std::to_string(block->shared_bytes) + ", count " + std::to_string(count) + ": " + why;
  };
  if (offset >= block->shared_bytes || block->shared_bytes - offset < 8) {
    fail(FindingKind::kOutOfBounds, text("outside shared memory"));
  }
  if (bar % 8 != 0) fail(FindingKind::kMisaligned, text("must be 8-aligned"));
  if (count == 0 || count > kMostArrivals) {
    fail(FindingKind::kBarrierMisuse, text("the count must be 1..1048575"));
  }
  if (block->mbars.count(bar) != 0) {
    fail(FindingKind::kBarrierMisuse, text("initialised twice without being invalidated"));
  }
  if (block->shadow.is_barrier(offset, 8)) {
    fail(FindingKind::kBarrierMisuse, text("overlaps another mbarrier"));
  }
  if (races_) {
    Cell earlier;
    size_t at = 0;
    const Access access = access_by(thread, line, kWriteAccess);
    const Conflict conflict =
        block->shadow.record(offset, 8, access, entry_of_block_, &earlier, &at);
    if (conflict != Conflict::kNone) {
      fail_conflict(conflict, access, earlier, "the mbarrier's bytes", thread);
    }
  }
  block->shadow.set_barrier(offset, true);
  Mbar& mbar = block->mbars[bar];
  mbar.address = bar;
  mbar.made_by = thread;
  mbar.expected = mbar.pending = count;
  if (block->next_agent >= block->agents) {
    fail(FindingKind::kResources, text("more mbarriers than the simulator tracks"));
  }
  mbar.agent = block->next_agent++;
}

// The copy engine sees an initialisation only after a fence of the thread that made it.
void Engine::check_fenced(const Mbar& mbar, const Thread* thread, uint32_t line) {
  if (mbar.fenced) return;
  fail(FindingKind::kProxyFence,
       where(thread, line) + "\n  the copy completes on the mbarrier at byte " +
           std::to_string(mbar.address - thread->block->shared_base) +
           " of shared memory: no fence_mbar_init lies between its initialisation and the copy");
}

void Engine::take_arrival(Block* block, Mbar& mbar, const Thread* thread) {
  if (mbar.pending == 0) {
    fail(FindingKind::kBarrierMisuse,
         where(thread, thread->line) + "\n  arrives at the mbarrier at byte " +
             std::to_string(mbar.address - block->shared_base) + ", whose phase " +
             std::to_string(mbar.phase) + " already has all " + std::to_string(mbar.expected) +
             " arrivals");
  }
  --mbar.pending;
}

void Engine::maybe_complete(Block* block, Mbar& mbar) {
  if (mbar.pending != 0 || mbar.tx != 0) return;
  ++mbar.phase;
  mbar.pending = mbar.expected;
  if (races_) {
    mbar.gather.raise(block->uid, block->agents, mbar.agent, mbar.phase);
    // What an earlier phase published stays true.
    Knowledge now = mbar.gather.knowledge();
    now.join(mbar.completed);
    now.join(mbar.remote_gather);
    mbar.remote_gather = Knowledge();
    mbar.completed = std::move(now);
    mbar.gather.clear();
    mbar.memo_in = VecRef();
    mbar.memo_out = VecRef();
  }
  std::vector<Thread*> waiting = std::move(mbar.waiting);
  mbar.waiting.clear();
  for (Thread* thread : waiting) {
    if ((mbar.phase & 1) != thread->wait_b) {
      acquire_phase(thread, mbar);
      wake(thread);
    } else {
      mbar.waiting.push_back(thread);
    }
  }
}

void Engine::complete_tx(Block* block, Mbar& mbar, uint32_t bytes) {
  mbar.tx -= bytes;
  if (mbar.tx < -kMostTx) {
    fail(FindingKind::kBarrierMisuse, "entry " + entry_->name + ", block " +
                                          std::to_string(block->id) + "\n  the mbarrier at byte " +
                                          std::to_string(mbar.address - block->shared_base) +
                                          " got more bytes than its tx-count holds");
  }
  maybe_complete(block, mbar);
}

void Engine::mbar_arrive(uint32_t bar, uint32_t expect_tx, uint32_t line) {
  ++counters_.barriers;
  Thread* thread = current_;
  Block* block = thread->block;
  thread->line = line;
  Mbar& mbar = mbar_at(block, bar, access_by(thread, line, kWriteAccess | kAtomicAccess), thread);
  mbar.tx += expect_tx;
  if (mbar.tx > kMostTx) {
    fail(FindingKind::kBarrierMisuse, where(thread, line) + "\n  expects " +
                                          std::to_string(mbar.tx) +
                                          " bytes: a phase holds at most 1048575");
  }
  take_arrival(block, mbar, thread);
  if (races_) {
    mbar.gather.add(thread->observer, block->agents);
    ++thread->observer.now;
  }
  maybe_complete(block, mbar);
}

// An arrival from another block of the cluster (or from the own, through its rank).
void Engine::mbar_arrive_cluster(uint32_t bar, uint32_t rank, uint32_t line) {
  ++counters_.barriers;
  Thread* thread = current_;
  thread->line = line;
  Block* other = block_of_cluster(rank, line);
  Mbar& mbar = mbar_at(other, bar, access_by(thread, line, kWriteAccess | kAtomicAccess), thread);
  take_arrival(other, mbar, thread);
  if (races_) {
    if (other == thread->block) {
      mbar.gather.add(thread->observer, other->agents);
    } else {
      Knowledge mine = thread->observer.know;
      mine.vec = thread->observer.folded(thread->block->agents);
      mbar.remote_gather.join(mine);
    }
    ++thread->observer.now;
  }
  maybe_complete(other, mbar);
}

void Engine::acquire_phase(Thread* thread, Mbar& mbar) {
  if (!races_) return;
  Knowledge& know = thread->observer.know;
  if (mbar.completed.foreign.empty() && know.fenced == mbar.completed.fenced && mbar.memo_out &&
      know.vec == mbar.memo_in) {
    know.vec = mbar.memo_out;
    know.entries |= mbar.completed.entries;
    return;
  }
  const VecRef before = know.vec;
  know.join(mbar.completed);
  mbar.memo_in = before;
  mbar.memo_out = know.vec;
}

void Engine::mbar_wait(uint32_t bar, uint32_t parity, uint32_t line) {
  ++counters_.barriers;
  Thread* thread = current_;
  Block* block = thread->block;
  thread->line = line;
  if (parity > 1) {
    fail(FindingKind::kBarrierMisuse,
         where(thread, line) + "\n  parity " + std::to_string(parity) + " must be 0 or 1");
  }
  Mbar& mbar = mbar_at(block, bar, access_by(thread, line, kAtomicAccess), thread);
  // The phase of that parity has completed exactly when the running one has the other parity.
  if ((mbar.phase & 1) != parity) {
    acquire_phase(thread, mbar);
    return;
  }
  thread->wait_a = bar;
  thread->wait_b = parity;
  mbar.waiting.push_back(thread);
  suspend(thread, Wait::kMbarrier);
}

}  // namespace moejit::internal::sim
