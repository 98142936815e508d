#include "backends/sim/sim_module.h"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "backends/sim/running.h"
#include "base/settings.h"

namespace moejit::internal::sim {
namespace {

using moejit_sim::TensorMapData;

constexpr size_t kMostMaps = 4;
constexpr size_t kMostEntries = 32;

// The layout of dev::TensorMaps in a kernel's second parameter.
struct alignas(64) MapParameter {
  unsigned char bytes[128];
};
struct MapParameters {
  MapParameter map[kMostMaps];
};
static_assert(sizeof(TensorMapData) <= sizeof(MapParameter));

struct Arguments {
  MoeArgs args;
  MapParameters maps;
};

void invoke(void* function, const void* arguments) {
  const auto* all = static_cast<const Arguments*>(arguments);
  reinterpret_cast<void (*)(MoeArgs)>(function)(all->args);
}

void invoke_with_maps(void* function, const void* arguments) {
  const auto* all = static_cast<const Arguments*>(arguments);
  reinterpret_cast<void (*)(MoeArgs, MapParameters)>(function)(all->args, all->maps);  // NOLINT
}

std::mutex& launch_mutex() {
  static auto* mutex = new std::mutex();
  return *mutex;
}

thread_local Counters t_counters;
thread_local int t_timed = 0;

void encode_maps(const KernelSource& source, const MoeArgs& args, MapParameters& maps) {
  std::memset(&maps, 0, sizeof maps);
  for (size_t i = 0; i < source.tensor_maps.size() && i < kMostMaps; ++i) {
    const TensorMapSpec& spec = source.tensor_maps[i];
    TensorMapData data{};
    data.magic = moejit_sim::kTensorMapMagic;
    switch (spec.base) {
      case TensorMapSpec::Base::kX:
        data.base = args.x;
        break;
      case TensorMapSpec::Base::kW13:
        data.base = args.w13;
        break;
      case TensorMapSpec::Base::kW2:
        data.base = args.w2;
        break;
      case TensorMapSpec::Base::kWorkspace:
        data.base =
            static_cast<const char*>(args.workspace) +
            workspace_offset(source.workspace, static_cast<size_t>(spec.region), args.num_tokens);
        break;
    }
    data.rank = static_cast<unsigned>(spec.dims.size());
    data.element_bytes = static_cast<unsigned>(spec.element_bytes);
    data.swizzle_bytes = 128;
    unsigned long long stride = data.element_bytes;
    for (size_t d = 0; d < spec.dims.size() && d < 3; ++d) {
      const int64_t extra = d == 1 ? spec.rows_per_token * args.num_tokens : 0;
      data.dim[d] = static_cast<unsigned long long>(std::max<int64_t>(spec.dims[d] + extra, 1));
      data.box[d] = static_cast<unsigned>(spec.box[d]);
      data.stride[d] = stride;
      stride *= data.dim[d];
    }
    std::memcpy(maps.map[i].bytes, &data, sizeof data);
  }
}

// What cuTensorMapEncodeTiled refuses.
Status check_maps(const KernelSource& source, const MapParameters& maps) {
  for (size_t i = 0; i < source.tensor_maps.size(); ++i) {
    TensorMapData data;
    std::memcpy(&data, maps.map[i].bytes, sizeof data);
    const std::string name = source.name + ": tensor map " + std::to_string(i) + ": ";
    if (data.rank < 2 || data.rank > 3)
      return invalid_argument(name + "must have 2 or 3 dimensions");
    if (reinterpret_cast<uintptr_t>(data.base) % 16 != 0) {
      return invalid_argument(name + "the base address must be 16-aligned");
    }
    for (unsigned d = 0; d < data.rank; ++d) {
      if (data.box[d] < 1 || data.box[d] > 256) {
        return invalid_argument(name + "box of " + std::to_string(data.box[d]) + " must be 1..256");
      }
      if (d > 0 && data.stride[d] % 16 != 0) {
        return invalid_argument(name + "a stride of " + std::to_string(data.stride[d]) +
                                " bytes must be a multiple of 16");
      }
    }
  }
  return {};
}

}  // namespace

Checks checks_in_force() {
  return settings().sim_checks == "fast" ? Checks::kFast : Checks::kFull;
}

Counters take_counters() {
  return std::exchange(t_counters, Counters{});
}

TimedLaunches::TimedLaunches() {
  ++t_timed;
}
TimedLaunches::~TimedLaunches() {
  --t_timed;
}

Result<std::shared_ptr<const Module>> SimModule::load(const std::string& device,
                                                      const Limits& limits, const Binary& binary,
                                                      const KernelSource& source) {
  if (source.entries.empty() || source.entries.size() > kMostEntries) {
    return invalid_argument("entries: " + std::to_string(source.entries.size()) +
                            " of them, must be 1 to " + std::to_string(kMostEntries));
  }
  if (source.tensor_maps.size() > kMostMaps) {
    return invalid_argument(source.name + ": more than " + std::to_string(kMostMaps) +
                            " tensor maps");
  }
  for (const Entry& entry : source.entries) {
    const std::string name = source.name + ": entry " + entry.name + ": ";
    if (entry.threads < 32 || entry.threads > 1024 || entry.threads % 32 != 0) {
      return invalid_argument(name + "threads = " + std::to_string(entry.threads) +
                              ": must be a multiple of 32, at most 1024");
    }
    const int64_t most = limits.shared_per_unit - 1024;
    if (entry.shared_bytes < 0 || entry.shared_bytes > most) {
      return invalid_argument(name + "shared_bytes = " + std::to_string(entry.shared_bytes) +
                              ": must be 0.." + std::to_string(most));
    }
    if (entry.cluster < 1 || entry.cluster > (limits.has_async_proxy ? 8 : 1)) {
      return invalid_argument(name + "cluster = " + std::to_string(entry.cluster) +
                              ": not possible on this device");
    }
  }
  auto image = LoadedImage::load(binary.bytes, source.name);
  if (!image.ok()) return image.status();
  std::shared_ptr<SimModule> module(new SimModule());
  module->device_ = device;
  module->limits_ = limits;
  module->source_ = source;
  module->image_ = std::move(*image);
  for (const Entry& entry : source.entries) {
    void* function = module->image_->symbol(entry.name.c_str());
    if (function == nullptr) {
      return Status(StatusCode::kDataError, "entry \"" + entry.name + "\" is not in the binary");
    }
    module->functions_.push_back(function);
  }
  using Bind = const moejit_sim::Self** (*)(const moejit_sim::Runtime*);
  const auto bind = reinterpret_cast<Bind>(module->image_->symbol("moejit_sim_bind"));
  if (bind == nullptr) {
    return Status(StatusCode::kDataError, source.name + ": not compiled for the simulator");
  }
  module->self_slot_ = bind(&Engine::table());
  module->extent_ = reinterpret_cast<ExtentFunction>(module->image_->symbol("moejit_sim_extent"));
  std::string_view rest = module->source_.text;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    module->lines_.push_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return std::shared_ptr<const Module>(std::move(module));
}

std::vector<EntryPlan> SimModule::plan_entries(const MoeArgs& args) const {
  std::vector<EntryPlan> plan;
  for (size_t i = 0; i < source_.entries.size(); ++i) {
    const Entry& entry = source_.entries[i];
    if (entry.when != When::kAlways && (entry.when == When::kRouted) != (args.routed != 0))
      continue;
    if (args.num_tokens < entry.min_tokens || args.num_tokens > entry.max_tokens) continue;
    const Grid& grid = entry.grid;
    int64_t blocks = grid.fixed;
    if (grid.per_token_num > 0) {
      blocks +=
          (args.num_tokens * grid.per_token_num + grid.per_token_den - 1) / grid.per_token_den;
    }
    if (grid.per_unit_cap > 0) {
      blocks = std::min<int64_t>(blocks, int64_t{limits_.units} * grid.per_unit_cap);
    }
    blocks = std::max<int64_t>(blocks, 1);
    const auto cluster = static_cast<int64_t>(entry.cluster);
    blocks = (blocks + cluster - 1) / cluster * cluster;
    EntryPlan item;
    item.name = entry.name;
    item.function = functions_[i];
    item.blocks = static_cast<uint32_t>(blocks);
    item.threads = static_cast<uint32_t>(entry.threads);
    item.shared_bytes = static_cast<uint32_t>(entry.shared_bytes);
    item.cluster = static_cast<uint32_t>(entry.cluster);
    item.dependent = entry.dependent_launch && limits_.has_async_proxy && !plan.empty();
    item.invoke = entry.tensor_maps ? invoke_with_maps : invoke;
    plan.push_back(item);
  }
  return plan;
}

Status SimModule::run_once(Timing timing, Checks checks, const std::vector<EntryPlan>& plan,
                           const MoeArgs& args, std::vector<Region>& regions) const {
  poison(regions);
  Arguments arguments;
  arguments.args = args;
  encode_maps(source_, args, arguments.maps);
  MOEJIT_RETURN_IF_ERROR(check_maps(source_, arguments.maps));
  Engine engine(limits_, timing, checks == Checks::kFull, regions);
  engine.source = &lines_;
  Finding finding;
  bool ok;
  {
    RunningEngine running(engine);
    ok = engine.run(plan, &arguments, self_slot_);
  }
  t_counters += engine.counters();
  if (!ok) {
    finding = engine.finding();
  } else {
    for (const Region& region : regions) {
      if (!region.must_cover) continue;
      const size_t first = region.shadow.first_unwritten();
      if (first == region.shadow.bytes()) continue;
      ok = false;
      finding.kind = FindingKind::kUncovered;
      finding.text = "byte " + std::to_string(first) + " of the " +
                     std::to_string(region.shadow.bytes()) + " of " + region.name +
                     " was never written";
      break;
    }
  }
  if (ok) return {};
  return {StatusCode::kVerificationFailed,
          device_ + ": " + source_.name + ": " + to_string(finding.kind) + ": " +
              finding.text.substr(0, finding.text.find('\n')),
          std::string(to_string(finding.kind)) + "\n" + finding.text};
}

Status SimModule::launch(const MoeArgs& args, Stream) const {
  if (args.num_tokens == 0) return {};  // out has no element
  const Checks checks = t_timed > 0 ? Checks::kFast : checks_in_force();
  auto regions = make_regions(args, source_, extent_);
  if (!regions.ok()) return regions.status();
  const std::vector<EntryPlan> plan = plan_entries(args);
  std::lock_guard<std::mutex> lock(launch_mutex());
  MOEJIT_RETURN_IF_ERROR(run_once(Timing::kEarly, checks, plan, args, *regions));
  if (checks == Checks::kFast) return {};
  const auto early = save_results(*regions);
  MOEJIT_RETURN_IF_ERROR(run_once(Timing::kLate, checks, plan, args, *regions));
  const auto late = save_results(*regions);
  size_t index = 0;
  for (const Region& region : *regions) {
    if (!region.writable || region.name == "workspace") continue;
    const auto& a = early[index];
    const auto& b = late[index++];
    if (std::memcmp(a.data(), b.data(), a.size()) == 0) continue;
    const auto at = std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
    const std::string text = "byte " + std::to_string(at) + " of " + region.name +
                             " differs between early and late completion of asynchronous work and "
                             "between two orders of threads and blocks";
    return {StatusCode::kVerificationFailed,
            device_ + ": " + source_.name + ": " + to_string(FindingKind::kTiming) + ": " + text,
            text};
  }
  return {};
}

}  // namespace moejit::internal::sim
