#include "generator/families/cuda_tile80.h"

#include <algorithm>

#include "generator/emit.h"
#include "generator/families/cuda_common.h"

namespace moejit::internal {
namespace {

using gpu::ceil_div;

int64_t shared_bytes(const Schedule& s) {
  return int64_t{s.at("stages")} * (s.at("tile_m") + s.at("tile_n")) * 128;
}

int64_t h_columns(const MoeConfig& config, const Schedule& s) {
  return config.gated ? s.at("tile_n") / 2 : s.at("tile_n");
}

// What both families share.
class TileFamily : public Family {
 public:
  BackendKind backend() const override { return BackendKind::kCuda; }

  std::vector<PhaseWork> work(const MoeConfig& config, const Target& target,
                              const Schedule& schedule, const RowCounts& rows) const override {
    const double element = size_of(config.dtype);
    const double h = config.hidden_size, i = config.intermediate_size;
    const int64_t tile_m = schedule.at("tile_m"), tile_n = schedule.at("tile_n");
    const double n13 =
        static_cast<double>(ceil_div(config.intermediate_size, h_columns(config, schedule)));
    const double n2 = static_cast<double>(ceil_div(config.hidden_size, tile_n));
    PhaseWork gate_up{.name = "gate_up", .launches = 1}, down{.name = "down", .launches = 1};
    double tiles = 0, pairs = 0;
    for (int64_t count : rows) {
      if (count == 0) continue;
      tiles += static_cast<double>(ceil_div(count, tile_m));
      pairs += static_cast<double>(count);
      gate_up.bytes += static_cast<double>(config.w13_rows()) * h * element;
      down.bytes += h * i * element;
    }
    const double padded = tiles * static_cast<double>(tile_m);
    gate_up.dot_flops = 2.0 * padded * n13 * static_cast<double>(tile_n) * h;
    down.dot_flops = 2.0 * padded * n2 * static_cast<double>(tile_n) * i;
    // One resident block has nothing to do between its tiles: measured with mma.sync, an H200.
    if (schedule.at("blocks") == 1) {
      gate_up.dot_flops *= 1.2;
      down.dot_flops *= 1.2;
    }
    // mma.sync reaches less than half of what wgmma does on sm_90.
    if (gpu::arch_number(target) == 90 && config.dtype != DType::kF32) {
      gate_up.dot_flops *= 2.5;
      down.dot_flops *= 2.5;
    }
    // Rows that pad a tile are not loaded.
    gate_up.l2_bytes = n13 * (pairs + tiles * static_cast<double>(tile_n)) * h * element;
    down.l2_bytes = n2 * (pairs + tiles * static_cast<double>(tile_n)) * i * element;
    const double tokens = gpu::token_count(config, rows);
    gate_up.bytes += tokens * h * element + pairs * i * element;
    down.bytes += pairs * i * element + pairs * h * 4;
    const double units = static_cast<double>(target.num_units) * schedule.at("blocks");
    gate_up.parallel = gpu::wave_share(tiles * n13, units);
    down.parallel = gpu::wave_share(tiles * n2, units);
    const double in_flight =
        128.0 * static_cast<double>(tile_n) * (schedule.at("stages") - 1) * schedule.at("blocks");
    gate_up.streaming = gpu::streaming_share(tiles * n13, in_flight, target);
    down.streaming = gpu::streaming_share(tiles * n2, in_flight, target);
    // Fitted to an H200, mma.sync: what copies by all threads reach of the probe's rate, and that
    // one resident block of narrow tiles hides nothing. Tiles of f32 were not timed there.
    if (config.dtype != DType::kF32) {
      constexpr double kReads = 0.87;
      gate_up.streaming *= kReads;
      down.streaming *= kReads;
      gate_up.exposed = down.exposed = schedule.at("blocks") == 1 && tile_n <= 128 ? 1.0 : 0.2;
    }
    return {gpu::plan_work(config, tokens), gate_up, down, gpu::combine_work(config, tokens)};
  }

 protected:
  // Rules that both have: shared memory, and accumulators beside the other registers of a thread.
  std::optional<std::string> why_not_sizes(const Target& target, const Schedule& schedule) const {
    const int64_t blocks = schedule.at("blocks");
    const int64_t limit =
        std::min(target.shared_bytes, gpu::shared_per_unit(target) / blocks - 1024);
    if (const int64_t bytes = shared_bytes(schedule); bytes > limit) {
      return gpu::refuse(schedule, "stages",
                         "a block would need " + std::to_string(bytes) +
                             " bytes of shared memory, above the " + std::to_string(limit) +
                             " that " + std::to_string(blocks) + " resident blocks leave");
    }
    const int64_t accumulators = int64_t{schedule.at("tile_m")} * schedule.at("tile_n") / 256;
    if (accumulators > (blocks == 1 ? 128 : blocks == 2 ? 64 : 16)) {
      return gpu::refuse(
          schedule, "blocks",
          std::to_string(accumulators) + " accumulators a thread leave too few registers");
    }
    return std::nullopt;
  }

  KernelSource emit_tiles(const MoeConfig& config, const Target& target, const Schedule& schedule,
                          const char* kernels, const std::string& prefix) const {
    const int64_t slots = gpu::slots(config);
    std::vector<WorkspaceRegion> workspace = gpu::plan_regions(config, schedule.at("tile_m"));
    workspace.push_back(
        {.name = "h", .bytes_per_token = slots * config.intermediate_size * size_of(config.dtype)});
    workspace.push_back({.name = "y", .bytes_per_token = slots * config.hidden_size * 4});
    KernelSource source = gpu::make_source(config, target, schedule, workspace, kernels);
    source.text = emit_cache(0) + source.text;  // what keep.h would gain was not measured
    Entry entry;
    entry.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = schedule.at("blocks")};
    entry.threads = 256;
    entry.shared_bytes = static_cast<int32_t>(shared_bytes(schedule));
    entry.dependent_launch = true;
    source.entries.push_back(gpu::route_entry(config));
    source.entries.push_back(gpu::plan_entry(config, target));
    entry.name = prefix + "_gate_up";
    source.entries.push_back(entry);
    entry.name = prefix + "_down";
    source.entries.push_back(entry);
    source.entries.push_back(gpu::combine_entry(config));
    return source;
  }

  // The first of the tile heights, widths, depths (deepest first) that is legal.
  Schedule first_legal(const MoeConfig& config, const Target& target, Schedule schedule,
                       std::initializer_list<int> heights) const {
    for (int tile_m : heights) {
      schedule.params["tile_m"] = tile_m;
      for (const Param& wide : params()) {
        if (wide.name != "tile_n") continue;
        for (int tile_n : wide.values) {
          schedule.params["tile_n"] = tile_n;
          for (int blocks : {2, 1}) {
            schedule.params["blocks"] = blocks;
            for (int stages : {4, 3, 2}) {
              schedule.params["stages"] = stages;
              if (!why_not(config, target, schedule)) return schedule;
            }
          }
        }
      }
    }
    return schedule;
  }
};

class CudaTile80 : public TileFamily {
 public:
  const char* name() const override { return "cuda_tile80"; }
  const char* help() const override {
    return "GPU tiles by mma.sync and cp.async, sm_80 and later, every layout";
  }

  std::vector<Param> params() const override {
    return {
        {"tile_m", {128, 64, 32, 16}, "rows of an output tile"},
        {"tile_n",
         {128, 256, 64},
         "columns of an output tile (half gate, half up in the first product)"},
        {"warps_m", {2, 4, 1}, "how many of the 8 warps lie along the rows"},
        {"stages", {4, 3, 2}, "stages of the ring, 64 elements of the reduction each"},
        {"raster", {16, 4}, "row tiles of an expert that share weights at a time"},
        {"blocks", {2, 1, 3}, "resident blocks of a unit"},
    };
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target) const override {
    if (auto reason = gpu::why_not_nvidia(config, target, 80)) return reason;
    if (config.dtype == DType::kF32) return "dtype = f32: must be bf16 or f16";
    return std::nullopt;
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                     const Schedule& schedule) const override {
    if (auto reason = why_not(config, target)) return reason;
    if (auto reason = gpu::why_not_values(*this, schedule)) return reason;
    const int warps_m = schedule.at("warps_m"), warps_n = 8 / warps_m;
    if (schedule.at("tile_m") % (warps_m * 16) != 0) {
      return gpu::refuse(schedule, "warps_m", "tile_m must be a multiple of 16 rows for each");
    }
    if (schedule.at("tile_n") % (warps_n * 32) != 0) {
      return gpu::refuse(schedule, "warps_m",
                         "tile_n must give each of the " + std::to_string(warps_n) +
                             " warps along it a multiple of 32 columns");
    }
    if (config.transposed && schedule.at("blocks") == 2 &&
        schedule.at("tile_m") * schedule.at("tile_n") > 64 * 128) {
      return gpu::refuse(schedule, "blocks",
                         "a tile of more than 64 x 128 spills where the weights are transposed");
    }
    return why_not_sizes(target, schedule);
  }

  Schedule default_schedule(const MoeConfig& config, const Target& target,
                            int64_t tokens) const override {
    const double rows = static_cast<double>(tokens * config.top_k) / config.num_experts;
    Schedule schedule{.family = name(), .params = {{"raster", 16}, {"warps_m", 2}}};
    // The addresses of the interleaved columns of a transposed matrix make the largest tile spill.
    const bool many_addresses = config.transposed && config.interleaved;
    if (rows > 64 && !many_addresses) {
      return first_legal(config, target, schedule, {128, 64, 32});
    }
    if (rows > 24) return first_legal(config, target, schedule, {64, 32});
    return first_legal(config, target, schedule, {32});
  }

  KernelSource emit(const MoeConfig& config, const Target& target,
                    const Schedule& schedule) const override {
    return emit_tiles(config, target, schedule, "kernels/tile80.h", "moe_tile80");
  }
};

class CudaFma : public TileFamily {
 public:
  const char* name() const override { return "cuda_fma"; }
  const char* help() const override { return "GPU tiles by FMA units: f32 in full precision"; }

  std::vector<Param> params() const override {
    return {
        {"tile_m", {64, 32, 16, 128}, "rows of an output tile"},
        {"tile_n",
         {64, 128},
         "columns of an output tile (half gate, half up in the first product)"},
        {"stages", {3, 4, 2}, "stages of the ring, 32 elements of the reduction each"},
        {"raster", {16}, "row tiles of an expert that share weights at a time"},
        {"blocks", {2, 1}, "resident blocks of a unit"},
    };
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target) const override {
    if (auto reason = gpu::why_not_nvidia(config, target, 80)) return reason;
    if (config.dtype != DType::kF32)
      return "dtype = " + std::string(to_string(config.dtype)) + ": must be f32";
    return std::nullopt;
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                     const Schedule& schedule) const override {
    if (auto reason = why_not(config, target)) return reason;
    if (auto reason = gpu::why_not_values(*this, schedule)) return reason;
    return why_not_sizes(target, schedule);
  }

  Schedule default_schedule(const MoeConfig& config, const Target& target,
                            int64_t tokens) const override {
    const double rows = static_cast<double>(tokens * config.top_k) / config.num_experts;
    Schedule schedule{.family = name(), .params = {{"raster", 16}}};
    if (rows > 24) return first_legal(config, target, schedule, {64, 32, 16});
    return first_legal(config, target, schedule, {16});
  }

  KernelSource emit(const MoeConfig& config, const Target& target,
                    const Schedule& schedule) const override {
    return emit_tiles(config, target, schedule, "kernels/tile_fma.h", "moe_fma");
  }
};

}  // namespace

const Family* cuda_tile80_family() {
  static const CudaTile80 family;
  return &family;
}

const Family* cuda_fma_family() {
  static const CudaFma family;
  return &family;
}

}  // namespace moejit::internal
