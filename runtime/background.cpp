#include "runtime/background.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/json_util.h"
#include "base/log.h"
#include "moejit/tuning.h"
#include "runtime/state.h"
#include "tuner/routing.h"

namespace moejit {
namespace internal {

std::atomic<bool> background_watches{false};

namespace {

using Clock = std::chrono::steady_clock;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

std::atomic<int64_t> last_launch_ns{INT64_MIN / 2};
std::atomic<int64_t> last_capture_ns{INT64_MIN / 2};

bool quiet(const std::atomic<int64_t>& last, double seconds) {
  return static_cast<double>(now_ns() - last.load(std::memory_order_relaxed)) >= seconds * 1e9;
}

// One token count of one layer, device and cache, and the kernels that want it: it is worth its
// time as long as one of them is in use.
struct Task {
  std::vector<std::weak_ptr<const Kernel::State>> states;
  int64_t tokens = 0;

  std::shared_ptr<const Kernel::State> in_use() const {
    for (const auto& known : states) {
      if (auto state = known.lock()) return state;
    }
    return nullptr;
  }
};

bool are_alike(const Kernel::State& a, const Kernel::State& b) {
  return a.config == b.config && a.device == b.device &&
         a.options.cache_path == b.options.cache_path;
}

class Background {
 public:
  Status start(const BackgroundOptions& options) {
    const std::lock_guard starting(start_mutex_);
    {
      const std::lock_guard lock(mutex_);
      if (status_.running) {
        return {StatusCode::kNotReady, "background tuning: is running already"};
      }
      options_ = options;
      status_ = {.paused = status_.paused};
      status_.running = true;
      stop_ = false;
      queue_.clear();
      for (const auto& known : kernels_) {
        if (const auto state = known.lock()) enqueue(state);
      }
    }
    static const int registered = std::atexit([] { stop_background_tuning(); });
    (void)registered;
    background_watches = true;
    thread_ = std::thread([this] { run(); });
    return {};
  }

  void stop() {
    const std::lock_guard starting(start_mutex_);
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
    background_watches = false;
    const std::lock_guard lock(mutex_);
    status_.running = false;
    status_.queued = 0;
    queue_.clear();
  }

  void pause(bool paused) {
    const std::lock_guard lock(mutex_);
    status_.paused = paused;
    changed_.notify_all();
  }

  BackgroundStatus status() {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  void add(const std::shared_ptr<const Kernel::State>& state) {
    const std::lock_guard lock(mutex_);
    std::erase_if(kernels_, [](const auto& known) { return known.expired(); });
    kernels_.push_back(state);
    if (status_.running && !stop_) enqueue(state);
    changed_.notify_all();
  }

 private:
  // Small token counts first: they are what servers meet most. REQUIRES: mutex_ held.
  void enqueue(const std::shared_ptr<const Kernel::State>& state) {
    if (state->options.policy == Policy::kFrozen) return;
    for (const LaunchPlan& plan : state->plans()) {
      if (plan.info.source == Source::kExact) continue;
      const auto waits = std::find_if(queue_.begin(), queue_.end(), [&](const Task& task) {
        const auto other = task.in_use();
        return task.tokens == plan.tokens && other != nullptr && are_alike(*other, *state);
      });
      if (waits != queue_.end()) {
        waits->states.push_back(state);
      } else {
        queue_.push_back({{state}, plan.tokens});
      }
    }
    status_.queued = static_cast<int32_t>(queue_.size());
  }

  // May something be measured now? REQUIRES: mutex_ held.
  bool may_work() const {
    return !status_.paused && quiet(last_launch_ns, options_.idle_s) &&
           quiet(last_capture_ns, options_.capture_quiet_s);
  }

  // False: stop. Else the time has come.
  bool wait_for_quiet() {
    std::unique_lock lock(mutex_);
    while (!stop_ && !may_work()) changed_.wait_for(lock, std::chrono::milliseconds(20));
    return !stop_;
  }

  void run() {
    while (true) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
        if (stop_) return;
      }
      if (!wait_for_quiet()) return;
      std::shared_ptr<const Kernel::State> state;
      int64_t tokens = 0;
      {
        // A kernel that comes from here on makes a task of its own, which the cache then answers.
        const std::lock_guard lock(mutex_);
        state = queue_.front().in_use();
        tokens = queue_.front().tokens;
        queue_.pop_front();
        status_.queued = static_cast<int32_t>(queue_.size());
        if (state == nullptr) continue;
        status_.at_work = tokens;
      }
      const Status result = work(*state, tokens);
      if (result.ok()) replace(*state);
      const std::lock_guard lock(mutex_);
      status_.at_work = 0;
      if (result.code() == StatusCode::kCancelled) return;
      ++(result.ok() ? status_.tuned : status_.failed);
      if (!result.ok()) status_.last_error = result.message();
    }
  }

  Status work(const Kernel::State& state, int64_t tokens) {
    const MoeConfig& config = state.config;
    const int64_t bytes = int64_t{config.total_experts()} *
                          (config.w13_rows() + config.intermediate_size) * config.hidden_size *
                          size_of(config.dtype);
    const int64_t most = options_.max_weight_bytes > 0 ? options_.max_weight_bytes
                                                       : state.device->info().memory_bytes / 4;
    if (most > 0 && bytes > most) {
      return {StatusCode::kOutOfMemory, "the layer's weights take " + std::to_string(bytes) +
                                            " bytes, max_weight_bytes is " + std::to_string(most)};
    }
    TuneRequest request;
    request.config = config;
    request.device = state.device_name;
    request.tokens = {tokens};
    request.routing = options_.routing;
    request.budget_s = options_.bucket_budget_s;
    request.jobs = options_.jobs;
    request.num_threads = state.options.num_threads;
    request.cache_path = state.options.cache_path;
    request.isolation = options_.isolation;
    request.helper = options_.helper;
    // Between measurements the launches of the server come first.
    request.progress = [this](const TuneProgress&) { return wait_for_quiet(); };
    const auto report = tune(request);
    if (!report.ok()) return report.status();
    if (report->cancelled) return {StatusCode::kCancelled, "stopped"};
    if (report->rows.empty()) return {StatusCode::kNotReady, "no result within bucket_budget_s"};
    return {};
  }

  // Every kernel in use of the same layer, device and cache.
  void replace(const Kernel::State& tuned) {
    std::vector<std::shared_ptr<const Kernel::State>> users;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& known : kernels_) {
        auto state = known.lock();
        if (state != nullptr && are_alike(*state, tuned) &&
            state->options.policy != Policy::kFrozen) {
          users.push_back(std::move(state));
        }
      }
    }
    for (const auto& state : users) {
      if (!wait_for_quiet()) return;  // loading code must not meet a capture either
      const Status status = refresh_plans(*state);
      const std::lock_guard lock(mutex_);
      if (status.ok()) {
        ++status_.replaced;
      } else {
        status_.last_error = status.message();
      }
    }
  }

  std::mutex start_mutex_;  // of start and stop, for their whole length
  std::mutex mutex_;
  std::condition_variable changed_;
  BackgroundOptions options_;
  BackgroundStatus status_;
  bool stop_ = false;
  std::deque<Task> queue_;
  std::vector<std::weak_ptr<const Kernel::State>> kernels_;
  std::thread thread_;
};

Background& background() {
  static auto* instance = new Background;  // outlives static destruction: launches may come late
  return *instance;
}

}  // namespace

void note_launch_slow(const Device& device, Stream stream) {
  const int64_t now = now_ns();
  last_launch_ns.store(now, std::memory_order_relaxed);
  if (device.is_capturing(stream)) last_capture_ns.store(now, std::memory_order_relaxed);
}

void note_kernel(const std::shared_ptr<const Kernel::State>& state) {
  background().add(state);
}

}  // namespace internal

inline namespace v1 {

Status start_background_tuning(const BackgroundOptions& options) {
  const std::pair<const char*, double> fields[] = {
      {"idle_s", options.idle_s},
      {"capture_quiet_s", options.capture_quiet_s},
      {"bucket_budget_s", options.bucket_budget_s},
      {"jobs", static_cast<double>(options.jobs)},
      {"max_weight_bytes", static_cast<double>(options.max_weight_bytes)}};
  for (const auto& [field, value] : fields) {
    if (!(value >= 0))
      return invalid_argument(std::string(field) + " = " + internal::json_number(value) +
                              ": must be 0 or more");
  }
  if (const auto routing = internal::RoutingSpec::parse(options.routing); !routing.ok())
    return routing.status();
  return internal::background().start(options);
}

void pause_background_tuning(bool paused) {
  internal::background().pause(paused);
}

void stop_background_tuning() {
  internal::background().stop();
}

BackgroundStatus background_tuning_status() {
  return internal::background().status();
}

}  // namespace v1
}  // namespace moejit
