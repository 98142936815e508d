#include "runtime/library.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <mutex>

#include "base/hash.h"
#include "base/json_util.h"
#include "base/log.h"
#include "base/settings.h"
#include "runtime/store_options.h"
#include "tuner/limits.h"
#include "tuner/session.h"

namespace moejit::internal {
namespace {

const char* backend_name(BackendKind kind) {
  switch (kind) {
    case BackendKind::kCpu:
      return "cpu";
    case BackendKind::kCuda:
      return "cuda";
    case BackendKind::kHip:
      return "hip";
    case BackendKind::kSim:
      break;
  }
  return "sim";
}

StoredBinary to_stored(const Device& device, const MoeConfig& config, const Schedule& schedule,
                       Binary binary) {
  StoredBinary stored;
  stored.backend = backend_name(device.info().target.backend);
  stored.arch = std::move(binary.arch);
  stored.format = std::move(binary.format);
  stored.toolchain = std::move(binary.compiler);
  stored.schedule = schedule.to_json();
  stored.config = config.to_json();
  stored.compiler_log = std::move(binary.log);
  stored.registers = binary.registers;
  stored.spill_bytes = binary.spill_bytes;
  stored.shared_bytes = binary.shared_bytes;
  stored.compile_ms = binary.compile_ms;
  stored.bytes = std::move(binary.bytes);
  return stored;
}

Binary to_binary(const StoredBinary& stored) {
  Binary binary;
  binary.format = stored.format;
  binary.arch = stored.arch;
  binary.compiler = stored.toolchain;
  binary.bytes = stored.bytes;
  binary.registers = stored.registers;
  binary.spill_bytes = stored.spill_bytes;
  binary.shared_bytes = stored.shared_bytes;
  binary.compile_ms = stored.compile_ms;
  binary.log = stored.compiler_log;
  return binary;
}

// Modules in use, so that two kernels that share a schedule share its code.
class ModuleMap {
 public:
  std::shared_ptr<const Module> find(const Device* device, const Digest& digest) {
    const std::lock_guard lock(mutex_);
    const auto it = map_.find({device, digest});
    return it == map_.end() ? nullptr : it->second.lock();
  }
  void add(const Device* device, const Digest& digest,
           const std::shared_ptr<const Module>& module) {
    const std::lock_guard lock(mutex_);
    map_[{device, digest}] = module;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<const Device*, Digest>, std::weak_ptr<const Module>> map_;
};

ModuleMap& modules() {
  static ModuleMap* map = new ModuleMap;  // outlives static destruction: launches may come late
  return *map;
}

}  // namespace

std::shared_ptr<Store> open_store(const std::string& cache_path) {
  static std::mutex mutex;
  static auto* stores = new std::map<std::string, std::shared_ptr<Store>>;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Store>& store = (*stores)[cache_path];
  if (store == nullptr) store = Store::open(store_options(cache_path));
  return store;
}

Digest source_digest(const Device& device, const KernelSource& source) {
  Sha256 hash;
  hash.field("moejit-source-1");
  hash.field(backend_name(device.info().target.backend));
  hash.field(source.arch);
  hash.field(source.language);
  hash.field(source.text);
  for (const std::string& option : source.options) hash.field(option);
  return hash.finish();
}

std::string compute_generator_digest(Target target) {
  // A choice holds for an architecture: what the text takes from one device is left out.
  if (target.backend != BackendKind::kCpu) {
    target.num_units = 1;
    target.l2_bytes = 0;
  }
  const MoeConfig probe{.num_experts = 8, .top_k = 2, .hidden_size = 256, .intermediate_size = 256};
  Sha256 hash;
  hash.field("moejit-generator-1");
  for (const Family* family : families()) {
    if (family->why_not(probe, target)) continue;
    hash.field(family->name());
    hash.field(family->emit(probe, target, family->default_schedule(probe, target, 8)).text);
  }
  const auto bytes = hash.finish();
  return to_hex(bytes.data(), bytes.size());
}

const std::string& generator_digest(const Target& target) {
  static std::mutex mutex;
  static auto* known = new std::map<std::string, std::string>;
  const std::lock_guard lock(mutex);
  std::string& digest = (*known)[std::string(backend_name(target.backend)) + target.arch];
  if (digest.empty()) digest = compute_generator_digest(target);
  return digest;
}

Result<BuiltKernel> build_kernel(const Device& device, Store& store, const MoeConfig& config,
                                 const Schedule& schedule, MayCompile may_compile,
                                 MayLoad may_load) {
  const Family* family = find_family(schedule.family);
  const Target& target = device.info().target;
  if (family == nullptr) {
    return Status(StatusCode::kNotFound, "schedule family \"" + schedule.family +
                                             "\": this version has no such kernel family");
  }
  for (const Param& param : family->params()) {
    if (!schedule.params.contains(param.name)) {
      return invalid_argument("schedule parameter " + param.name + ": is missing for family " +
                              schedule.family);
    }
  }
  if (const auto why = family->why_not(config, target, schedule)) {
    return Status(StatusCode::kUnsupported, "schedule " + schedule.to_json() + ": " + *why);
  }
  BuiltKernel built;
  built.source = family->emit(config, target, schedule);
  built.digest = source_digest(device, built.source);

  const auto compile = [&]() -> Result<StoredBinary> {
    if (may_compile == MayCompile::kNo) {
      return Status(StatusCode::kNotReady, "policy frozen: the cache has no binary for schedule " +
                                               schedule.to_json() + "; tune or prepare it first");
    }
    auto binary = device.compile(built.source);
    if (!binary.ok()) return binary.status();
    return to_stored(device, config, schedule, std::move(*binary));
  };
  ArtifactKey key{.source = built.digest, .toolchain = ""};
  built.module = modules().find(&device, built.digest);
  auto stored = store.find_or_compile(key, compile);
  if (!stored.ok()) return stored.status();
  built.toolchain = stored->toolchain;
  built.registers = stored->registers;
  built.spill_bytes = stored->spill_bytes;
  if (may_load == MayLoad::kNo) {
    built.module = nullptr;
    built.binary = std::make_shared<Binary>(to_binary(*stored));
    return built;
  }
  if (built.module != nullptr) return built;
  auto module = device.load(to_binary(*stored), built.source);
  if (!module.ok() && module.status().code() != StatusCode::kUnsupported &&
      may_compile == MayCompile::kYes) {
    // Its hash was good and yet it does not load: another driver's or compiler's quirk. Once more,
    // fresh.
    log(LogLevel::kWarning, "runtime",
        "a cached binary does not load (" + module.status().message() + "); compiling it again");
    auto binary = device.compile(built.source);
    if (!binary.ok()) return binary.status();
    module = device.load(*binary, built.source);
  }
  if (!module.ok()) return module.status();
  built.module = *module;
  modules().add(&device, built.digest, built.module);
  return built;
}

std::string policy_of(const std::string& routing) {
  return "{\"protocol\":" + std::to_string(kProtocolVersion) +
         ",\"routing\":" + json_string(routing) + ",\"weights\":\"cold\"}";
}

MeasurementKey measurement_key(const MoeConfig& config, const Device& device, int64_t tokens,
                               const std::string& routing) {
  return {.problem = config.to_json(),
          .tokens = tokens,
          .environment = device.info().identity,
          .policy = policy_of(routing)};
}

DeviceLimits known_limits(const Device& device, Store& store, DType dtype) {
  if (const auto kept = store.limits(device.info().identity)) {
    if (const auto limits = limits_from_json(kept->json, dtype)) return *limits;
  }
  return guess_limits(device.info().target, dtype);
}

Result<DeviceLimits> renew_limits(const Device& device, Store& store, DType dtype) {
  const auto probed = probe_limits(device, dtype);
  if (!probed.ok()) {
    if (probed.status().code() == StatusCode::kUnsupported)
      return known_limits(device, store, dtype);
    return probed.status();
  }
  const std::string& environment = device.info().identity;
  const auto kept = store.limits(environment);
  store.set_limits(environment, {.json = add_limits_to_json(kept ? kept->json : "", dtype, *probed),
                                 .measured_at = static_cast<int64_t>(std::time(nullptr))});
  return probed;
}

Status check_keeps(const TuneRequest& request, const Store& store) {
  std::string why = store.degraded();
  if (!request.require_cache || why.empty()) return {};
  if (request.cache_path.empty() && settings().cache_dir.empty()) why = settings().cache_dir_reason;
  return {StatusCode::kIoError, "results could not be kept: " + why};
}

RowCounts typical_rows(const MoeConfig& config, int64_t tokens) {
  RowCounts rows(static_cast<size_t>(config.total_experts()), 0);
  const double e = config.num_experts;
  const double slots = static_cast<double>(tokens) * config.top_k;
  const double miss = std::pow(1 - config.top_k / e, static_cast<double>(tokens));
  const int64_t touched = std::clamp<int64_t>(static_cast<int64_t>(std::llround(e * (1 - miss))),
                                              tokens > 0 ? 1 : 0, config.num_experts);
  for (int64_t i = 0; i < touched; ++i) {
    const double begin = slots * static_cast<double>(i) / static_cast<double>(touched);
    const double end = slots * static_cast<double>(i + 1) / static_cast<double>(touched);
    rows[static_cast<size_t>(i)] =
        static_cast<int64_t>(std::floor(end)) - static_cast<int64_t>(std::floor(begin));
  }
  for (int s = 0; s < config.num_shared_experts; ++s)
    rows[static_cast<size_t>(config.num_experts + s)] = tokens;
  return rows;
}

std::vector<std::string> refusals(const MoeConfig& config, const Target& target) {
  std::vector<std::string> out;
  for (const Family* family : families()) {
    if (const auto why = family->why_not(config, target)) {
      out.push_back(std::string(family->name()) + ": " + *why);
    }
  }
  return out;
}

}  // namespace moejit::internal
