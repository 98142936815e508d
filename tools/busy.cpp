#include "tools/busy.h"

#include <chrono>

#include "base/json_util.h"

namespace moejit::tools {

Busy::Busy(Context& context, std::string what)
    : progress_(context.progress()), what_(std::move(what)), thread_([this] { show(); }) {}

Busy::~Busy() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  stop_.notify_all();
  thread_.join();
  progress_.clear();
}

void Busy::show() {
  using std::chrono::seconds;
  std::unique_lock<std::mutex> lock(mutex_);
  const auto start = std::chrono::steady_clock::now();
  for (int passed = 2; !stop_.wait_until(lock, start + seconds(passed), [&] { return stopped_; });
       ++passed) {
    progress_.update([&] {
      if (progress_.mode() == internal::ProgressMode::kJson) {
        return "{\"doing\":" + internal::json_string(what_) +
               ",\"seconds\":" + std::to_string(passed) + "}";
      }
      return what_ + ": " + internal::format_clock(passed);
    });
  }
}

}  // namespace moejit::tools
