#include "backends/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "tests/cpu_backend/sources.h"

namespace moejit::internal {
namespace {

using moejit_abi::MoeArgs;

// What the steps below work on, hung on args.out.
struct Work {
  std::array<int, 64> sums{};
  std::array<int, 64> workers{};
  int total = 0;
  int serial_calls = 0;
  std::atomic<int> inside{0};
  std::atomic<int> overlaps{0};
  ThreadPool* pool = nullptr;
};
Work& work_of(const MoeArgs* args) {
  return *static_cast<Work*>(args->out);
}

void add_own(const MoeArgs* args, int worker, int num_workers) {
  Work& work = work_of(args);
  work.sums[static_cast<size_t>(worker)] += worker + 1;
  work.workers[static_cast<size_t>(worker)] = num_workers;
}
// Reads what every worker wrote in the step before: wrong, and a race, without the barrier.
void add_all(const MoeArgs* args, int worker, int num_workers) {
  Work& work = work_of(args);
  int sum = 0;
  for (int i = 0; i < num_workers; ++i) sum += work.sums[static_cast<size_t>(i)];
  if (worker == num_workers - 1) work.total = sum;
}
void count_serial(const MoeArgs* args, int worker, int num_workers) {
  EXPECT_EQ(worker, 0);
  EXPECT_EQ(num_workers, 1);
  ++work_of(args).serial_calls;
}

MoeArgs args_for(Work& work) {
  MoeArgs args{};
  args.out = &work;
  return args;
}

bool run_and_check(ThreadPool& pool, int runs) {
  const int n = pool.num_threads();
  Work work;
  const MoeArgs args = args_for(work);
  const PoolStep steps[] = {{add_own, false}, {add_all, false}};
  for (int run = 1; run <= runs; ++run) {
    pool.run(steps, 2, args);
    if (work.total != run * n * (n + 1) / 2 || work.workers[static_cast<size_t>(n) - 1] != n)
      return false;
  }
  return true;
}

ThreadPool& pool_of(int threads) {  // pools live for the process
  static auto* const kPools = new std::array<ThreadPool*, 64>{};
  ThreadPool*& pool = (*kPools)[static_cast<size_t>(threads)];
  if (pool == nullptr) pool = new ThreadPool(threads);
  return *pool;
}

TEST(ThreadPool, EveryWorkerTakesPartAndStepsAreOrdered) {
  for (int threads : {1, 2, 3, 7}) EXPECT_TRUE(run_and_check(pool_of(threads), 500)) << threads;
}

TEST(ThreadPool, SleepingWorkersWakeUp) {
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));  // well beyond the active wait
    ASSERT_TRUE(run_and_check(pool_of(2), 2));
    ASSERT_TRUE(run_and_check(pool_of(7), 2));
  }
}

TEST(ThreadPool, SerialStepsRunOnTheCallerAlone) {
  for (int threads : {1, 2, 7}) {
    Work work;
    const MoeArgs args = args_for(work);
    const PoolStep steps[] = {{count_serial, true},
                              {add_own, false},
                              {count_serial, true},
                              {add_all, false},
                              {count_serial, true}};
    for (int run = 1; run <= 50; ++run) {
      pool_of(threads).run(steps, 5, args);
      ASSERT_EQ(work.serial_calls, 3 * run);
      ASSERT_EQ(work.total, run * threads * (threads + 1) / 2);
    }
    pool_of(threads).run(steps, 1, args);
    EXPECT_EQ(work.serial_calls, 151);
    pool_of(threads).run(steps, 0, args);
  }
}

TEST(ThreadPool, ConcurrentCallersTakeTurns) {
  for (int threads : {2, 7}) {
    ThreadPool& pool = pool_of(threads);
    Work shared;
    std::atomic<int> good{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; ++c) {
      callers.emplace_back([&] {
        const PoolStep enter = {[](const MoeArgs* args, int worker, int) {
          Work& work = work_of(args);
          if (worker == 0 && work.inside.fetch_add(1) != 0) ++work.overlaps;
        }};
        const PoolStep leave = {[](const MoeArgs* args, int worker, int) {
          if (worker == 0) --work_of(args).inside;
        }};
        const PoolStep steps[] = {enter, leave};
        for (int i = 0; i < 100; ++i) {
          pool.run(steps, 2, args_for(shared));
          if (run_and_check(pool, 3)) ++good;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(good, 400);
    EXPECT_EQ(shared.overlaps, 0);
  }
}

TEST(ThreadPool, ARunInsideARunDoesNotWaitForItself) {
  Work work;
  work.pool = &pool_of(2);
  const PoolStep nest = {[](const MoeArgs* args, int worker, int) {
    if (worker != 1) return;
    const PoolStep inner = {[](const MoeArgs* inner_args, int, int num_workers) {
      work_of(inner_args).total = 100 + num_workers;
    }};
    work_of(args).pool->run(&inner, 1, *args);
  }};
  pool_of(2).run(&nest, 1, args_for(work));
  EXPECT_EQ(work.total, 101);
}

TEST(ThreadPool, AForkedChildHasItsOwnWorkers) {
  ASSERT_TRUE(run_and_check(pool_of(2), 10));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(run_and_check(pool_of(2), 100) ? 42 : 1);
  EXPECT_TRUE(run_and_check(pool_of(2), 100));
  EXPECT_EQ(exit_code(child), 42);
}

TEST(ThreadPool, ForkWhileAnotherThreadRuns) {
  pool_of(2);  // made before there are two threads; its first run may well meet the first fork
  std::atomic<bool> stop{false}, ran{false};
  std::thread busy([&] {
    while (!stop) {
      run_and_check(pool_of(2), 1);
      ran = true;
    }
  });
#if defined(__SANITIZE_ADDRESS__)
  // GCC 12's AddressSanitizer keeps the locks of its allocator over a fork; only the start of a
  // thread and the first run allocate.
  while (!ran) usleep(1000);
#endif
  for (int i = 0; i < 5; ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) _exit(run_and_check(pool_of(2), 20) ? 42 : 1);
    EXPECT_EQ(exit_code(child), 42);
  }
  stop = true;
  busy.join();
}

TEST(ThreadPool, ExitDoesNotWaitForWorkers) {
  in_new_process("MOEJIT_SPIN_US", "20", [] {
    std::thread([] {
      while (true) run_and_check(pool_of(2), 1);
    }).detach();
    usleep(30000);
    exit(0);
  });
}

TEST(ThreadPool, WorkersHaveNoSignalsOfTheHost) {
  static std::atomic<int> unblocked{0};
  unblocked = 0;
  const PoolStep step = {[](const MoeArgs*, int worker, int) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    if (worker != 0 && sigismember(&mask, SIGINT) == 0) ++unblocked;
  }};
  Work work;
  pool_of(7).run(&step, 1, args_for(work));
  EXPECT_EQ(unblocked, 0);
}

#if defined(__x86_64__)
TEST(ThreadPool, KernelsRunInTheDefaultFloatMode) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // flush denormals, as machine-learning programs like to
  const unsigned mine = _mm_getcsr();
  const PoolStep step = {[](const MoeArgs* args, int worker, int) {
    work_of(args).sums[static_cast<size_t>(worker)] = static_cast<int>(_mm_getcsr() & ~0x3fu);
  }};
  for (int threads : {1, 2}) {
    Work work;
    pool_of(threads).run(&step, 1, args_for(work));
    for (int i = 0; i < threads; ++i) EXPECT_EQ(work.sums[static_cast<size_t>(i)], 0x1f80);
    EXPECT_EQ(_mm_getcsr(), mine);
  }
  _mm_setcsr(before);
}
#endif

}  // namespace
}  // namespace moejit::internal
