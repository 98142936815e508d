#include "backends/cpu/thread_pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "backends/cpu/cpu_info.h"
#include "base/dylib.h"
#include "base/settings.h"

namespace moejit::internal {
namespace {

constexpr size_t kStackBytes = size_t{8} << 20;
// While others still work at a job, its end is near, and a processor that slept is slow for a while
// after: that long at most they are waited for actively.
constexpr std::chrono::milliseconds kSpinInJob{5};

thread_local bool t_running = false;

// Counts forks on the way to this process: threads of another generation do not exist here.
std::atomic<uint32_t> g_generation{0};

void count_fork() {
  g_generation.fetch_add(1, std::memory_order_relaxed);
}

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// How long to wait actively: `alone`, and then up to `in_all` letting any thread that has no
// processor go first.
struct Patience {
  std::chrono::nanoseconds alone{0}, in_all{0};
};

template <typename Done>
void spin_until(const Done& done, const Patience& patience) {
  if (done() || patience.in_all.count() == 0) return;
  const auto start = std::chrono::steady_clock::now();
  std::chrono::nanoseconds spent{0};
  do {
    for (int i = 0; i < 32; ++i) {
      pause_cpu();
      if (done()) return;
    }
    if (spent >= patience.alone) sched_yield();
    spent = std::chrono::steady_clock::now() - start;
  } while (spent < patience.in_all);
}

// A number that threads wait for: actively at first, then asleep.
class Signal {
 public:
  uint32_t value() const { return value_.load(std::memory_order_acquire); }

  // Returns the first value seen that differs from `old`.
  uint32_t wait_while(uint32_t old, const Patience& patience) {
    uint32_t now = old;
    spin_until([&] { return (now = value()) != old; }, patience);
    if (now != old) return now;
    // Sequentially consistent against change(): either it sees the sleeper, or the sleeper the
    // value.
    sleepers_.fetch_add(1);
    while ((now = value_.load()) == old) futex(FUTEX_WAIT_PRIVATE, old);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return now;
  }

  void change(uint32_t to) {
    value_.store(to);
    if (sleepers_.load() != 0) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
  }

 private:
  void futex(int operation, uint32_t argument) {
    static_assert(sizeof(value_) == sizeof(uint32_t));
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&value_), operation, argument, nullptr, nullptr,
            0);
  }

  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};

// Kernels run with the default rounding and denormals, whatever the host program has set: the same
// bits on every worker.
class DefaultFloatMode {
 public:
#if defined(__x86_64__)
  DefaultFloatMode() : saved_(_mm_getcsr()) {
    _mm_setcsr(0x1f80);
  }
  ~DefaultFloatMode() {
    _mm_setcsr(saved_);
  }

 private:
  unsigned saved_;
#endif
};

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

void run_alone(const PoolStep* steps, size_t num_steps, const moejit_abi::MoeArgs& args) {
  for (size_t i = 0; i < num_steps; ++i) steps[i].run(&args, 0, 1);
}

}  // namespace

struct ThreadPool::State {
  const uint32_t generation = g_generation.load(std::memory_order_relaxed);
  State* previous = nullptr;  // of the parent process; its locks may be held for ever
  std::mutex turn;
  bool started = false;
  int num_workers = 1;
  Patience between_jobs, in_job;

  // The job, published by `job`.
  const PoolStep* steps = nullptr;
  size_t num_steps = 0;
  const moejit_abi::MoeArgs* args = nullptr;

  alignas(64) Signal job;
  std::atomic<bool> busy{false};  // a job is under way
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) Signal phase;
  alignas(64) std::atomic<int> unfinished{0};
  alignas(64) Signal finished;

  struct Start {
    State* state;
    int worker;
  };

  void start(int num_threads) {
    started = true;
    static std::once_flag once;
    std::call_once(once, [] {
      static const char kHere = 0;
      keep_code_loaded(&kHere);  // the workers never end
    });
    // With more workers than processors, waiting actively keeps the others from their work.
    const bool crowded = num_threads > usable_cpus();
    const std::chrono::nanoseconds spin =
        std::chrono::microseconds(crowded ? 0 : settings().spin_us);
    between_jobs = {spin, spin};
    if (spin.count() > 0) in_job = {spin, std::max<std::chrono::nanoseconds>(spin, kSpinInJob)};

    const std::vector<int> cpus = settings().pin_threads ? allowed_cpus() : std::vector<int>{};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigset_t all, before;  // the host's signal handlers run on the host's threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::vector<pthread_t> threads;
    for (int worker = 1; worker < num_threads; ++worker) {
      auto* start = new Start{this, worker};
      pthread_t thread;
      if (pthread_create(&thread, &attributes, &State::enter, start) != 0) {
        delete start;
        break;  // fewer workers do the same work
      }
      threads.push_back(thread);
      if (!cpus.empty()) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpus[static_cast<size_t>(worker) % cpus.size()], &one);
        pthread_setaffinity_np(thread, sizeof one, &one);
      }
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    pthread_attr_destroy(&attributes);
    num_workers = static_cast<int>(threads.size()) + 1;  // read by workers after the first job
  }

  static void* enter(void* argument) {
    const Start start = *static_cast<Start*>(argument);
    delete static_cast<Start*>(argument);
    char name[16];
    snprintf(name, sizeof name, "moejit-%d", start.worker);
    pthread_setname_np(pthread_self(), name);
    t_running = true;
    start.state->work(start.worker);
    return nullptr;
  }

  [[noreturn]] void work(int worker) {
    const DefaultFloatMode mode;
    uint32_t seen = 0;
    while (true) {
      // Others may be at the last job still; the next may come as soon as that ends.
      spin_until([&] { return !busy.load(std::memory_order_relaxed) || job.value() != seen; },
                 in_job);
      seen = job.wait_while(seen, between_jobs);
      // Copies: after its last step a worker no longer looks at the caller's memory.
      const PoolStep* const my_steps = steps;
      const size_t count = num_steps;
      const moejit_abi::MoeArgs* const my_args = args;
      const int workers = num_workers;
      for (size_t i = 0; i < count; ++i) {
        if (!my_steps[i].serial) my_steps[i].run(my_args, worker, workers);
        if (i + 1 < count) barrier();
      }
      finish();
    }
  }

  void barrier() {
    const uint32_t now = phase.value();
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == num_workers) {
      arrived.store(0, std::memory_order_relaxed);
      phase.change(now + 1);
    } else {
      phase.wait_while(now, in_job);
    }
  }

  // The end of a job: workers report and go back to wait for the next, only the caller waits for
  // all.
  void finish() {
    if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1)
      finished.change(finished.value() + 1);
  }

  void run_job(const PoolStep* with_steps, size_t count, const moejit_abi::MoeArgs& with_args) {
    steps = with_steps;
    num_steps = count;
    args = &with_args;
    const uint32_t before = finished.value();
    unfinished.store(num_workers - 1, std::memory_order_relaxed);
    busy.store(true, std::memory_order_relaxed);
    job.change(job.value() + 1);
    for (size_t i = 0; i < count; ++i) {
      with_steps[i].run(&with_args, 0, with_steps[i].serial ? 1 : num_workers);
      if (i + 1 < count) barrier();
    }
    finished.wait_while(before, in_job);
    busy.store(false, std::memory_order_relaxed);
  }
};

// Forks are counted from the first pool on, not from its first run: a fork during that run would
// leave the child with a lock that nobody in it holds.
ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
  static const int kRegistered = pthread_atfork(nullptr, nullptr, count_fork);
  (void)kRegistered;
}

ThreadPool::State* ThreadPool::current() {
  State* state = state_.load(std::memory_order_acquire);
  if (state != nullptr && state->generation == g_generation.load(std::memory_order_relaxed))
    return state;
  auto* fresh = new State;
  fresh->previous = state;
  if (state_.compare_exchange_strong(state, fresh, std::memory_order_acq_rel)) return fresh;
  delete fresh;
  return state;
}

void ThreadPool::run(const PoolStep* steps, size_t num_steps, const moejit_abi::MoeArgs& args) {
  const DefaultFloatMode mode;
  // Serial steps at either end need nobody else.
  size_t begin = 0, end = num_steps;
  while (begin < end && steps[begin].serial) ++begin;
  while (end > begin && steps[end - 1].serial) --end;
  if (num_threads_ == 1 || begin == end || t_running) return run_alone(steps, num_steps, args);

  run_alone(steps, begin, args);
  {
    State* const state = current();
    std::lock_guard<std::mutex> lock(state->turn);
    t_running = true;
    if (!state->started) state->start(num_threads_);
    if (state->num_workers == 1) {
      run_alone(steps + begin, end - begin, args);
    } else {
      state->run_job(steps + begin, end - begin, args);
    }
    t_running = false;
  }
  run_alone(steps + end, num_steps - end, args);
}

}  // namespace moejit::internal
