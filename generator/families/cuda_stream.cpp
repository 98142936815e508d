#include "generator/families/cuda_stream.h"

#include <algorithm>
#include <cmath>

#include "generator/families/cuda_common.h"

namespace moejit::internal {
namespace {

using gpu::ceil_div;

// As in stream_plan.h and stream_few.h.
constexpr int64_t kListSlots = 1024;
constexpr int64_t kFewSlots = 128;

// Up to this many tokens the persistent launch takes.
int64_t few_tokens(const MoeConfig& config, const Schedule& s) {
  const int64_t ring = int64_t{s.at("stages")} * s.at("tile_m") * 2048;
  if ((int64_t{config.num_experts} + config.router.n_group) * 4 > ring) return 0;
  return std::min(
      {kFewSlots / gpu::slots(config), int64_t{s.at("tile_n")} * 8, int64_t{s.at("warps")}});
}

int64_t shared_bytes(const MoeConfig& config, const Schedule& s) {
  const int64_t warps = s.at("warps"), fragments = int64_t{s.at("tile_m")} * s.at("tile_n");
  const int64_t ring = warps * s.at("stages") * s.at("tile_m") * 2048;
  const int64_t reduce = 2 * warps * fragments * 512;
  const int64_t counts =
      ceil_div((2 * int64_t{config.total_experts()} + 2) * 4 + warps * 4, 16) * 16;
  const int64_t starts = std::max(warps * 128, (kListSlots + 8) * 2);
  const int64_t plan = ceil_div(counts + starts + 2 * kListSlots * 2, 128) * 128;
  return ring + reduce + plan;
}

// Room for h of one token, in the stages of the persistent launch, where the rings leave it.
int64_t hidden_bytes(const MoeConfig& config, const Target& target, const Schedule& s) {
  if (s.at("fused") == 0) return 0;
  const int64_t bytes = gpu::slots(config) * ceil_div(config.intermediate_size, 64) * 128;
  const int64_t limit =
      std::min(target.shared_bytes, gpu::shared_per_unit(target) / s.at("blocks") - 1024);
  return shared_bytes(config, s) + bytes <= limit ? bytes : 0;
}

// Whether the persistent launch keeps a warp's columns of x in registers, where six stages have
// room. Read again for each unit, they contend with deep rings for the first-level cache.
bool keeps_x(const MoeConfig& config, const Schedule& s) {
  return ceil_div(ceil_div(config.hidden_size, int64_t{64}), s.at("warps")) <= 6;
}

int64_t gate_tiles(const MoeConfig& config, const Schedule& s) {
  return ceil_div(config.intermediate_size, int64_t{s.at("tile_m")} * (config.gated ? 8 : 16));
}
int64_t down_tiles(const MoeConfig& config, const Schedule& s) {
  return ceil_div(config.hidden_size, int64_t{s.at("tile_m")} * 16);
}

class CudaStream : public Family {
 public:
  const char* name() const override { return "cuda_stream"; }
  BackendKind backend() const override { return BackendKind::kCuda; }
  const char* help() const override {
    return "GPU decode: weights streamed once through per-warp rings, tensor cores, few rows per "
           "expert";
  }

  std::vector<Param> params() const override {
    return {
        {"warps", {8, 4, 16}, "warps of a block; they split the reduction"},
        {"tile_m", {1, 2}, "16-row tiles of weights of one unit of work"},
        {"tile_n", {1, 2, 4}, "8-token tiles of one unit of work"},
        {"stages", {6, 3, 4, 5, 8, 10, 12, 16}, "128-byte-wide stages of a warp's ring"},
        {"blocks", {2, 1, 3, 4}, "resident blocks of a unit"},
        {"fused", {0, 1}, "few tokens: the router and both products in one persistent launch"},
    };
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target) const override {
    if (auto reason = gpu::why_not_nvidia(config, target, 80)) return reason;
    if (config.dtype == DType::kF32) return "dtype = f32: must be bf16 or f16";
    if (config.transposed)
      return "transposed = true: must be false, a row of weights is streamed as it lies";
    return std::nullopt;
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                     const Schedule& schedule) const override {
    if (auto reason = why_not(config, target)) return reason;
    if (auto reason = gpu::why_not_values(*this, schedule)) return reason;
    const int64_t blocks = schedule.at("blocks"), warps = schedule.at("warps");
    const int64_t limit =
        std::min(target.shared_bytes, gpu::shared_per_unit(target) / blocks - 1024);
    if (const int64_t bytes = shared_bytes(config, schedule); bytes > limit) {
      return gpu::refuse(schedule, "stages",
                         "a block would need " + std::to_string(bytes) +
                             " bytes of shared memory, above the " + std::to_string(limit) +
                             " that " + std::to_string(blocks) + " resident blocks leave");
    }
    if (warps * blocks > 16) {
      return gpu::refuse(
          schedule, "blocks",
          "with " + std::to_string(warps) + " warps leaves less than 128 registers a thread");
    }
    if (schedule.at("tile_m") * schedule.at("tile_n") > 4) {
      return gpu::refuse(schedule, "tile_n",
                         "tile_m * tile_n must be at most 4, or accumulators and operands spill");
    }
    if (schedule.at("fused") == 1 && (schedule.at("tile_n") > 1 || schedule.at("tile_m") > 1 ||
                                      warps * blocks < 16 || blocks > 2)) {
      return gpu::refuse(schedule, "fused",
                         "pays only for the fewest tokens and in large blocks: must have tile_m = "
                         "tile_n = 1 and 16 warps on a unit in at most 2 blocks");
    }
    if (schedule.at("fused") == 1 && few_tokens(config, schedule) == 0) {
      return gpu::refuse(schedule, "fused", "no token fits: too many experts, or visited ones");
    }
    // Bytes in flight are what this family is for.
    const int64_t in_flight = blocks * warps * schedule.at("stages") * schedule.at("tile_m") * 2048;
    if (in_flight < std::min<int64_t>(64 << 10, target.shared_bytes / 3)) {
      return gpu::refuse(schedule, "stages",
                         "keeps only " + std::to_string(in_flight) + " bytes in flight on a unit");
    }
    return std::nullopt;
  }

  Schedule default_schedule(const MoeConfig& config, const Target& target,
                            int64_t tokens) const override {
    const double touched = std::max(
        1.0, std::min<double>(config.num_experts, static_cast<double>(tokens * config.top_k)));
    const double rows = static_cast<double>(tokens * config.top_k) / touched;
    // Measured on an H200 (docs/performance_gpu_steps.md): single rows want many small blocks, a
    // few rows twice the weights per token load, many rows one block with everything.
    struct Shape {
      int warps, tile_m, tile_n, blocks;
    };
    // Up to 8 tokens one persistent launch does all (docs/performance_gpu_steps.md, 20). One or two
    // want the first weights early; where x is read again, less under way reads faster (25, 40).
    if (tokens <= 8) {
      Schedule whole{
          .family = name(),
          .params = {{"warps", 16}, {"tile_m", 1}, {"tile_n", 1}, {"blocks", 1}, {"fused", 1}}};
      for (int stages : !keeps_x(config, whole) ? std::vector<int>{3, 4, 5}
                        : tokens <= 2           ? std::vector<int>{5, 4, 3}
                                                : std::vector<int>{4, 5, 3}) {
        whole.params["stages"] = stages;
        if (!why_not(config, target, whole) && tokens <= few_tokens(config, whole)) return whole;
      }
    }
    const Shape single = {4, 1, 1, 4}, few = {4, 2, 1, 3}, many = {8, 2, 2, 1},
                small = {8, 1, 1, 1};
    const Shape order[] = {rows <= 1.5 ? single
                           : rows <= 6 ? few
                                       : many,
                           few,
                           single,
                           {8, 1, 1, 2},
                           small};
    Schedule schedule{.family = name(), .params = {}};
    for (const Shape& shape : order) {
      schedule.params = {{"warps", shape.warps},
                         {"tile_m", shape.tile_m},
                         {"tile_n", shape.tile_n},
                         {"blocks", shape.blocks},
                         {"fused", 0}};
      for (int stages : {16, 12, 10, 8, 6, 5, 4, 3}) {
        schedule.params["stages"] = stages;
        if (!why_not(config, target, schedule)) return schedule;
      }
    }
    return schedule;
  }

  std::vector<PhaseWork> work(const MoeConfig& config, const Target& target,
                              const Schedule& schedule, const RowCounts& rows) const override;
  KernelSource emit(const MoeConfig& config, const Target& target,
                    const Schedule& schedule) const override;
};

std::vector<PhaseWork> CudaStream::work(const MoeConfig& config, const Target& target,
                                        const Schedule& schedule, const RowCounts& rows) const {
  const double element = size_of(config.dtype);
  const double h = config.hidden_size, i = config.intermediate_size;
  const double w13 = static_cast<double>(config.w13_rows()) * h, w2 = h * i;
  const int64_t unit_tokens = int64_t{schedule.at("tile_n")} * 8;
  PhaseWork gate_up{.name = "gate_up", .launches = 1}, down{.name = "down", .launches = 1};
  double chunks = 0, pairs = 0, experts = 0, octets = 0;
  for (int64_t count : rows) {
    if (count == 0) continue;
    const double passes = static_cast<double>(ceil_div(count, unit_tokens));
    chunks += passes;
    pairs += static_cast<double>(count);
    experts += 1;
    octets += static_cast<double>(ceil_div(count, int64_t{8}));
    gate_up.bytes += w13 * element;
    down.bytes += w2 * element;
    gate_up.cache_bytes += w13 * element * (passes - 1);
    down.cache_bytes += w2 * element * (passes - 1);
    gate_up.l2_bytes += w13 * element * passes;
    down.l2_bytes += w2 * element * passes;
    gate_up.dot_flops += 2.0 * w13 * passes * static_cast<double>(unit_tokens);
    down.dot_flops += 2.0 * w2 * passes * static_cast<double>(unit_tokens);
  }
  const double tiles13 = static_cast<double>(gate_tiles(config, schedule)),
               tiles2 = static_cast<double>(down_tiles(config, schedule));
  const double tokens = gpu::token_count(config, rows);
  // Every row tile reads its tokens again, from the L2.
  gate_up.l2_bytes += pairs * h * element * tiles13;
  down.l2_bytes += (pairs * i * element * tiles2 + pairs * h * 8);
  gate_up.bytes += tokens * h * element;
  down.bytes += tokens * h * element;
  const double units = static_cast<double>(target.num_units) * schedule.at("blocks");
  gate_up.parallel = gpu::wave_share(chunks * tiles13, units);
  down.parallel = gpu::wave_share(chunks * tiles2, units);
  // Measured on an H100 and an H200: so much of the read rate is sustained by 4, 8, 12, 16 warps
  // and by the persistent launch, and a fifth less for every further 8 rows of an expert.
  const int warps = schedule.at("blocks") * schedule.at("warps");
  const bool fused =
      schedule.at("fused") == 1 && tokens <= static_cast<double>(few_tokens(config, schedule));
  const double sustained = fused         ? 0.965
                           : warps >= 16 ? 0.92
                           : warps >= 12 ? 0.90
                           : warps >= 8  ? 0.87
                                         : 0.72;
  gate_up.streaming = down.streaming =
      sustained / (1 + 0.2 * (octets / std::max(experts, 1.0) - 1));
  if (!fused) {
    // Warps without a stage of a unit wait for the others, and each further 8 tokens of a unit take
    // instructions whether they exist or not: measured, an H200.
    const auto even = [&](double length) {
      const double stages = std::ceil(length / 64), sharing = schedule.at("warps");
      return stages / (std::ceil(stages / sharing) * sharing);
    };
    const double wide = 1 + 0.15 * (schedule.at("tile_n") - 1);
    gate_up.streaming *= even(h) / wide;
    down.streaming *= even(i) / wide;
  }
  // Beyond the sorted list every unit of `down` scans topk_ids, 32 of them in a trip to the L2.
  const double listed = tokens * static_cast<double>(gpu::slots(config));
  if (listed > static_cast<double>(kListSlots)) {
    constexpr double kTrip = 1.1e-6;
    down.latency_s = std::ceil(chunks * tiles2 / (static_cast<double>(target.num_units) * warps)) *
                     std::ceil(listed / 32) * kTrip;
  }
  // Measured on an H200: partial results by way of y, a counter and the last block's combine cost 3
  // us; where rings run on from one product into the other there is no second launch.
  if (fused) {
    down.launches = 0;
    // The plan, the meeting and the last products, where several tokens' plan takes longer, and so
    // do two blocks; one or two tokens want their first weights early, and where x is read again,
    // the more is under way the slower it reads. All fitted to an H200.
    const int stages = schedule.at("stages");
    down.latency_s += (tokens > 1 ? 4.5e-6 : 3e-6) + 1e-6 * (schedule.at("blocks") - 1);
    if (tokens <= 2) down.latency_s += 0.3e-6 * std::max(0, 5 - stages);
    if (!keeps_x(config, schedule)) {
      gate_up.streaming *= 1 - 0.006 * (stages - 3);
      down.streaming *= 1 - 0.006 * (stages - 3);
    }
  } else {
    down.latency_s += 3e-6;
  }
  return {gate_up, down};
}

KernelSource CudaStream::emit(const MoeConfig& config, const Target& target,
                              const Schedule& schedule) const {
  const int64_t slots = gpu::slots(config);
  const std::vector<WorkspaceRegion> workspace = {
      {.name = "meeting", .fixed_bytes = 256},
      {.name = "counters", .fixed_bytes = 4 * down_tiles(config, schedule)},
      {.name = "h", .bytes_per_token = slots * config.intermediate_size * size_of(config.dtype)},
      {.name = "y", .bytes_per_token = slots * config.hidden_size * 4},
  };
  const bool fused = schedule.at("fused") == 1;
  KernelSource source = gpu::make_source(config, target, schedule, workspace,
                                         fused ? "kernels/stream_fused.h" : "kernels/stream.h");
  const int64_t hidden = hidden_bytes(config, target, schedule);
  source.text = "#define MOEJIT_HIDDEN_BYTES " + std::to_string(hidden) +
                "\n#define MOEJIT_KEEPS_X " + (keeps_x(config, schedule) ? "1\n" : "0\n") +
                source.text;
  const int64_t few = fused ? few_tokens(config, schedule) : 0;
  Entry route = gpu::route_entry(config);
  route.min_tokens = few + 1;
  source.entries.push_back(route);
  Entry entry;
  entry.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = schedule.at("blocks")};
  entry.threads = schedule.at("warps") * 32;
  entry.shared_bytes = static_cast<int32_t>(shared_bytes(config, schedule));
  entry.dependent_launch = true;
  if (few > 0) {
    entry.name = "moe_stream_fused";
    entry.max_tokens = few;
    entry.dependent_launch = false;  // it is the first, since it routes
    entry.shared_bytes += static_cast<int32_t>(hidden);
    source.entries.push_back(entry);
    entry.shared_bytes -= static_cast<int32_t>(hidden);
    entry.max_tokens = INT64_MAX;
    entry.dependent_launch = true;
    entry.min_tokens = few + 1;
  }
  entry.name = "moe_stream_gate_up";
  source.entries.push_back(entry);
  entry.name = "moe_stream_down";
  source.entries.push_back(entry);
  return source;
}

}  // namespace

const Family* cuda_stream_family() {
  static const CudaStream family;
  return &family;
}

}  // namespace moejit::internal
