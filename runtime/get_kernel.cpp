#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <unordered_map>

#include "base/log.h"
#include "base/settings.h"
#include "moejit/tuning.h"
#include "runtime/background.h"
#include "runtime/plan.h"
#include "runtime/state.h"
#include "tuner/compile_pool.h"

namespace moejit {
inline namespace v1 {
namespace {

using internal::BuiltKernel;
using internal::Device;
using internal::LaunchPlan;
using internal::MayCompile;
using internal::Store;

struct Key {
  MoeConfig config;
  Options options;
  bool operator==(const Key&) const = default;
};

// FNV-1a over the fields that differ in practice; equality settles the rest.
size_t hash_key(const MoeConfig& config, const Options& options) {
  uint64_t hash = 0xcbf29ce484222325u;
  const auto mix = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001b3u; };
  mix(static_cast<uint64_t>(config.num_experts) << 32 | static_cast<uint32_t>(config.top_k));
  mix(static_cast<uint64_t>(config.hidden_size) << 32 |
      static_cast<uint32_t>(config.intermediate_size));
  mix(static_cast<uint64_t>(config.dtype) << 32 | static_cast<uint32_t>(config.activation));
  mix(static_cast<uint64_t>(config.gated) | static_cast<uint64_t>(config.bias) << 1 |
      static_cast<uint64_t>(config.transposed) << 2 |
      static_cast<uint64_t>(config.interleaved) << 3 | static_cast<uint64_t>(config.packed) << 4 |
      static_cast<uint64_t>(config.num_shared_experts) << 5);
  mix(static_cast<uint64_t>(options.max_tokens) ^ static_cast<uint64_t>(options.policy) << 60);
  mix(options.tokens.size() ^ static_cast<uint64_t>(options.num_threads) << 32);
  for (char c : options.device) mix(static_cast<unsigned char>(c));
  return hash ^ (hash >> 32);
}

struct KeyHash {
  size_t operator()(const Key& key) const { return hash_key(key.config, key.options); }
};

// Hits take a shared lock on one of several shards; a compile holds no lock, other callers for its
// key wait on the future.
class KernelMap {
 public:
  Result<Kernel> get(const MoeConfig& config, const Options& options,
                     const std::function<Result<Kernel>()>& make) {
    Key key{config, options};
    Shard& shard = shards_[KeyHash()(key) % shards_.size()];
    std::promise<Result<Kernel>> promise;
    std::shared_future<Result<Kernel>> future;
    bool maker = false;
    {
      const std::unique_lock lock(shard.mutex);
      auto it = shard.map.find(key);
      if (it == shard.map.end()) {
        maker = true;
        it = shard.map.emplace(key, promise.get_future().share()).first;
      }
      future = it->second;
    }
    if (!maker) return future.get();
    Result<Kernel> result = make();
    promise.set_value(result);
    // What depends on the moment is asked again next time: failures, and picks that a tune will
    // replace.
    if (!result.ok()) forget(&shard, key);
    return result;
  }

  // Null where the key is absent or still being made.
  std::shared_ptr<const Kernel::State> peek(const MoeConfig& config, const Options& options) {
    const size_t hash = hash_key(config, options);
    Shard& shard = shards_[hash % shards_.size()];
    const std::shared_lock lock(shard.mutex);
    const auto it = shard.map.find(Key{config, options});
    if (it == shard.map.end()) return nullptr;
    if (it->second.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return nullptr;
    const Result<Kernel>& result = it->second.get();
    return result.ok() ? result->state() : nullptr;
  }

  void clear() {
    for (Shard& shard : shards_) {
      const std::unique_lock lock(shard.mutex);
      shard.map.clear();
    }
    generation_.fetch_add(1, std::memory_order_release);
  }

  uint64_t generation() const { return generation_.load(std::memory_order_acquire); }

 private:
  struct Shard {
    std::shared_mutex mutex;
    std::unordered_map<Key, std::shared_future<Result<Kernel>>, KeyHash> map;
  };
  static void forget(Shard* shard, const Key& key) {
    const std::unique_lock lock(shard->mutex);
    shard->map.erase(key);
  }
  std::array<Shard, 8> shards_;
  std::atomic<uint64_t> generation_{1};
};

KernelMap& kernel_map() {
  static auto* map = new KernelMap;
  return *map;
}

Status check_options(const MoeConfig& config, const Options& options) {
  constexpr int64_t kMost = int64_t{1} << 26;
  if (options.max_tokens < 1 || options.max_tokens > kMost) {
    return invalid_argument("max_tokens = " + std::to_string(options.max_tokens) +
                            ": must be from 1 to " + std::to_string(kMost));
  }
  if (options.max_tokens * (config.top_k + config.num_shared_experts) > INT32_MAX) {
    return invalid_argument("max_tokens = " + std::to_string(options.max_tokens) +
                            ": times top_k must stay below 2^31");
  }
  for (int64_t tokens : options.tokens) {
    if (tokens < 1 || tokens > options.max_tokens) {
      return invalid_argument("tokens: " + std::to_string(tokens) +
                              " must be from 1 to max_tokens (" +
                              std::to_string(options.max_tokens) + ")");
    }
  }
  if (options.policy < Policy::kCached || options.policy > Policy::kFrozen) {
    return invalid_argument("policy = " + std::to_string(static_cast<int>(options.policy)) +
                            ": must be kCached, kTune or kFrozen");
  }
  if (options.num_threads < 0 || options.num_threads > 1024) {
    return invalid_argument("num_threads = " + std::to_string(options.num_threads) +
                            ": must be from 0 (all) to 1024");
  }
  if (!(options.tune_budget_s >= 0)) {
    return invalid_argument("tune_budget_s = " + std::to_string(options.tune_budget_s) +
                            ": must be 0 or more");
  }
  return {};
}

std::vector<int64_t> bucket_tokens(const Options& options) {
  if (options.tokens.empty()) return internal::default_token_ladder(options.max_tokens);
  std::vector<int64_t> tokens = options.tokens;
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

// The distinct schedules of a plan, as many side by side as MOEJIT_NUM_COMPILE_JOBS allows.
Result<std::map<std::string, BuiltKernel>> build_schedules(
    const std::vector<internal::PlannedBucket>& plan, const Device& device, Store& store,
    const MoeConfig& config, MayCompile may_compile) {
  std::vector<internal::Schedule> schedules;
  std::vector<std::string> names;
  for (const internal::PlannedBucket& bucket : plan) {
    if (std::find(names.begin(), names.end(), bucket.info.schedule) != names.end()) continue;
    names.push_back(bucket.info.schedule);
    schedules.push_back(bucket.schedule);
  }
  const internal::Builder build = [&](const internal::Schedule& schedule) {
    return internal::build_kernel(device, store, config, schedule, may_compile);
  };
  std::map<std::string, BuiltKernel> built;
  Status failure;
  const auto keep = [&](const std::string& name, const Result<BuiltKernel>& result) {
    if (result.ok()) {
      built[name] = *result;
    } else if (failure.ok()) {
      failure = result.status();
    }
  };
  const int jobs = internal::compile_jobs();
  if (schedules.size() == 1 || jobs == 1) {
    for (size_t i = 0; i < schedules.size(); ++i) keep(names[i], build(schedules[i]));
  } else {
    internal::CompilePool pool(build, schedules, jobs, std::nullopt);
    for (size_t i = 0; i < schedules.size(); ++i) keep(names[i], *pool.get(i));
  }
  if (!failure.ok()) return failure;
  return built;
}

// From the tuned choices, or the model, to code: one LaunchPlan per bucket.
Result<std::unique_ptr<Kernel::State::Plans>> make_plans(const MoeConfig& config,
                                                         const Options& options,
                                                         const Device& device, Store& store) {
  auto plan = internal::plan_buckets(config, device, store, bucket_tokens(options));
  if (!plan.ok()) return plan.status();
  const MayCompile may_compile =
      options.policy == Policy::kFrozen ? MayCompile::kNo : MayCompile::kYes;
  auto built = build_schedules(*plan, device, store, config, may_compile);
  if (!built.ok()) return built.status();
  auto plans = std::make_unique<Kernel::State::Plans>();
  for (size_t i = 0; i < plan->size(); ++i) {
    const internal::PlannedBucket& bucket = (*plan)[i];
    const BuiltKernel& kernel = built->at(bucket.info.schedule);
    LaunchPlan launch;
    launch.tokens = bucket.tokens;
    // Token counts between two buckets go to the nearer one in ratio.
    launch.upper = i + 1 < plan->size()
                       ? static_cast<int64_t>(std::sqrt(static_cast<double>(bucket.tokens) *
                                                        static_cast<double>((*plan)[i + 1].tokens)))
                       : options.max_tokens;
    launch.module = kernel.module;
    launch.regions = kernel.source.workspace;
    launch.info = bucket.info;
    if (i > 0) {
      const LaunchPlan& below = plans->back();
      launch.smaller_workspace =
          std::max(below.smaller_workspace, internal::plan_workspace(config, below, below.upper));
    }
    plans->push_back(std::move(launch));
  }
  return plans;
}

Result<Kernel> make_kernel(const MoeConfig& config, const Options& options) {
  MOEJIT_RETURN_IF_ERROR(config.check());
  MOEJIT_RETURN_IF_ERROR(check_options(config, options));
  auto device = internal::open_device(options.device, options.num_threads);
  if (!device.ok()) return device.status();
  if ((*device)->is_capturing(options.stream)) {
    return Status(StatusCode::kNotReady,
                  "a graph is being captured on " + (*device)->info().name +
                      ", and the kernel is not there yet: call get_kernel before the capture");
  }
  const std::vector<int64_t> tokens = bucket_tokens(options);
  if (options.policy == Policy::kTune) {
    TuneRequest request;
    request.config = config;
    request.device = options.device;
    request.tokens = tokens;
    request.budget_s = options.tune_budget_s;
    request.num_threads = options.num_threads;
    request.cache_path = options.cache_path;
    const auto report = tune(request);
    if (!report.ok()) return report.status();
  }
  const std::shared_ptr<Store> store = internal::open_store(options.cache_path);
  auto plans = make_plans(config, options, **device, *store);
  if (!plans.ok()) return plans.status();
  auto state = std::make_shared<Kernel::State>();
  state->config = config;
  state->options = options;
  state->device = *device;
  state->device_name = (*device)->info().name;
  state->weights = internal::weight_elements(config, (*device)->info().target);
  state->max_tokens = options.max_tokens;
  state->publish(*std::move(plans));
  internal::note_kernel(state);
  return Kernel(std::move(state));
}

}  // namespace

Result<Kernel> get_kernel(const MoeConfig& config, const Options& options) {
  // The last answer of this thread: a server asks for one layer shape over and over.
  struct Last {
    uint64_t generation = 0;
    MoeConfig config;
    Options options;
    std::weak_ptr<const Kernel::State> state;
  };
  thread_local Last last;
  KernelMap& map = kernel_map();
  const uint64_t generation = map.generation();
  if (last.generation == generation && last.config == config && last.options == options) {
    if (auto state = last.state.lock()) return Kernel(std::move(state));
  }
  Result<Kernel> result = [&]() -> Result<Kernel> {
    if (auto state = map.peek(config, options)) return Kernel(std::move(state));
    return map.get(config, options, [&] { return make_kernel(config, options); });
  }();
  if (result.ok()) last = {generation, config, options, result->state()};
  return result;
}

Status supports(const MoeConfig& config, const std::string& device) {
  MOEJIT_RETURN_IF_ERROR(config.check());
  auto opened = internal::open_device(device);
  if (!opened.ok()) return opened.status();
  const auto why = internal::refusals(config, (*opened)->info().target);
  if (why.size() < internal::families().size()) return {};
  std::string all;
  for (const std::string& reason : why) all += (all.empty() ? "" : "; ") + reason;
  return {StatusCode::kUnsupported, all};
}

bool Options::operator==(const Options& other) const {
  return device == other.device && max_tokens == other.max_tokens && tokens == other.tokens &&
         policy == other.policy && tune_budget_s == other.tune_budget_s &&
         cache_path == other.cache_path && num_threads == other.num_threads;
}

const char* version() {
  return "0.1.0";
}

}  // namespace v1

namespace internal {
void forget_kernels() {
  kernel_map().clear();
}

Status refresh_plans(const Kernel::State& state) {
  const std::shared_ptr<Store> store = open_store(state.options.cache_path);
  auto plans = make_plans(state.config, state.options, *state.device, *store);
  if (!plans.ok()) return plans.status();
  // Callers have workspaces of the size that they were told.
  constexpr int64_t kMostToCheck = 1 << 18;
  if (state.max_tokens > kMostToCheck) {
    return {StatusCode::kUnsupported, "max_tokens is too large to compare every workspace"};
  }
  size_t place = 0;
  for (int64_t tokens = 1; tokens <= state.max_tokens; ++tokens) {
    while (place + 1 < (*plans)->size() && tokens > (**plans)[place].upper) ++place;
    if (plan_workspace(state.config, (**plans)[place], tokens) > state.promised_workspace(tokens)) {
      return {StatusCode::kUnsupported, "the better plan needs a larger workspace at " +
                                            std::to_string(tokens) +
                                            " tokens than callers were told"};
    }
  }
  state.publish(*std::move(plans));
  return {};
}
}  // namespace internal
}  // namespace moejit
