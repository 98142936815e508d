// Candidates compiled side by side while others are measured.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "tuner/trial.h"

namespace moejit::internal {

// Threads that build schedules in the order given. The destructor lets what is running finish and
// starts nothing more.
class CompilePool {
 public:
  using Clock = std::chrono::steady_clock;

  // `until`: no build begins after it, once one has succeeded.
  CompilePool(const Builder& build, std::vector<Schedule> schedules, int jobs,
              std::optional<Clock::time_point> until);
  ~CompilePool();
  CompilePool(const CompilePool&) = delete;
  CompilePool& operator=(const CompilePool&) = delete;

  // Waits for one. Null where it was left out for lack of time.
  const Result<BuiltKernel>* get(size_t index);
  // Waits for all that will be built, and asks `go_on` five times a second with how many are done.
  // False from it ends the waiting once what is running has finished; then false is returned.
  bool wait_all(const std::function<bool(size_t done)>& go_on);

 private:
  void work();

  const Builder& build_;
  const std::vector<Schedule> schedules_;
  const std::optional<Clock::time_point> until_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t next_ = 0, running_ = 0;
  bool stop_ = false, any_ok_ = false;
  std::vector<std::optional<Result<BuiltKernel>>> results_;
  std::vector<std::thread> threads_;
};

}  // namespace moejit::internal
