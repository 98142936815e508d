// Barriers, warp and warpgroup collectives, clusters, dependent launches.
#include <algorithm>
#include <cstring>

#include "backends/sim/engine.h"

namespace moejit::internal::sim {

using namespace moejit_sim;

void Engine::collective(int kind, void* args, uint32_t line) {
  Thread* thread = current_;
  Block* block = thread->block;
  const uint32_t index = thread->self.thread;
  const bool is_warp = kind < kWgmmaFence || kind == kWmma, is_wave = kind == kMfma;
  const uint32_t size = is_warp ? 32 : is_wave ? 64 : 128;
  Meeting& meeting = is_warp   ? block->warps[index / 32]
                     : is_wave ? block->waves[index / 64]
                               : block->groups[index / 128];
  ++counters_.instructions;
  thread->line = line;
  if (meeting.arrived == 0) {
    meeting.kind = kind;
    meeting.line = line;
    const uint32_t first = index / size * size;
    if (first + size > block->threads.size()) {
      fail(FindingKind::kDivergence,
           where(thread, line) + (is_wave ? "\n  a wave's call in an incomplete wave"
                                          : "\n  a warpgroup call in an incomplete warpgroup"));
    }
    for (uint32_t i = first; i < first + size; ++i) {
      if (block->threads[i].wait == Wait::kExited) {
        fail(FindingKind::kDivergence, where(thread, line) + "\n  thread " + std::to_string(i) +
                                           ", which must take part, has ended");
      }
    }
  } else if (meeting.kind != kind) {
    fail(FindingKind::kDivergence, where(thread, line) +
                                       "\n  while other lanes are in another call at " +
                                       line_of(meeting.line));
  }
  meeting.args[index % size] = args;
  if (++meeting.arrived < size) {
    thread->wait_a = static_cast<uint32_t>(kind);
    suspend(thread, Wait::kGroup);
    return;
  }
  Thread* first = &block->threads[index / size * size];
  if (is_warp) {
    run_warp_collective(kind, meeting, first);
  } else if (is_wave) {
    mfma(meeting);
  } else {
    run_group_collective(kind, meeting, first);
  }
  meeting.arrived = 0;
  for (uint32_t i = 0; i < size; ++i) {
    Thread* other = first + i;
    if (other != thread) wake(other);
  }
}

void Engine::run_warp_collective(int kind, Meeting& meeting, Thread* first) {
  switch (kind) {
    case kWarpSync: {
      if (!races_) break;
      Gather gather;
      for (int i = 0; i < 32; ++i) gather.add(first[i].observer, first->block->agents);
      for (int i = 0; i < 32; ++i) {
        first[i].observer.know = gather.knowledge();
        ++first[i].observer.now;
      }
      break;
    }
    case kShuffle:
      for (uint32_t i = 0; i < 32; ++i) {
        auto* args = static_cast<ShuffleArgs*>(meeting.args[i]);
        uint32_t from = i;
        if (args->mode == kIndex) from = args->operand % 32;
        if (args->mode == kXor) from = i ^ (args->operand % 32);
        if (args->mode == kUp && i >= args->operand % 32) from = i - args->operand % 32;
        args->result = static_cast<ShuffleArgs*>(meeting.args[from])->value;
      }
      break;
    case kBallot: {
      uint32_t mask = 0;
      for (uint32_t i = 0; i < 32; ++i) {
        mask |= static_cast<BallotArgs*>(meeting.args[i])->predicate << i;
      }
      for (uint32_t i = 0; i < 32; ++i) static_cast<BallotArgs*>(meeting.args[i])->result = mask;
      break;
    }
    case kReduce: {
      auto* head = static_cast<ReduceArgs*>(meeting.args[0]);
      uint32_t result = head->value;
      for (uint32_t i = 1; i < 32; ++i) {
        auto* args = static_cast<ReduceArgs*>(meeting.args[i]);
        if (args->op != head->op) {
          fail(FindingKind::kDivergence,
               where(first + i, first[i].line) + "\n  lanes ask for different reductions");
        }
        if (args->op == kMax) result = std::max(result, args->value);
        if (args->op == kMin) result = std::min(result, args->value);
        if (args->op == kAdd) result += args->value;
      }
      for (uint32_t i = 0; i < 32; ++i) static_cast<ReduceArgs*>(meeting.args[i])->result = result;
      break;
    }
    case kLdmatrix:
      ldmatrix(meeting, first);
      break;
    case kMma:
      mma(meeting);
      break;
    case kWmma:
      wmma(meeting, first);
      break;
    default:
      break;
  }
}

void Engine::run_group_collective(int kind, Meeting& meeting, Thread* first) {
  Block* block = first->block;
  const uint32_t index = first->self.thread / 128;
  Warpgroup& group = block->warpgroups[index];
  switch (kind) {
    case kWgmmaFence:
      group.fenced = true;
      break;
    case kWgmma:
      issue_wgmma(meeting, first);
      break;
    case kWgmmaCommit:
      group.groups.push_back(group.issued);
      break;
    case kWgmmaWait: {
      const auto most = static_cast<size_t>(static_cast<CountArgs*>(meeting.args[0])->count);
      uint32_t done = 0;
      while (group.groups.size() > most) {
        done = group.groups.front();
        group.groups.pop_front();
      }
      if (done > 0) {
        finish_wgmma(block, index, done);
        for (int i = 0; i < 128; ++i) {
          first[i].observer.multiplied = std::max(first[i].observer.multiplied, done);
        }
      }
      if (group.groups.empty() && done == group.issued) group.fenced = false;
      break;
    }
    case kSetMaxRegisters: {
      const int count = static_cast<CountArgs*>(meeting.args[0])->count;
      const auto registers = static_cast<uint32_t>(count < 0 ? -count : count);
      const bool wrong_way = count < 0 ? registers > group.registers : registers < group.registers;
      if (registers < 24 || registers > 256 || registers % 8 != 0 || wrong_way) {
        fail(FindingKind::kResources,
             where(first, first->line) + "\n  setmaxnreg " + (count < 0 ? "dec " : "inc ") +
                 std::to_string(registers) + " from " + std::to_string(group.registers) +
                 ": must be a multiple of 8 in 24..256 in that direction");
      }
      group.registers = registers;
      break;
    }
    default:
      break;
  }
}

void Engine::complete_barrier(Block* block, Barrier& barrier, uint32_t id) {
  for (size_t w = 0; w < barrier.lanes_of_warp.size(); ++w) {
    uint32_t alive = 0;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      alive += block->threads[w * 32 + lane].wait == Wait::kExited ? 0u : 1u;
    }
    if (barrier.lanes_of_warp[w] != 0 && barrier.lanes_of_warp[w] < alive) {
      fail(FindingKind::kDivergence, "entry " + entry_->name + ", block " +
                                         std::to_string(block->id) + ", warp " + std::to_string(w) +
                                         "\n  only " + std::to_string(barrier.lanes_of_warp[w]) +
                                         " lanes are at barrier " + std::to_string(id) +
                                         ", which completes, at " + line_of(barrier.line));
    }
  }
  if (races_ && id != 0) barrier.last = barrier.gather.knowledge().vec;
  for (Thread* thread : barrier.waiting) {
    if (races_) {
      thread->observer.know = barrier.gather.knowledge();
      ++thread->observer.now;
    }
    if (thread != current_) wake(thread);
  }
  barrier.waiting.clear();
  barrier.gather.clear();
  barrier.arrived = 0;
  barrier.expected = 0;
  barrier.lanes_of_warp.clear();
}

void Engine::block_sync(uint32_t line) {
  named_barrier(0, 0, true, line);
}

// `threads` 0: every thread of the block that has not ended.
void Engine::named_barrier(uint32_t id, uint32_t threads, bool wait, uint32_t line) {
  Thread* thread = current_;
  Block* block = thread->block;
  ++counters_.barriers;
  thread->line = line;
  const auto misuse = [&](const std::string& why) {
    fail(FindingKind::kBarrierMisuse, where(thread, line) + "\n  " + why);
  };
  if (id >= block->barriers.size()) misuse("barrier " + std::to_string(id) + ": there are 0..15");
  if (threads % 32 != 0 || threads > block->threads.size()) {
    misuse("barrier " + std::to_string(id) + " for " + std::to_string(threads) +
           " threads: must be a multiple of 32, at most the block's " +
           std::to_string(block->threads.size()));
  }
  Barrier& barrier = block->barriers[id];
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.lanes_of_warp.assign(block->threads.size() / 32, 0);
    barrier.line = line;
  } else if (barrier.expected != threads) {
    misuse("barrier " + std::to_string(id) + " for " + std::to_string(threads) +
           " threads, while others came for " + std::to_string(barrier.expected) + " at " +
           line_of(barrier.line));
  }
  const uint32_t warp = thread->self.thread / 32;
  if (++barrier.lanes_of_warp[warp] > 32) {
    misuse("a warp arrives twice at barrier " + std::to_string(id) + " before it completes");
  }
  if (races_ && !thread->observer.know.vec.dominates(barrier.last)) {
    misuse("barrier " + std::to_string(id) +
           ": other warps met at it before, and nothing orders that before this arrival, which "
           "could have been one of theirs");
  }
  if (races_) barrier.gather.add(thread->observer, block->agents);
  ++barrier.arrived;
  if (wait) {
    barrier.waiting.push_back(thread);
  } else if (races_) {
    ++thread->observer.now;
  }
  const uint32_t needed = threads == 0 ? block->alive : threads;
  if (barrier.arrived >= needed) {
    complete_barrier(block, barrier, id);
  } else if (wait) {
    thread->wait_a = id;
    suspend(thread, id == 0 ? Wait::kBlock : Wait::kNamed);
  }
}

void Engine::check_exit_at_barriers(Block* block) {
  Barrier& barrier = block->barriers[0];
  if (barrier.arrived > 0 && barrier.expected == 0 && barrier.arrived >= block->alive) {
    complete_barrier(block, barrier, 0);
  }
}

void Engine::cluster_sync(uint32_t line) {
  Thread* thread = current_;
  Cluster& cluster = *thread->block->cluster;
  ++counters_.barriers;
  thread->line = line;
  uint32_t needed = 0;
  for (const Block* block : cluster.blocks) needed += block->alive;
  cluster.waiting.push_back(thread);
  if (++cluster.arrived < needed) {
    suspend(thread, Wait::kCluster);
    return;
  }
  if (races_) {
    Knowledge all;
    std::vector<Gather> gathers(cluster.blocks.size());
    for (Thread* other : cluster.waiting) {
      gathers[other->block->rank].add(other->observer, other->block->agents);
    }
    for (const Gather& gather : gathers) all.join(gather.knowledge());
    for (Block* block : cluster.blocks) {
      Knowledge mine;
      mine.block = block->uid;
      mine.join(all);
      for (Thread* other : cluster.waiting) {
        if (other->block != block) continue;
        other->observer.know = mine;
        ++other->observer.now;
      }
    }
  }
  std::vector<Thread*> waiting = std::move(cluster.waiting);
  cluster.waiting.clear();
  cluster.arrived = 0;
  for (Thread* other : waiting) {
    if (other != thread) wake(other);
  }
}

void Engine::grid_wait(uint32_t) {
  ++counters_.instructions;
  if (entry_->dependent && entry_index_ > 0) {
    current_->observer.know.entries |= known_after_[entry_index_ - 1];
  }
}

}  // namespace moejit::internal::sim
