#include "generator/families/cuda_tile90.h"

#include <algorithm>
#include <cmath>

#include "generator/emit.h"
#include "generator/families/cuda_common.h"

namespace moejit::internal {
namespace {

using gpu::ceil_div;

int64_t stage_bytes(const Schedule& s) {
  return (int64_t{s.at("tile_m")} + s.at("tile_n")) * 128;
}
// Narrow swapped tiles of many rows, which two warpgroups take in turns: kInTurns of tile90_walk.h.
bool in_turns(const Schedule& s) {
  return s.at("swap") == 2 && s.at("tile_n") == 128 && s.at("tile_m") >= 128 && s.at("split") == 1;
}
// Warpgroups that multiply: 64 rows each, or where swapped 128 columns; two where they take turns.
int32_t consumers(const Schedule& s) {
  if (in_turns(s)) return 2;
  return s.at("swap") > 0 ? s.at("tile_n") / 128 : s.at("tile_m") / 64;
}
// The L2's size, rounded down to 2^k or 3 * 2^(k - 1): devices of one architecture whose caches
// differ a little share their binaries, also those that were compiled without a device.
int64_t l2_class(const Target& target) {
  if (target.l2_bytes < 1024) return 0;
  int64_t size = 1024;
  while (size * 2 <= target.l2_bytes) size *= 2;
  return size + size / 2 <= target.l2_bytes ? size + size / 2 : size;
}

// Ring, its barriers and tiles, the barriers of turns, the next items and sums, what each consumer
// warp stages, and room to align the ring to 1024 bytes.
int64_t shared_bytes(const Schedule& s) {
  const int staged = s.at("tile_m") < 64 || in_turns(s) ? 1024 : 2048;
  return s.at("stages") * (stage_bytes(s) + 32) + 32 + int64_t{consumers(s)} * 4 * staged + 1024;
}

// Gate and up of one expert take more than three quarters of the L2.
bool fills_l2(const MoeConfig& config, const Target& target) {
  const double bytes = static_cast<double>(config.w13_rows()) *
                       static_cast<double>(config.hidden_size) * size_of(config.dtype);
  return bytes > 0.75 * static_cast<double>(target.l2_bytes);
}

// Experts that a warp of the plan routes within the 64 registers of its threads.
constexpr int kMostRouted = 256;

int64_t h_columns(const MoeConfig& config, const Schedule& s) {
  return config.gated ? s.at("tile_n") / 2 : s.at("tile_n");
}

class CudaTile90 : public Family {
 public:
  const char* name() const override { return "cuda_tile90"; }
  BackendKind backend() const override { return BackendKind::kCuda; }
  const char* help() const override {
    return "GPU prefill on sm_90a: TMA, wgmma, warp-specialised persistent tiles";
  }

  std::vector<Param> params() const override {
    return {
        {"swap",
         {2, 1, 0},
         "products whose columns are the layer's rows, in eights and sixteens: both, the first, "
         "none"},
        {"tile_m", {160, 128, 64, 32, 16}, "rows of an output tile; unswapped, 64 per warpgroup"},
        {"tile_n",
         {256, 128},
         "columns of an output tile (half gate, half up in the first product)"},
        {"stages", {4, 3, 5, 6, 7, 8}, "stages of the ring, 64 elements of the reduction each"},
        {"raster", {4, 16}, "row tiles of an expert that share weights at a time"},
        {"blocks", {1, 2}, "resident blocks of a unit"},
        {"cluster", {1, 2}, "blocks that bring their weights together, a half each"},
        {"split", {1, 2, 4}, "ranges of the reduction of the second product"},
        {"partial", {16, 32}, "bits of a partial result on its way to the sum"},
        {"launches",
         {5, 3},
         "of a layer: router, plan, two products, combine; three: the plan routes, the second "
         "product adds up"},
    };
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target) const override {
    if (auto reason = gpu::why_not_nvidia(config, target, 90)) return reason;
    if (gpu::arch_number(target) != 90)
      return "arch = " + target.arch + ": must be sm_90a, wgmma exists there alone";
    if (config.dtype == DType::kF32) return "dtype = f32: must be bf16 or f16";
    return std::nullopt;
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                     const Schedule& schedule) const override {
    if (auto reason = why_not(config, target)) return reason;
    if (auto reason = gpu::why_not_values(*this, schedule)) return reason;
    if (auto reason = why_not_swap(config, schedule)) return reason;
    const int64_t blocks = schedule.at("blocks");
    const int64_t limit =
        std::min(target.shared_bytes, gpu::shared_per_unit(target) / blocks - 1024);
    if (const int64_t bytes = shared_bytes(schedule); bytes > limit) {
      return gpu::refuse(schedule, "stages",
                         "a block would need " + std::to_string(bytes) +
                             " bytes of shared memory, above the " + std::to_string(limit) +
                             " that " + std::to_string(blocks) + " resident blocks leave");
    }
    if (blocks > 1 && (schedule.at("tile_m") > 64 || schedule.at("tile_n") > 128)) {
      return gpu::refuse(schedule, "blocks",
                         "accumulators of more than 64 x 128 leave too few registers");
    }
    if (auto reason = why_not_cut(config, target, schedule)) return reason;
    Schedule deeper = schedule;
    if (schedule.at("stages") < 8) {
      deeper.params["stages"] = schedule.at("stages") + 1;
      if (shared_bytes(deeper) <= limit) {
        return gpu::refuse(schedule, "stages", "a deeper ring fits, and is never slower");
      }
    }
    return std::nullopt;
  }

  static std::optional<std::string> why_not_swap(const MoeConfig& config,
                                                 const Schedule& schedule) {
    const int swap = schedule.at("swap"), tile_m = schedule.at("tile_m");
    if (swap > 0 && config.transposed)
      return gpu::refuse(schedule, "swap", "rows of transposed weights are no rows of a product");
    if (swap == 0 && tile_m < 64)
      return gpu::refuse(schedule, "tile_m", "a warpgroup multiplies 64 rows, unless swapped");
    if (swap == 0 && tile_m < 128 && !config.transposed)
      return gpu::refuse(schedule, "swap", "swapped, the same tile pads fewer rows");
    if (swap < 2 && tile_m > 128)
      return gpu::refuse(schedule, "tile_m", "a warpgroup multiplies 64 rows, unless swapped");
    if (swap == 1 && (tile_m < 128 || schedule.at("tile_n") < 256))
      return gpu::refuse(schedule, "swap", "only 128 x 256 has as many warpgroups either way");
    return std::nullopt;
  }

  static std::optional<std::string> why_not_three(const MoeConfig& config) {
    if (const int64_t slots = gpu::slots(config); slots > 32) {
      return "top_k + num_shared_experts = " + std::to_string(slots) +
             ": must be at most 32, a token's slots are bits of a word";
    }
    if (config.num_experts > kMostRouted) {
      return "num_experts = " + std::to_string(config.num_experts) + ": must be at most " +
             std::to_string(kMostRouted) + ", for which the plan's router has registers";
    }
    return std::nullopt;
  }

  // Rules of the parameters that pay in one regime alone; they also keep the space small.
  static std::optional<std::string> why_not_cut(const MoeConfig& config, const Target& target,
                                                const Schedule& schedule) {
    const int split = schedule.at("split");
    if (schedule.at("launches") == 3) {
      if (schedule.at("swap") != 2 || schedule.at("tile_m") > 64)
        return gpu::refuse(
            schedule, "launches",
            "only with swap = 2 and tile_m of at most 64; few rows alone gain by it");
      if (schedule.at("cluster") > 1 || split > 1)
        return gpu::refuse(schedule, "launches", "only with cluster = 1 and split = 1");
      if (auto reason = why_not_three(config)) return gpu::refuse(schedule, "launches", *reason);
    }
    const int large = schedule.at("swap") > 0 ? 64 : 128;  // rows of a tile of many-row experts
    if (schedule.at("cluster") > 1 &&
        (schedule.at("tile_m") < large || schedule.at("tile_n") < 256))
      return gpu::refuse(schedule, "cluster", "only large tiles outrun the L2 cache");
    if (schedule.at("cluster") > 1 && config.transposed)
      return gpu::refuse(schedule, "cluster", "the four boxes of transposed weights spill");
    if (schedule.at("partial") == 16) {
      if (config.dtype != DType::kBF16) {
        return gpu::refuse(schedule, "partial",
                           "in f16 a partial result may overflow where their sum does not");
      }
      if (schedule.at("tile_m") < large)
        return gpu::refuse(schedule, "partial", "only the partial results of prefill are large");
      if (split > 1) return gpu::refuse(schedule, "partial", "parts of a sum would round apart");
    }
    if (split > 1) {
      const int64_t blocks_k = ceil_div(config.intermediate_size, 64);
      if (blocks_k < 8 * split) {
        return gpu::refuse(schedule, "split",
                           "intermediate_size = " + std::to_string(config.intermediate_size) +
                               " leaves fewer than 8 steps for each range");
      }
      const int64_t tiles =
          ceil_div(config.hidden_size, schedule.at("tile_n")) * int64_t{config.total_experts()};
      if (tiles >= int64_t{4} * target.num_units) {
        return gpu::refuse(schedule, "split",
                           "the second product has tiles enough for every unit without");
      }
    }
    return std::nullopt;
  }

  Schedule default_schedule(const MoeConfig& config, const Target& target,
                            int64_t tokens) const override {
    const double rows = static_cast<double>(tokens * config.top_k) / config.num_experts;
    // Swapped tiles of 160 rows pad least; from 256 rows on straight ones take 1.05 times as long
    // in the mean. With fewer than 48 rows weights are read a little faster in narrow tiles. Up to
    // 128 tokens three launches take at most 0.2 % more than five, routed. An H200 measured all
    // that, and clusters of two where an expert fills most of the L2.
    const bool large = rows >= 48;
    const bool pairs = rows >= 1024 && !config.transposed && fills_l2(config, target);
    const int tile_m = !large ? 64 : config.transposed ? 128 : 160;
    // Partial results of 16 bits take half a percent less at 128 tokens, nothing less at 32.
    const bool narrow_sums =
        (large || (tokens > 32 && !config.transposed)) && config.dtype == DType::kBF16;
    const bool three = !large && !config.transposed && tokens <= 128 && !why_not_three(config);
    Schedule schedule{.family = name(),
                      .params = {{"swap", config.transposed ? 0 : 2},
                                 {"tile_m", tile_m},
                                 {"tile_n", large || config.transposed ? 256 : 128},
                                 {"raster", rows >= 1024 ? 16 : 4},
                                 {"blocks", 1},
                                 {"cluster", pairs ? 2 : 1},
                                 {"split", 1},
                                 {"partial", narrow_sums ? 16 : 32},
                                 {"launches", three ? 3 : 5}}};
    for (int stages : {8, 7, 6, 5, 4, 3}) {
      schedule.params["stages"] = stages;
      if (!why_not(config, target, schedule)) break;
    }
    return schedule;
  }

  std::vector<PhaseWork> work(const MoeConfig& config, const Target& target,
                              const Schedule& schedule, const RowCounts& rows) const override;
  KernelSource emit(const MoeConfig& config, const Target& target,
                    const Schedule& schedule) const override;
};

std::vector<PhaseWork> CudaTile90::work(const MoeConfig& config, const Target& target,
                                        const Schedule& schedule, const RowCounts& rows) const {
  const double element = size_of(config.dtype);
  const double h = config.hidden_size, i = config.intermediate_size;
  const int64_t tile_m = schedule.at("tile_m"), tile_n = schedule.at("tile_n");
  const double n13 =
      static_cast<double>(ceil_div(config.intermediate_size, h_columns(config, schedule)));
  const double n2 = static_cast<double>(ceil_div(config.hidden_size, tile_n));
  // Columns that are multiplied: a warpgroup of 128 that has none passes by.
  const int swap = schedule.at("swap");
  const int64_t mine = 128 / (tile_n / h_columns(config, schedule));  // channels of a warpgroup
  const double columns13 =
      swap >= 1 ? 128.0 * static_cast<double>(ceil_div(config.intermediate_size, mine))
                : n13 * static_cast<double>(tile_n);
  const double columns2 =
      swap == 2 ? 128.0 * static_cast<double>(ceil_div(config.hidden_size, int64_t{128}))
                : n2 * static_cast<double>(tile_n);
  PhaseWork gate_up{.name = "gate_up", .launches = 1}, down{.name = "down", .launches = 1};
  // Turning a tile's results takes as long as two steps of the reduction, unless another tile is
  // multiplied meanwhile: measured, an H200.
  const double steps = static_cast<double>(ceil_div(config.intermediate_size, 64));
  const double turned = in_turns(schedule) ? 1 : 1 + 2 / steps;
  // Row tiles; those that bring weights of their own; rows as each product counts them; rows.
  double tiles = 0, loads = 0, used13 = 0, used2 = 0, pairs = 0;
  for (int64_t count : rows) {
    if (count == 0) continue;
    const int64_t of_expert = ceil_div(count, tile_m);
    tiles += static_cast<double>(of_expert);
    loads += static_cast<double>(of_expert - (schedule.at("cluster") > 1 ? of_expert / 2 : 0));
    // Swapped, a step of n rows moves (512 + 5 n) * 128 bytes through shared memory, 128 a cycle,
    // where its products take 8 n cycles. Fitted to a hot H200, a tile of n rows counts between the
    // two: as 0.8 n + 32, so that 160 count as 160.
    const int64_t granule = ceil_div(count, of_expert) > 32 ? 16 : 8;
    const double swapped = 0.8 * static_cast<double>(ceil_div(count, granule) * granule) +
                           32 * static_cast<double>(of_expert);
    // The two row tiles of a cluster move in step, and an odd one, which brings its weights alone,
    // takes as long as if it were full. Straight tiles take 0.91 to 1.16 times what swapped ones
    // do, 1.05 in the mean of 13 pairs from 256 rows of an expert on, an H200; transposed weights
    // have no others.
    const double straight =
        (config.transposed ? 1.0 : 1.05) * static_cast<double>(schedule.at("cluster") > 1
                                                                   ? of_expert * tile_m
                                                                   : ceil_div(count, 64) * 64);
    used13 += swap >= 1 ? swapped : straight;
    used2 += swap == 2 ? turned * swapped : straight;
    pairs += static_cast<double>(count);
    gate_up.bytes += static_cast<double>(config.w13_rows()) * h * element;
    down.bytes += h * i * element;
  }
  // What a cluster costs swapped tiles: pairs of hot H200s differ by a tenth either way, 0.99 in
  // the median where an expert fills most of the L2 and 1.01 elsewhere; these factors pick best.
  if (swap >= 1 && schedule.at("cluster") > 1) used13 *= fills_l2(config, target) ? 0.95 : 1.04;
  // The probe's rate lasts for its milliseconds: under load an H200 keeps to its power, and a
  // library product of 8192^3 to 0.78 of the probe, these kernels to 0.74.
  constexpr double kSustained = 1.3;
  gate_up.dot_flops = kSustained * 2.0 * used13 * columns13 * h;
  down.dot_flops = kSustained * 2.0 * used2 * columns2 * i;
  // Rows that pad a tile are not loaded.
  gate_up.l2_bytes = n13 * (pairs + loads * static_cast<double>(tile_n)) * h * element;
  down.l2_bytes = n2 * (pairs + loads * static_cast<double>(tile_n)) * i * element;
  const double tokens = gpu::token_count(config, rows);
  gate_up.bytes += tokens * h * element + pairs * i * element;
  const double split = schedule.at("split");
  const double y_bytes = split * schedule.at("partial") / 8;  // of a column of a row
  down.bytes += pairs * i * element + pairs * h * y_bytes;
  const double units = static_cast<double>(target.num_units) * schedule.at("blocks");
  // Units take items by ticket, or change places from turn to turn: what counts is an item's mean
  // cost.
  gate_up.parallel = gpu::wave_share(tiles * n13, units);
  down.parallel = gpu::wave_share(tiles * n2 * split, units);
  const double in_flight =
      128.0 * static_cast<double>(tile_n) * (schedule.at("stages") - 1) * schedule.at("blocks");
  // Of what streaming_share allows, boxes of weights reach the more the narrower the tiles:
  // measured, an H200.
  const bool few_rows = swap == 2 && tile_m <= 64;  // as kFewRows of tile90_ring.h
  const double box_rate = few_rows       ? (tile_n > 128 ? 1.0 : 1.015)
                          : tile_n > 128 ? 0.98
                          : swap == 0    ? 0.96
                                         : 1.0;
  gate_up.streaming = box_rate * gpu::streaming_share(tiles * n13, in_flight, target);
  down.streaming = box_rate * gpu::streaming_share(tiles * n2 * split, in_flight, target);
  gate_up.exposed = down.exposed = 0.2;  // fitted, an H200
  PhaseWork plan = gpu::plan_work(config, tokens),
            sums = gpu::combine_work(config, tokens, y_bytes);
  if (schedule.at("launches") == 3) {
    // Its 256 warps route a token each at a time; the first round takes as long as the router of
    // five launches, which no phase counts.
    plan.latency_s += 1.5e-6 * std::max(0.0, std::ceil(tokens / 256) - 1);
    // Against a combine 1 us less and a third of one more for each megabyte of y: an H200, the
    // pairs of docs/performance_gpu_steps.md, 39.
    sums.name = "sums";
    sums.launches = 0;
    sums.latency_s = 1.5e-6;
    sums.parallel = 0.4;
  }
  return {plan, gate_up, down, sums};
}

KernelSource CudaTile90::emit(const MoeConfig& config, const Target& target,
                              const Schedule& schedule) const {
  const int64_t slots = gpu::slots(config);
  const bool three = schedule.at("launches") == 3;
  std::vector<WorkspaceRegion> workspace = gpu::plan_regions(config, schedule.at("tile_m"), three);
  workspace.push_back(
      {.name = "h", .bytes_per_token = slots * config.intermediate_size * size_of(config.dtype)});
  workspace.push_back({.name = "y",
                       .bytes_per_token = slots * schedule.at("split") * config.hidden_size *
                                          (schedule.at("partial") / 8)});
  KernelSource source =
      gpu::make_source(config, target, schedule, workspace, "kernels/tile90.h", three);
  source.text = emit_cache(l2_class(target)) + source.text;

  const int64_t h = config.hidden_size, i = config.intermediate_size,
                experts = config.total_experts();
  const int64_t rows13 = config.w13_rows();
  const int swap = schedule.at("swap");
  const auto group = [&](bool swapped) {
    return config.transposed || swapped ? 64 : schedule.at("tile_n") / 2;
  };
  const auto map = [&](TensorMapSpec::Base base, int64_t rows, int64_t depth, bool swapped) {
    TensorMapSpec spec;
    spec.base = base;
    spec.element_bytes = 2;
    spec.dims = config.transposed ? std::vector<int64_t>{rows, depth, experts}
                                  : std::vector<int64_t>{depth, rows, experts};
    spec.box = config.transposed ? std::vector<int32_t>{64, 64, 1}
                                 : std::vector<int32_t>{64, group(swapped), 1};
    return spec;
  };
  TensorMapSpec first = map(TensorMapSpec::Base::kW13, rows13, h, swap >= 1);
  if (swap >= 1 && config.gated && config.interleaved) {
    first.dims = {h, 2, experts * i};
    first.box = {64, 1, 64};
  }
  TensorMapSpec rows_of_h;
  rows_of_h.base = TensorMapSpec::Base::kWorkspace;
  rows_of_h.region = static_cast<int32_t>(workspace.size()) - 2;
  rows_of_h.element_bytes = 2;
  rows_of_h.dims = {i, 0};
  rows_of_h.rows_per_token = slots;
  rows_of_h.box = {64, std::min(schedule.at("tile_m"), 32)};  // kBoxRows of tile90_ring.h
  source.tensor_maps = {first, map(TensorMapSpec::Base::kW2, h, i, swap == 2), rows_of_h};

  Entry entry;
  entry.grid = {.fixed = int64_t{1} << 30, .per_unit_cap = schedule.at("blocks")};
  entry.threads = 128 * (1 + consumers(schedule));
  entry.shared_bytes = static_cast<int32_t>(shared_bytes(schedule));
  entry.dependent_launch = true;
  entry.tensor_maps = true;
  entry.cluster = schedule.at("cluster");
  if (!three) source.entries.push_back(gpu::route_entry(config));
  source.entries.push_back(gpu::plan_entry(config, target, three));
  entry.name = "moe_tile90_gate_up";
  source.entries.push_back(entry);
  entry.name = "moe_tile90_down";
  source.entries.push_back(entry);
  if (!three) {
    Entry combine = gpu::combine_entry(config);
    combine.grid.per_token_num = config.hidden_size / (schedule.at("partial") == 16 ? 8 : 4);
    source.entries.push_back(combine);
  }
  return source;
}

}  // namespace

const Family* cuda_tile90_family() {
  static const CudaTile90 family;
  return &family;
}

}  // namespace moejit::internal
