#include "generator/families/hip_stream.h"

#include <algorithm>

#include "generator/families/cuda_common.h"
#include "generator/families/hip_common.h"

namespace moejit::internal {
namespace {

using gpu::ceil_div;

// Groups of 16 lanes of a wave, each with a piece of every row.
int groups(const Target& target) {
  return hip::arch_of(target)->wave_lanes / 16;
}
int64_t fragments(const Schedule& s) {
  return int64_t{s.at("tile_m") / 16} * (s.at("tile_n") / 16);
}
// Two buffers of partial sums; none where a wave has the whole reduction.
int64_t lds_bytes(const Schedule& s) {
  return s.at("waves") == 1 ? 0 : 2 * int64_t{s.at("waves")} * fragments(s) * 1024;
}
int registers(const Schedule& s, const Target& target) {
  const int pieces = s.at("tile_m") / 16 + s.at("tile_n") / 16;
  // Half as many lanes have twice the accumulators, and an operand is two pieces wide.
  const bool wide = groups(target) == 4;
  return 4 * s.at("depth") * pieces + (wide ? 4 : 8) * static_cast<int>(fragments(s)) +
         (wide ? 2 : 10) * pieces + (wide ? 44 : 60);
}
int64_t in_flight(const Schedule& s, const Target& target) {
  return int64_t{s.at("blocks")} * s.at("waves") * s.at("depth") * (s.at("tile_n") / 16) *
         groups(target) * 256;
}

class HipStream : public Family {
 public:
  const char* name() const override { return "hip_stream"; }
  BackendKind backend() const override { return BackendKind::kHip; }
  const char* help() const override {
    return "AMD decode: weights from memory straight into the registers of the matrix cores";
  }

  std::vector<Param> params() const override {
    return {
        {"waves", {4, 2, 8, 1}, "waves of a block; they split the reduction"},
        {"tile_m", {16, 32}, "tokens of one unit of work"},
        {"tile_n", {16, 32}, "weight rows of one unit of work"},
        {"depth",
         {8, 4, 6, 12},
         "pieces of every row that a wave has under way, 64 bytes each (of RDNA 3: 32)"},
        {"blocks", {2, 1, 3, 4, 8}, "resident blocks of a unit"},
    };
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target) const override {
    if (auto reason = hip::why_not_amd(config, target)) return reason;
    if (config.transposed)
      return "transposed = true: must be false, a row of weights is streamed as it lies";
    return std::nullopt;
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                     const Schedule& schedule) const override {
    if (auto reason = why_not(config, target)) return reason;
    if (auto reason = gpu::why_not_values(*this, schedule)) return reason;
    if (auto reason = hip::why_not_lds(schedule, target, "waves", lds_bytes(schedule)))
      return reason;
    if (auto reason = hip::why_not_registers(schedule, target, schedule.at("waves"),
                                             registers(schedule, target)))
      return reason;
    // Bytes in flight are what this family is for.
    if (in_flight(schedule, target) < 24 << 10) {
      return gpu::refuse(schedule, "depth",
                         "keeps only " + std::to_string(in_flight(schedule, target)) +
                             " bytes in flight on a unit");
    }
    return std::nullopt;
  }

  Schedule default_schedule(const MoeConfig& config, const Target& target,
                            int64_t tokens) const override {
    const double touched = std::max(
        1.0, std::min<double>(config.num_experts, static_cast<double>(tokens * config.top_k)));
    const double rows = static_cast<double>(tokens * config.top_k) / touched;
    Schedule schedule{.family = name(), .params = {}};
    schedule.params = {{"waves", 4},
                       {"tile_m", rows > 16 ? 32 : 16},
                       {"tile_n", rows > 4 ? 32 : 16},
                       {"blocks", 3}};
    for (int depth : {8, 6, 4}) {
      schedule.params["depth"] = depth;
      for (int blocks : {3, 2, 1}) {
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
    const double w13 = static_cast<double>(config.w13_rows()) * h, w2 = h * i;
    const int64_t unit_tokens = schedule.at("tile_m"), unit_rows = schedule.at("tile_n");
    PhaseWork gate_up{.name = "gate_up", .launches = 1}, down{.name = "down", .launches = 1};
    double chunks = 0, pairs = 0;
    for (int64_t count : rows) {
      if (count == 0) continue;
      const double passes = static_cast<double>(ceil_div(count, unit_tokens));
      chunks += passes;
      pairs += static_cast<double>(count);
      gate_up.bytes += w13 * element;
      down.bytes += w2 * element;
      gate_up.cache_bytes += w13 * element * (passes - 1);
      down.cache_bytes += w2 * element * (passes - 1);
      gate_up.l2_bytes += w13 * element * passes;
      down.l2_bytes += w2 * element * passes;
      gate_up.dot_flops += 2.0 * w13 * passes * static_cast<double>(unit_tokens);
      down.dot_flops += 2.0 * w2 * passes * static_cast<double>(unit_tokens);
    }
    // WMMA takes 32 clocks, and 12 more go into giving both halves of a wave one operand.
    if (groups(target) == 2) {
      const double operands = static_cast<double>(unit_tokens + unit_rows) / 16;
      const double cost = 1 + 12 * operands / 32 / static_cast<double>(fragments(schedule));
      gate_up.dot_flops *= cost;
      down.dot_flops *= cost;
    }
    const double units13 = static_cast<double>(
        ceil_div(config.intermediate_size, config.gated ? unit_rows / 2 : unit_rows));
    const double units2 = static_cast<double>(ceil_div(config.hidden_size, unit_rows));
    const double tokens = gpu::token_count(config, rows);
    // Every unit reads its tokens again, from a cache.
    gate_up.l2_bytes += pairs * h * element * units13;
    down.l2_bytes += pairs * i * element * units2;
    gate_up.bytes += tokens * h * element + pairs * i * element;
    down.bytes += pairs * i * element + pairs * h * 4;
    const double blocks = static_cast<double>(target.num_units) * schedule.at("blocks");
    const double busy = std::min(
        0.97, static_cast<double>(in_flight(schedule, target)) / hip::arch_of(target)->busy_bytes);
    gate_up.parallel = gpu::wave_share(chunks * units13, blocks);
    down.parallel = gpu::wave_share(chunks * units2, blocks);
    gate_up.streaming = busy * std::min(1.0, chunks * units13 / target.num_units);
    down.streaming = busy * std::min(1.0, chunks * units2 / target.num_units);
    return {gpu::plan_work(config, tokens), gate_up, down, gpu::combine_work(config, tokens)};
  }

  KernelSource emit(const MoeConfig& config, const Target& target,
                    const Schedule& schedule) const override {
    return hip::make_layer(config, target, schedule, "kernels/stream_mfma.h", "moe_wave",
                           schedule.at("waves") * hip::arch_of(target)->wave_lanes,
                           lds_bytes(schedule));
  }
};

}  // namespace

const Family* hip_stream_family() {
  static const HipStream family;
  return &family;
}

}  // namespace moejit::internal
