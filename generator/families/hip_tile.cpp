#include "generator/families/hip_tile.h"

#include "generator/families/cuda_common.h"
#include "generator/families/hip_common.h"

namespace moejit::internal {
namespace {

using gpu::ceil_div;

bool paired(const MoeConfig& config) {
  return config.gated && !config.interleaved;
}

int64_t lds_bytes(const Schedule& s) {
  return int64_t{s.at("buffers")} * (s.at("tile_m") + s.at("tile_n")) * 128;
}

int waves(const Target& target) {
  return 256 / hip::arch_of(target)->wave_lanes;
}

// Registers of a lane: accumulators, the stage on its way, operands, addresses and the rest.
int registers(const MoeConfig& config, const Target& target, const Schedule& s) {
  const int tile_m = s.at("tile_m"), tile_n = s.at("tile_n"), mfma = s.at("mfma");
  const int piece = 16 / size_of(config.dtype);
  const int copies_x = (tile_m + 31) / 32;
  const int copies_w = config.transposed ? (8 * (tile_n / piece) + 255) / 256 * piece : tile_n / 32;
  // Of two steps at once where they are few (kReadAhead of tile_mfma.h).
  const int rows_x = tile_m / s.at("waves_m") / mfma;
  const int rows_w = tile_n * s.at("waves_m") / waves(target) / mfma;
  const bool ahead = waves(target) == 4 && rows_x + rows_w <= 6;
  const int operands = ahead ? 2 * (rows_x + rows_w) : rows_x + 1;
  return tile_m * tile_n / 256 + 4 * (copies_x + copies_w) +
         (waves(target) == 4 ? 4 : 8) * operands + 2 * (copies_x + copies_w) + 36;
}

class HipTile : public Family {
 public:
  const char* name() const override { return "hip_tile"; }
  BackendKind backend() const override { return BackendKind::kHip; }
  const char* help() const override {
    return "AMD tiles by matrix cores (MFMA of gfx90a and gfx942, WMMA of gfx1100), every dtype "
           "and layout";
  }

  std::vector<Param> params() const override {
    return {
        {"tile_m", {128, 64, 32, 16, 256}, "tokens of an output tile"},
        {"tile_n",
         {128, 256, 64},
         "weight rows of an output tile (half gate, half up in the first product)"},
        {"waves_m", {2, 1, 4}, "how many of the 4 waves (of RDNA 3: 8) lie along the tokens"},
        {"mfma",
         {32, 16},
         "side of the matrix instruction: 32x32x8 (not of RDNA 3) or 16x16x16 in 16 bits"},
        {"buffers", {2, 1}, "stages in LDS, 128 bytes of every row each"},
        {"raster", {8}, "row tiles of an expert that share weights at a time"},
        {"blocks", {2, 1, 3, 4}, "resident blocks of a unit"},
        {"split", {1, 2, 4}, "ranges of the reduction of the second product, for few tiles"},
        {"split_gate",
         {1, 2, 4},
         "ranges of the reduction of the first product, whose sums take a launch more"},
    };
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target) const override {
    return hip::why_not_amd(config, target);
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                     const Schedule& schedule) const override {
    if (auto reason = why_not(config, target)) return reason;
    if (auto reason = gpu::why_not_values(*this, schedule)) return reason;
    const int mfma = schedule.at("mfma"), waves_m = schedule.at("waves_m"),
              waves_n = waves(target) / waves_m;
    if (mfma != 16 && waves(target) != 4)
      return gpu::refuse(schedule, "mfma", "must be 16, the side of WMMA");
    if (schedule.at("tile_m") % (waves_m * mfma) != 0) {
      return gpu::refuse(schedule, "waves_m",
                         "tile_m must give each a multiple of " + std::to_string(mfma) + " tokens");
    }
    const int step = waves_n * mfma * (paired(config) ? 2 : 1);
    if (schedule.at("tile_n") % step != 0) {
      return gpu::refuse(schedule, "waves_m",
                         "tile_n must be a multiple of " + std::to_string(step) + " for the " +
                             std::to_string(waves_n) + " waves along it");
    }
    for (const auto& [name, length] : {std::pair{"split", config.intermediate_size},
                                       std::pair{"split_gate", config.hidden_size}}) {
      const int64_t stages = ceil_div(int64_t{length} * size_of(config.dtype), 128);
      if (schedule.at(name) > 1 && stages < 2 * schedule.at(name)) {
        return gpu::refuse(schedule, name,
                           "the " + std::to_string(stages) +
                               " stages of 128 bytes of the reduction give each less than two");
      }
    }
    if (auto reason = hip::why_not_lds(schedule, target, "buffers", lds_bytes(schedule)))
      return reason;
    return hip::why_not_registers(schedule, target, waves(target),
                                  registers(config, target, schedule));
  }

  Schedule default_schedule(const MoeConfig& config, const Target& target,
                            int64_t tokens) const override {
    const double rows = static_cast<double>(tokens * config.top_k) / config.num_experts;
    struct Shape {
      int tile_m, tile_n, waves_m, mfma;
    };
    const Shape large = {128, 128, 2, 32}, middle = {64, 128, 2, 32}, low = {32, 128, 1, 16},
                least = {16, 128, 1, 16}, narrow = {32, 64, 2, 16};
    // WMMA's are 16 wide, and twice as many waves share a tile.
    const Shape large32 = {128, 128, 2, 16}, middle32 = {64, 128, 2, 16}, low32 = {32, 128, 2, 16},
                least32 = {16, 256, 1, 16}, narrow32 = {64, 64, 4, 16};
    const Shape wide[] = {rows > 96   ? large
                          : rows > 40 ? middle
                          : rows > 16 ? low
                                      : least,
                          middle, low, least, narrow};
    const Shape small[] = {rows > 96   ? large32
                           : rows > 40 ? middle32
                           : rows > 16 ? low32
                                       : least32,
                           middle32, low32, least32, narrow32};
    const auto& order = waves(target) == 4 ? wide : small;
    Schedule schedule{.family = name(), .params = {{"raster", 8}, {"split", 1}, {"split_gate", 1}}};
    for (const Shape& shape : order) {
      schedule.params["tile_m"] = shape.tile_m;
      schedule.params["tile_n"] = shape.tile_n;
      schedule.params["waves_m"] = shape.waves_m;
      schedule.params["mfma"] = shape.mfma;
      for (const auto& [buffers, blocks] :
           {std::pair{2, 2}, std::pair{1, 2}, std::pair{2, 1}, std::pair{1, 1}}) {
        schedule.params["buffers"] = buffers;
        schedule.params["blocks"] = blocks;
        if (!why_not(config, target, schedule)) return schedule;
      }
    }
    return schedule;
  }

  std::vector<PhaseWork> work(const MoeConfig& config, const Target& target,
                              const Schedule& schedule, const RowCounts& rows) const override {
    const double element = size_of(config.dtype);
    const double h = config.hidden_size, i = config.intermediate_size;
    const int64_t tile_m = schedule.at("tile_m"), tile_n = schedule.at("tile_n");
    const double n13 =
        static_cast<double>(ceil_div(config.intermediate_size, config.gated ? tile_n / 2 : tile_n));
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
    // LDS feeds the matrix cores 128 bytes a clock and unit: a wave reads its part of both operands
    // for every product. One buffer adds a barrier a stage.
    const double wave_m = static_cast<double>(tile_m) / schedule.at("waves_m");
    const double wave_n = static_cast<double>(tile_n) * schedule.at("waves_m") / waves(target);
    // A workgroup processor of RDNA 3 has half the matrix rate of an MI300X's unit and twice its
    // LDS rate, but both halves of a wave read the same.
    const double lds = 1 + (waves(target) == 4 ? 24.0 : 12.0) * (1 / wave_m + 1 / wave_n);
    const double cost = lds * (schedule.at("buffers") == 1 ? 1.08 : 1.0) *
                        (schedule.at("mfma") == 16 ? 1.05 : 1.0) *
                        (schedule.at("blocks") == 1 ? 1.25 : 1.0);
    gate_up.dot_flops *= cost;
    down.dot_flops *= cost;
    gate_up.l2_bytes = tiles * n13 * static_cast<double>(tile_m + tile_n) * h * element;
    down.l2_bytes = tiles * n2 * static_cast<double>(tile_m + tile_n) * i * element;
    const double tokens = gpu::token_count(config, rows);
    gate_up.bytes += tokens * h * element + pairs * i * element;
    down.bytes += pairs * i * element + pairs * h * 4;
    const double units = static_cast<double>(target.num_units) * schedule.at("blocks");
    const double split = schedule.at("split"), split_gate = schedule.at("split_gate");
    gate_up.parallel = gpu::wave_share(tiles * n13 * split_gate, units);
    down.parallel = gpu::wave_share(tiles * n2 * split, units);
    // One stage of weights is on its way to each block.
    const double in_flight = 128.0 * static_cast<double>(tile_n) * schedule.at("blocks");
    gate_up.streaming = gpu::streaming_share(tiles * n13 * split_gate, in_flight, target);
    down.streaming = gpu::streaming_share(tiles * n2 * split, in_flight, target);
    down.bytes += pairs * h * 4 * (split - 1);
    std::vector<PhaseWork> phases = {gpu::plan_work(config, tokens), gate_up};
    if (split_gate > 1) {
      const double sums = pairs * static_cast<double>(config.w13_rows()) * 4 * split_gate;
      phases[1].bytes += sums;
      phases.push_back({.name = "sums", .bytes = pairs * i * element + sums, .launches = 1});
    }
    phases.push_back(down);
    phases.push_back(gpu::combine_work(config, tokens, 4 * split));
    return phases;
  }

  KernelSource emit(const MoeConfig& config, const Target& target,
                    const Schedule& schedule) const override {
    const hip::Split split = {schedule.at("split_gate"), schedule.at("split")};
    return hip::make_layer(config, target, schedule,
                           split.gate_up > 1 ? "kernels/tile_mfma_sums.h" : "kernels/tile_mfma.h",
                           "moe_mfma", 256, lds_bytes(schedule), split);
  }
};

}  // namespace

const Family* hip_tile_family() {
  static const HipTile family;
  return &family;
}

}  // namespace moejit::internal
