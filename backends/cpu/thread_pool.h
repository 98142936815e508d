// The workers that run CPU kernels.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "templates/abi.h"

namespace moejit::internal {

using KernelFunction = void (*)(const moejit_abi::MoeArgs*, int worker, int num_workers);

struct PoolStep {
  KernelFunction run = nullptr;
  bool serial = false;  // the caller alone, as worker 0 of 1
};

// Persistent workers, started by the first run that needs them. The calling thread is worker 0.
// Workers wait actively for a short while (MOEJIT_SPIN_US, 50) for the next run, within a run for
// up to 5 ms, then sleep. Thread-safe: concurrent runs take turns. A run from inside a run is
// carried out by its caller alone. After fork() the child gets workers of its own. Objects live for
// the process: never destroyed.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  // Runs the steps in order, each on all workers and ended by a barrier. Returns when all are done.
  void run(const PoolStep* steps, size_t num_steps, const moejit_abi::MoeArgs& args);

 private:
  struct State;
  State* current();

  const int num_threads_;
  std::atomic<State*> state_{nullptr};
};

}  // namespace moejit::internal
