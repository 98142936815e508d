#include "backends/sim/engine.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace moejit::internal::sim {
namespace {

// Thrown by a finding that is made outside any fiber; never leaves run().
struct Abandoned {};

StackPool& stacks() {
  static auto* pool = new StackPool();
  return *pool;
}

constexpr uint32_t kExtraAgents = 128;  // mbarriers and wgmma pipes of a block
constexpr uint64_t kMostIdleRounds = 20000;

}  // namespace

Engine::Engine(Limits limits, Timing timing, bool races, std::vector<Region>& regions)
    : limits_(limits), timing_(timing), races_(races), regions_(regions) {}

Engine::~Engine() {
  for (auto* list : {&resident_, &spare_}) {
    for (auto& block : *list) {
      for (Thread& thread : block->threads) stacks().release(thread.fiber);
    }
  }
}

bool Engine::run(const std::vector<EntryPlan>& entries, const void* args,
                 const moejit_sim::Self** self_slot) {
  adopt_current_stack(scheduler_);
  self_slot_ = self_slot;
  args_ = args;
  for (entry_index_ = 0; entry_index_ < entries.size(); ++entry_index_) {
    const EntryPlan& entry = entries[entry_index_];
    const uint64_t all_before = (uint64_t{1} << entry_index_) - 1;
    if (!entry.dependent || entry_index_ == 0) known_at_start_ = all_before;
    counters_.launches += 1;
    if (!run_grid(entry)) return false;
  }
  return true;
}

void Engine::start_cluster(uint32_t first_block) {
  auto cluster = std::make_shared<Cluster>();
  for (uint32_t rank = 0; rank < entry_->cluster; ++rank) {
    std::unique_ptr<Block> block;
    if (!spare_.empty()) {
      block = std::move(spare_.back());
      spare_.pop_back();
    } else {
      block = std::make_unique<Block>();
    }
    const uint32_t threads = entry_->threads;
    while (block->threads.size() > threads) {
      stacks().release(block->threads.back().fiber);
      block->threads.pop_back();
    }
    block->threads.resize(threads);
    block->id = first_block + rank;
    block->uid = static_cast<uint32_t>(entry_of_block_.size());
    entry_of_block_.push_back(static_cast<uint8_t>(entry_index_));
    block->rank = rank;
    block->cluster = cluster;
    cluster->blocks.push_back(block.get());
    block->alive = threads;
    block->next_agent = threads * 2;
    block->agents = threads * 2 + kExtraAgents;
    block->known_at_exit = 0;
    block->triggered = false;
    block->engine = this;
    // Dynamic shared memory is promised to be 16-byte aligned, no more: the second is as far from
    // the next 1024 as that allows.
    block->shared_base = timing_ == Timing::kEarly ? 1024 : 1024 + 16;
    block->shared_bytes = entry_->shared_bytes;
    block->shared_storage.resize(entry_->shared_bytes + 64);
    block->shared = reinterpret_cast<char*>(
        (reinterpret_cast<uintptr_t>(block->shared_storage.data()) + 63) & ~uintptr_t{63});
    std::memset(block->shared, 0xff, entry_->shared_bytes);  // NaN in every float type
    block->shadow.reset(entry_->shared_bytes, false);
    block->warps.assign(threads / 32, Meeting{});
    block->waves.assign((threads + 63) / 64, Meeting{});
    block->groups.assign((threads + 127) / 128, Meeting{});
    block->warpgroups.assign((threads + 127) / 128, Warpgroup{});
    block->barriers = {};
    block->mbars.clear();
    block->ready.clear();
    block->spinning.clear();
    const uint32_t registers =
        std::min<uint32_t>(255, limits_.registers_per_unit / std::max(threads, 1u)) & ~7u;
    for (Warpgroup& group : block->warpgroups) group.registers = registers;
    const uint32_t mma_base = block->next_agent;
    block->next_agent += threads / 32;
    for (uint32_t i = 0; i < threads; ++i) {
      Thread& thread = block->threads[i];
      Fiber fiber = thread.fiber;
      if (fiber.stack == nullptr && !stacks().acquire(fiber)) throw std::bad_alloc();
      thread = Thread{};
      thread.fiber = fiber;
      thread.block = block.get();
      thread.self.thread = i;
      thread.self.block = block->id;
      thread.self.block_count = entry_->blocks;
      thread.self.cluster_rank = rank;
      thread.self.shared_base = block->shared_base;
      Observer& observer = thread.observer;
      observer.know.block = block->uid;
      observer.know.entries = known_at_start_;
      observer.self = i;
      observer.now = 1;
      observer.copy_agent = threads + i;
      observer.mma_agent = mma_base + i / 32;
      prepare_fiber(thread.fiber, fiber_main, &thread);
      if (timing_ == Timing::kEarly) {
        block->ready.push_back(&thread);
      } else {
        block->ready.push_front(&thread);
      }
    }
    resident_.push_back(std::move(block));
  }
}

bool Engine::run_grid(const EntryPlan& entry) {
  entry_ = &entry;
  next_block_ = 0;
  known_at_exit_ = ~uint64_t{0};
  known_at_trigger_ = ~uint64_t{0};
  idle_rounds_ = 0;
  const uint32_t by_threads = limits_.threads_per_unit / std::max(entry.threads, 1u);
  const uint32_t by_shared = limits_.shared_per_unit / (entry.shared_bytes + 1024);
  most_resident_ = std::max(1u, std::min({by_threads, by_shared, 32u})) * limits_.units;
  most_resident_ = std::max(most_resident_, entry.cluster);
  if (entry.blocks == 0) return true;
  try {
    if (timing_ == Timing::kLate) {
      while (next_block_ < entry.blocks && resident_.size() + entry.cluster <= most_resident_) {
        start_cluster(next_block_);
        next_block_ += entry.cluster;
      }
    }
    while (next_block_ < entry.blocks || !resident_.empty()) {
      bool progress = false;
      for (size_t i = 0; i < resident_.size(); ++i) {
        // Early: in order of start. Late: the youngest first.
        const size_t at = timing_ == Timing::kEarly ? i : resident_.size() - 1 - i;
        progress |= step(resident_[at].get());
        if (failed_) return false;
      }
      for (size_t i = 0; i < resident_.size();) {
        // Blocks of a cluster leave together: a neighbour may still read their shared memory.
        const Cluster& cluster = *resident_[i]->cluster;
        const bool done = std::all_of(cluster.blocks.begin(), cluster.blocks.end(),
                                      [](const Block* b) { return b->alive == 0; });
        if (!done) {
          ++i;
          continue;
        }
        retire(resident_[i].get());
        progress = true;
        spare_.push_back(std::move(resident_[i]));
        resident_.erase(resident_.begin() + static_cast<ptrdiff_t>(i));
      }
      if (!progress && !advance()) {
        fail_from_scheduler(FindingKind::kDeadlock, "no thread can go on; waiting:\n" + states());
        return false;
      }
    }
  } catch (const Abandoned&) {
    return false;
  } catch (const std::bad_alloc&) {
    fail_from_scheduler(FindingKind::kResources, "the simulator has no memory for more threads");
    return false;
  }
  known_after_.resize(entry_index_ + 1);
  known_after_[entry_index_] = known_at_exit_ | uint64_t{1} << entry_index_;
  known_at_start_ = known_at_trigger_;
  sync_variables_.clear();
  return true;
}

bool Engine::step(Block* block) {
  if (block->ready.empty()) return false;
  Thread* next = block->ready.front();
  block->ready.pop_front();
  current_ = next;
  *self_slot_ = &next->self;
  switch_fiber(scheduler_, next->fiber);
  current_ = nullptr;
  return true;
}

bool Engine::advance() {
  if (next_block_ < entry_->blocks && resident_.size() + entry_->cluster <= most_resident_) {
    start_cluster(next_block_);
    next_block_ += entry_->cluster;
    return true;
  }
  if (!pending_.empty()) {
    const Pending pending = std::move(pending_.front());
    pending_.pop_front();
    perform(pending);
    return true;
  }
  bool any = false;
  if (++idle_rounds_ > kMostIdleRounds) return false;
  for (auto& block : resident_) {
    for (Thread* thread : block->spinning) {
      thread->wait = Wait::kReady;
      block->ready.push_back(thread);
      any = true;
    }
    block->spinning.clear();
  }
  return any;
}

void Engine::retire(Block* block) {
  known_at_exit_ &= block->known_at_exit;
  known_at_trigger_ &= block->triggered ? block->known_at_trigger : block->known_at_exit;
  for (const Pending& pending : pending_) {
    if (pending.block == block && pending.kind != Pending::kCopyArrive) {
      fail(FindingKind::kCopyMisuse,
           "block " + std::to_string(block->id) + " of " + entry_->name +
               " ends while a copy into its shared memory is in flight\n  issued at " +
               line_of(pending.line));
    }
  }
  uint64_t registers = 0;
  for (const Warpgroup& group : block->warpgroups) registers += uint64_t{group.registers} * 128;
  if (block->threads.size() % 128 == 0 && registers > limits_.registers_per_unit) {
    fail(FindingKind::kResources, "setmaxnreg gives the block " + std::to_string(registers) +
                                      " registers, the unit has " +
                                      std::to_string(limits_.registers_per_unit));
  }
}

void Engine::fiber_main(void* argument) {
  begin_fiber();
  auto* thread = static_cast<Thread*>(argument);
  Engine* engine = thread->block->engine;
  engine->entry_->invoke(engine->entry_->function, engine->args_);
  engine->thread_exit(thread);
  // Never resumed.
  engine->suspend(thread, Wait::kExited);
}

void Engine::thread_exit(Thread* thread) {
  Block* block = thread->block;
  if (!stack_intact(thread->fiber)) {
    fail(FindingKind::kStackOverflow, where(thread, 0) + " needs more local memory than " +
                                          std::to_string(StackPool::kStackBytes) + " bytes");
  }
  perform_copies(thread, thread->copies_issued);
  const uint32_t index = thread->self.thread;
  for (Meeting* meeting :
       {&block->warps[index / 32], &block->waves[index / 64], &block->groups[index / 128]}) {
    if (meeting->arrived > 0) {
      fail(FindingKind::kDivergence, where(thread, 0) +
                                         " ends while lanes of its warp wait for it at " +
                                         line_of(meeting->line));
    }
  }
  if (!block->warpgroups[index / 128].pending.empty() ||
      block->warpgroups[index / 128].groups.size() > 0) {
    fail(FindingKind::kMatrixMisuse,
         where(thread, 0) + " ends with a wgmma group that was never waited for");
  }
  block->known_at_exit |= thread->observer.know.entries;
  thread->wait = Wait::kExited;
  --block->alive;
  check_exit_at_barriers(block);
}

void Engine::suspend(Thread* thread, Wait why) {
  thread->wait = why;
  Block* block = thread->block;
  if (block->ready.empty()) {
    current_ = nullptr;
    switch_fiber(thread->fiber, scheduler_);
    return;
  }
  Thread* next = block->ready.front();
  block->ready.pop_front();
  if (next == thread) {
    thread->wait = Wait::kReady;
    return;
  }
  switch_to(next);
}

void Engine::switch_to(Thread* next) {
  Thread* from = current_;
  current_ = next;
  *self_slot_ = &next->self;
  switch_fiber(from->fiber, next->fiber);
}

void Engine::wake(Thread* thread) {
  thread->wait = Wait::kReady;
  thread->block->ready.push_back(thread);
  idle_rounds_ = 0;
}

void Engine::fail(FindingKind kind, const std::string& text) {
  fail_from_scheduler(kind, text);
  if (current_ == nullptr) throw Abandoned{};
  Thread* from = current_;
  current_ = nullptr;
  switch_fiber(from->fiber, scheduler_);
  __builtin_unreachable();
}

void Engine::fail_from_scheduler(FindingKind kind, std::string text) {
  if (failed_) return;
  failed_ = true;
  finding_.kind = kind;
  finding_.text = std::move(text);
}

void Gather::add(const Observer& observer, uint32_t agents) {
  const Knowledge& know = observer.know;
  if (!know_.vec) {
    know_.block = know.block;
    know_.vec = observer.folded(agents);
    know_.fenced = know.fenced;
    know_.foreign = know.foreign;
    know_.entries |= know.entries;
  } else {
    if (!(know.vec == last_vec_)) know_.vec.raise(know.vec);
    know_.vec.raise(observer.self, observer.now);
    if (observer.copied > 0) know_.vec.raise(observer.copy_agent, observer.copied);
    if (observer.multiplied > 0) know_.vec.raise(observer.mma_agent, observer.multiplied);
    if (!(know.fenced == last_fenced_)) know_.fenced = join(know_.fenced, know.fenced);
    for (const Knowledge::Foreign& f : know.foreign) know_.add(f.block, f.vec, f.fenced);
    know_.entries |= know.entries;
  }
  last_vec_ = know.vec;
  last_fenced_ = know.fenced;
}

void Gather::raise(uint32_t block, uint32_t agents, uint32_t agent, uint32_t time) {
  if (!know_.vec) {
    know_.block = block;
    know_.vec = VecRef().copy(agents);
  }
  know_.vec.raise(agent, time);
}

void Gather::clear() {
  know_ = Knowledge{};
  last_vec_ = VecRef();
  last_fenced_ = VecRef();
}

}  // namespace moejit::internal::sim
