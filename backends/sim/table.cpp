// The table of functions that kernels call, bound to the engine that runs.
#include <cmath>

#include "backends/sim/engine.h"
#include "backends/sim/running.h"

namespace moejit::internal::sim {

namespace {

Engine* g_running = nullptr;

}  // namespace

RunningEngine::RunningEngine(Engine& engine) {
  g_running = &engine;
}
RunningEngine::~RunningEngine() {
  g_running = nullptr;
}

struct Calls {
  static void load_shared(unsigned address, void* value, unsigned bytes, uint32_t line) {
    g_running->load_shared(address, value, bytes, line);
  }
  static void store_shared(unsigned address, const void* value, unsigned bytes, uint32_t line) {
    g_running->store_shared(address, value, bytes, line);
  }
  static unsigned add_shared(unsigned address, unsigned value, uint32_t line) {
    return g_running->add_shared(address, value, line);
  }
  static unsigned load_cluster(unsigned address, unsigned rank, uint32_t line) {
    return g_running->load_cluster(address, rank, line);
  }
  static void load_global(const void* address, void* value, unsigned bytes, int stream,
                          uint32_t line) {
    g_running->load_global(address, value, bytes, stream != 0, line);
  }
  static void store_global(void* address, const void* value, unsigned bytes, uint32_t line) {
    g_running->store_global(address, value, bytes, line);
  }
  static unsigned add_global(void* address, unsigned value, int order, uint32_t line) {
    return g_running->add_global(address, value, order, line);
  }
  static unsigned load_acquire(const void* address, uint32_t line) {
    return g_running->load_acquire(address, line);
  }
  static unsigned long long update_word(void* address, int update, unsigned long long value,
                                        unsigned long long expected, unsigned line) {
    return g_running->update_word(address, update, value, expected, line);
  }
  static void prefetch(const void*, uint32_t) { ++g_running->counters_.instructions; }
  static void discard(void* address, uint32_t line) { g_running->discard(address, line); }
  static void count_kept(unsigned bytes) { g_running->counters_.kept_bytes += bytes; }
  static void fence(int kind, uint32_t line) { g_running->fence(kind, line); }
  static void collective(int kind, void* args, uint32_t line) {
    g_running->collective(kind, args, line);
  }
  static void block_sync(uint32_t line) { g_running->block_sync(line); }
  static void named_barrier(unsigned id, unsigned threads, int wait, uint32_t line) {
    if (id == 0 || threads == 0) {
      g_running->fail(FindingKind::kBarrierMisuse,
                      g_running->where(g_running->current_, line) + "\n  named barrier " +
                          std::to_string(id) + " for " + std::to_string(threads) +
                          " threads: ids are 1..15, threads at least 32");
    }
    g_running->named_barrier(id, threads, wait != 0, line);
  }
  static void cluster_sync(uint32_t line) { g_running->cluster_sync(line); }
  static void cp_async(unsigned dst, const void* src, int valid, uint32_t line) {
    g_running->cp_async(dst, src, valid != 0, line);
  }
  static void cp_async_commit(uint32_t) { g_running->cp_async_commit(); }
  static void cp_async_wait(int pending, uint32_t line) { g_running->cp_async_wait(pending, line); }
  static void cp_async_arrive(unsigned bar, uint32_t line) {
    g_running->cp_async_arrive(bar, line);
  }
  static void mbar_init(unsigned bar, unsigned count, uint32_t line) {
    g_running->mbar_init(bar, count, line);
  }
  static void mbar_arrive(unsigned bar, unsigned expect_tx, uint32_t line) {
    g_running->mbar_arrive(bar, expect_tx, line);
  }
  static void mbar_arrive_cluster(unsigned bar, unsigned rank, uint32_t line) {
    g_running->mbar_arrive_cluster(bar, rank, line);
  }
  static void mbar_wait(unsigned bar, unsigned parity, uint32_t line) {
    g_running->mbar_wait(bar, parity, line);
  }
  static void bulk_load(unsigned dst, const void* src, unsigned bytes, unsigned bar,
                        uint32_t line) {
    g_running->bulk_load(dst, src, bytes, bar, line);
  }
  static void tensor_load(unsigned dst, const void* map, int rank, const int* at, unsigned rows,
                          unsigned bar, unsigned blocks, uint32_t line) {
    g_running->tensor_load(dst, map, rank, at, rows, bar, blocks, line);
  }
  static void tensor_prefetch(const void* map, int rank, const int* at, uint32_t line) {
    g_running->tensor_prefetch(map, rank, at, line);
  }
  static void grid_wait(uint32_t line) { g_running->grid_wait(line); }
  static void grid_launch_dependents(uint32_t) {
    Block* block = g_running->current_->block;
    ++g_running->counters_.instructions;
    if (!block->triggered) {
      block->triggered = true;
      block->known_at_trigger = g_running->current_->observer.know.entries;
    }
  }
  static float math(int function, float x) {
    switch (function) {
      case moejit_sim::kExp:
        return std::exp(x);
      case moejit_sim::kTanh:
        return std::tanh(x);
      case moejit_sim::kErf:
        return std::erf(x);
      case moejit_sim::kLog1p:
        return std::log1p(x);
      case moejit_sim::kSqrt:
        return std::sqrt(x);
      default:
        return std::exp2(x);
    }
  }
};

const moejit_sim::Runtime& Engine::table() {
  static constexpr moejit_sim::Runtime kTable = {
      Calls::load_shared,
      Calls::store_shared,
      Calls::add_shared,
      Calls::load_cluster,
      Calls::load_global,
      Calls::store_global,
      Calls::add_global,
      Calls::load_acquire,
      Calls::update_word,
      Calls::prefetch,
      Calls::discard,
      Calls::count_kept,
      Calls::fence,
      Calls::collective,
      Calls::block_sync,
      Calls::named_barrier,
      Calls::cluster_sync,
      Calls::cp_async,
      Calls::cp_async_commit,
      Calls::cp_async_wait,
      Calls::cp_async_arrive,
      Calls::mbar_init,
      Calls::mbar_arrive,
      Calls::mbar_arrive_cluster,
      Calls::mbar_wait,
      Calls::bulk_load,
      Calls::tensor_load,
      Calls::tensor_prefetch,
      Calls::grid_wait,
      Calls::grid_launch_dependents,
      Calls::math,
  };
  return kTable;
}

}  // namespace moejit::internal::sim
