#include "tuner/compile_pool.h"

#include <algorithm>

namespace moejit::internal {

CompilePool::CompilePool(const Builder& build, std::vector<Schedule> schedules, int jobs,
                         std::optional<Clock::time_point> until)
    : build_(build), schedules_(std::move(schedules)), until_(until), results_(schedules_.size()) {
  const size_t count = std::min(static_cast<size_t>(std::max(jobs, 1)), schedules_.size());
  for (size_t i = 0; i < count; ++i) threads_.emplace_back([this] { work(); });
}

CompilePool::~CompilePool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

void CompilePool::work() {
  std::unique_lock lock(mutex_);
  while (next_ < schedules_.size()) {
    if (any_ok_ && until_ && Clock::now() > *until_) stop_ = true;
    if (stop_) break;
    const size_t index = next_++;
    ++running_;
    lock.unlock();
    Result<BuiltKernel> built = build_(schedules_[index]);
    lock.lock();
    --running_;
    any_ok_ |= built.ok();
    results_[index] = std::move(built);
    changed_.notify_all();
  }
  changed_.notify_all();
}

const Result<BuiltKernel>* CompilePool::get(size_t index) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] {
    return results_[index].has_value() || (stop_ && (index >= next_ || running_ == 0));
  });
  return results_[index] ? &*results_[index] : nullptr;
}

bool CompilePool::wait_all(const std::function<bool(size_t done)>& go_on) {
  std::unique_lock lock(mutex_);
  const auto ended = [&] { return running_ == 0 && (stop_ || next_ == schedules_.size()); };
  bool cancelled = false;
  while (!changed_.wait_for(lock, std::chrono::milliseconds(200), ended)) {
    const size_t done = next_ - running_;
    lock.unlock();
    const bool go = cancelled || go_on(done);
    lock.lock();
    if (!go) cancelled = stop_ = true;
  }
  return !cancelled;
}

}  // namespace moejit::internal
