#include "generator/families/cpu_moe.h"

#include <algorithm>
#include <cmath>

#include "generator/emit.h"
#include "generator/template_store.h"

namespace moejit::internal {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

struct Shape {
  bool wide = false;        // 512-bit vectors
  bool native_dot = false;  // bf16 dot products
  int64_t lanes = 8;
  int64_t step = 8;  // elements of K that one instruction multiplies
  int64_t tile_tokens = 3;
  int64_t element = 4;  // bytes of an element of x and h in the kernel's memory
};

Shape shape_of(const MoeConfig& config, const Target& target) {
  Shape s;
  const CpuVectors vectors = cpu_vectors(config, target);
  s.wide = vectors.lanes == 16;
  s.native_dot = vectors.native_dot;
  s.lanes = vectors.lanes;
  s.step = s.native_dot ? 32 : s.lanes;
  s.tile_tokens = s.wide ? 6 : 3;
  s.element = s.native_dot ? 2 : 4;
  return s;
}

// As padded_stride() in simd.h, in bytes.
int64_t padded_bytes(int64_t elements, int64_t element) {
  return (ceil_div(elements * element, 64) | 1) * 64;
}

// Elements of I per pass of the down product: a token block's rows of h keep to half of the L2.
int64_t down_chunk(const MoeConfig& config, const Target& target, const Schedule& schedule) {
  const Shape s = shape_of(config, target);
  const int64_t most =
      std::max<int64_t>(512, target.l2_bytes / 2 / (schedule.at("token_block") * s.element));
  const int64_t chunks = ceil_div(config.intermediate_size, most);
  // Whole lines of every dtype, so that only the last chunk has a tail.
  return ceil_div(ceil_div(config.intermediate_size, chunks), 64) * 64;
}

int64_t max_workers(const Target& target) {
  // Rounded up, so that machines of similar size share their binaries.
  int64_t workers = 8;
  while (workers < target.num_units) workers *= 2;
  return workers;
}

// Bytes of one worker's rows unpacked from a transposed layout.
int64_t scratch_bytes(const MoeConfig& config, const Schedule& schedule) {
  if (!config.transposed || config.packed) return 0;
  const int64_t element = size_of(config.dtype);
  const int64_t gate_up =
      schedule.at("row_block") * (config.gated ? 2 : 1) * padded_bytes(config.hidden_size, element);
  const int64_t down =
      schedule.at("column_block") * padded_bytes(config.intermediate_size, element);
  return std::max(gate_up, down);
}

// Bytes of one packed panel: 16 (8) rows of weights along K, as the kernel multiplies them.
int64_t panel_bytes(const MoeConfig& config, const Target& target, const Schedule& schedule) {
  if (config.packed) return 0;
  const Shape s = shape_of(config, target);
  const int64_t down =
      std::min<int64_t>(config.intermediate_size, down_chunk(config, target, schedule));
  const int64_t bytes = s.lanes * s.element * std::max<int64_t>(config.hidden_size, down);
  return ceil_div(bytes, 64) * 64;
}

std::vector<WorkspaceRegion> workspace(const MoeConfig& config, const Target& target,
                                       const Schedule& schedule) {
  const Shape s = shape_of(config, target);
  const int64_t experts = config.total_experts();
  const int64_t pairs = config.top_k + config.num_shared_experts;
  const int64_t element = size_of(config.dtype);
  const bool x_in_place = s.element == element && config.hidden_size * element % 1024 != 0;
  constexpr int64_t kUnit = 16;
  return {
      {.name = "plan", .fixed_bytes = 128 + 128 * max_workers(target) + 8 * (experts + 1)},
      {.name = "units",
       .fixed_bytes = kUnit * (experts + 1),
       .bytes_per_token = ceil_div(kUnit * pairs, schedule.at("token_block"))},
      {.name = "tokens", .bytes_per_token = 4 * pairs},
      {.name = "weights", .bytes_per_token = 4 * pairs},
      {.name = "x",
       .bytes_per_token = x_in_place ? 0 : padded_bytes(config.hidden_size, s.element)},
      {.name = "h", .bytes_per_token = pairs * padded_bytes(config.intermediate_size, s.element)},
      {.name = "acc", .bytes_per_token = max_workers(target) * schedule.at("column_block") * 4},
      {.name = "scratch", .fixed_bytes = max_workers(target) * scratch_bytes(config, schedule)},
      {.name = "panels",
       .fixed_bytes = max_workers(target) * 2 * panel_bytes(config, target, schedule)},
  };
}

// Dot units' work for `rows` tokens by `weight_rows` rows of length `k`, in flops of a kernel that
// keeps them busy: small tiles are bound by loads, every tile ends in horizontal sums, and from a
// dozen tokens on weights are packed once for all tiles.
double tile_flops(const Shape& s, int64_t rows, double weight_rows, int64_t k) {
  if (rows == 0) return 0;
  const int64_t passes = ceil_div(rows, s.tile_tokens);
  const double tiles = static_cast<double>(passes);
  const double c = static_cast<double>(rows) / tiles;
  const double steps = static_cast<double>(ceil_div(k, s.step));
  constexpr double kEpilogue = 16, kLoop = 0.5, kPackLine = 1;  // cycles
  const double packing = rows > 2 * s.tile_tokens ? 4 * steps * kPackLine : 0;
  const double cycles = tiles * (steps * (std::max(4 * c, 4 + c) + kLoop) + kEpilogue) + packing;
  return weight_rows / 4 * cycles * static_cast<double>(2 * s.step);
}

// The same of packed weights: two vectors of rows by up to a dozen tokens, a load of x for every
// two dot products, no horizontal sums, and a chunk of K read and written at a time by several
// tiles.
double block_flops(const Shape& s, int64_t rows, double weight_rows, int64_t k) {
  if (rows == 0) return 0;
  const int64_t passes = ceil_div(rows, 2 * s.tile_tokens);
  const double c = static_cast<double>(rows) / static_cast<double>(passes);
  const double depth = s.native_dot ? 2 : 1;
  const double steps = static_cast<double>(k) / depth;
  constexpr double kLoop = 0.25;  // cycles
  const double cycles = static_cast<double>(passes) * steps * (std::max(2 * c, 2 + c) + kLoop);
  return weight_rows / static_cast<double>(2 * s.lanes) * cycles * 2 * depth *
         static_cast<double>(s.lanes);
}

// A gated block of packed rows gives half as many elements of I.
int32_t smallest_row_block(const MoeConfig& config, const Target& target) {
  return config.packed && !config.gated && shape_of(config, target).wide ? 64 : 16;
}

class CpuMoe : public Family {
 public:
  const char* name() const override { return "cpu_moe"; }
  BackendKind backend() const override { return BackendKind::kCpu; }
  const char* help() const override {
    return "CPU: weights in place, panels of 16 rows arranged beside the products, or packed "
           "weights";
  }

  std::vector<Param> params() const override {
    return {
        {"row_block", {64, 16, 128, 384}, "elements of I of one gate/up task"},
        {"column_block", {512, 32, 128, 1024}, "columns of out of one down task"},
        {"token_block",
         {60, 120, 30},
         "most rows of one expert that share a pass over its weights"},
        {"stream_ahead", {4}, "KiB of weights on the way to each worker while few tokens stream"},
    };
  }

  std::optional<std::string> why_not(const MoeConfig&, const Target& target) const override {
    if (target.backend != BackendKind::kCpu) return "target: must be a CPU";
    if (target.arch != "x86-64-v3" && target.arch != "x86-64-v4" &&
        target.arch != "x86-64-v4+bf16") {
      return "arch = " + target.arch + ": must be x86-64-v3, x86-64-v4 or x86-64-v4+bf16";
    }
    return std::nullopt;
  }

  std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                     const Schedule& schedule) const override {
    if (auto reason = why_not(config, target)) return reason;
    for (const Param& param : params()) {
      const auto it = schedule.params.find(param.name);
      if (it == schedule.params.end()) return param.name + ": is missing";
      if (std::find(param.values.begin(), param.values.end(), it->second) == param.values.end()) {
        return param.name + " = " + std::to_string(it->second) + ": is not one of its values";
      }
    }
    const auto refuse = [&](const char* name, const std::string& rule) {
      return std::string(name) + " = " + std::to_string(schedule.at(name)) + ": " + rule;
    };
    // The smallest block is always allowed, so that every layer has a legal schedule.
    const int32_t row_block = schedule.at("row_block");
    const int32_t smallest = smallest_row_block(config, target);
    if (row_block < smallest) return refuse("row_block", "must be whole blocks of packed weights");
    if (row_block > smallest && row_block >= 2 * config.intermediate_size) {
      return refuse("row_block", "must be below 2 * intermediate_size (" +
                                     std::to_string(2 * config.intermediate_size) +
                                     "): a smaller one gives the same tasks");
    }
    const int32_t column_block = schedule.at("column_block");
    if (column_block > 32 && ceil_div(config.hidden_size, column_block) < target.num_units) {
      return refuse("column_block", "must leave a block of hidden_size for each of the " +
                                        std::to_string(target.num_units) +
                                        " workers: a task owns its columns");
    }
    return std::nullopt;
  }

  Schedule default_schedule(const MoeConfig& config, const Target& target,
                            int64_t tokens) const override {
    const Shape s = shape_of(config, target);
    Schedule schedule{.family = name(),
                      .params = {{"row_block", smallest_row_block(config, target)},
                                 {"column_block", 32},
                                 {"stream_ahead", 4}}};
    // The more rows share a packed panel, the better, while the block's rows of x keep to the L2.
    const int64_t row_bytes = padded_bytes(config.hidden_size, s.element);
    schedule.params["token_block"] = 120 * row_bytes <= target.l2_bytes * 5 / 8 ? 120 : 60;
    // Long runs of rows stream best, but every worker should get several tasks, however few experts
    // the tokens touch; where arithmetic dominates, small tasks balance better.
    const int64_t experts =
        std::min<int64_t>(config.num_experts, tokens * config.top_k) + config.num_shared_experts;
    const bool streams = tokens * config.top_k <= 8 * int64_t{config.num_experts};
    for (int32_t block : {384, 128, 64, 16}) {
      if (block < smallest_row_block(config, target)) break;
      schedule.params["row_block"] = block;
      if ((block < 384 || streams) && !why_not(config, target, schedule) &&
          experts * ceil_div(config.intermediate_size, block) >= 8 * int64_t{target.num_units}) {
        break;
      }
    }
    for (int32_t block : {512, 128, 32}) {
      schedule.params["column_block"] = block;
      // Blocks in whole rounds of the workers, or many of them.
      const int64_t blocks = ceil_div(config.hidden_size, block);
      if (!why_not(config, target, schedule) &&
          (config.hidden_size % (int64_t{block} * target.num_units) == 0 ||
           blocks >= 8 * int64_t{target.num_units})) {
        break;
      }
    }
    return schedule;
  }

  std::vector<PhaseWork> work(const MoeConfig& config, const Target& target,
                              const Schedule& schedule, const RowCounts& rows) const override;
  KernelSource emit(const MoeConfig& config, const Target& target,
                    const Schedule& schedule) const override;
};

std::vector<PhaseWork> CpuMoe::work(const MoeConfig& config, const Target& target,
                                    const Schedule& schedule, const RowCounts& rows) const {
  const Shape s = shape_of(config, target);
  const int64_t H = config.hidden_size, I = config.intermediate_size;
  const double element = size_of(config.dtype);
  const double own = static_cast<double>(s.element);
  const int64_t token_block = schedule.at("token_block");
  const int64_t row_blocks = ceil_div(I, schedule.at("row_block"));
  const int64_t column_blocks = ceil_div(H, schedule.at("column_block"));
  const int64_t chunk = std::min(I, down_chunk(config, target, schedule));
  const double w13_bytes = static_cast<double>(config.w13_rows() * H) * element;
  const double w2_bytes = static_cast<double>(I * H) * element;

  PhaseWork gate_up{.name = "gate_up", .launches = 2}, down{.name = "down", .launches = 1};
  int64_t units = 0, pairs = 0;
  for (int64_t count : rows) {
    if (count == 0) continue;
    const int64_t blocks = ceil_div(count, token_block);
    units += blocks;
    pairs += count;
    gate_up.bytes += w13_bytes;
    down.bytes += w2_bytes;
    gate_up.cache_bytes += w13_bytes * static_cast<double>(blocks - 1);
    down.cache_bytes += w2_bytes * static_cast<double>(blocks - 1);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t part = count * (b + 1) / blocks - count * b / blocks;
      const auto flops = config.packed ? block_flops : tile_flops;
      gate_up.dot_flops += flops(s, part, static_cast<double>(config.w13_rows()), H);
      const bool whole = part <= 2 * s.tile_tokens;  // in one piece
      for (int64_t k = 0; k < I; k += whole ? I : chunk) {
        down.dot_flops +=
            flops(s, part, static_cast<double>(H), whole ? I : std::min(chunk, I - k));
      }
    }
  }
  const double h_bytes = static_cast<double>(pairs * I) * own;
  const double tokens =
      static_cast<double>(pairs) / static_cast<double>(config.top_k + config.num_shared_experts);
  // x and h come from a cache where they are small; each task reads them again.
  gate_up.bytes += tokens * static_cast<double>(H) * element;
  gate_up.cache_bytes +=
      static_cast<double>(pairs * H) * own * static_cast<double>(row_blocks) + h_bytes;
  down.bytes += tokens * static_cast<double>(H) * element;
  down.cache_bytes += h_bytes * static_cast<double>(column_blocks);
  // A dozen operations and a division for the activation.
  gate_up.vector_flops = 40.0 * static_cast<double>(pairs * I);
  if (config.transposed && !config.packed) {
    // Every unit unpacks its weights: one more pass through the caches, bound by shuffles.
    gate_up.vector_flops += 4.0 * static_cast<double>(units) * w13_bytes / element;
    down.vector_flops += 4.0 * static_cast<double>(units) * w2_bytes / element;
  }
  const auto share = [&](int64_t tasks) {
    const int64_t workers = std::max(target.num_units, 1);
    if (tasks == 0) return 1.0;
    return static_cast<double>(tasks) / static_cast<double>(ceil_div(tasks, workers) * workers);
  };
  gate_up.parallel = share(units * row_blocks);
  down.parallel = share(column_blocks);
  return {gate_up, down};
}

KernelSource CpuMoe::emit(const MoeConfig& config, const Target& target,
                          const Schedule& schedule) const {
  KernelSource source;
  source.name = "moe_" + short_name(config) + ".cc";
  source.arch = target.arch;
  source.language = "c++";
  source.options = {"-Wno-unused-const-variable",  // of the constants, no kernel needs all
                    "-disable-llvm-passes"};       // but those of backends/cpu/module/codegen.cpp
  source.workspace = workspace(config, target, schedule);

  const auto constant = [](const char* name, int64_t value) {
    return std::string("constexpr long long ") + name + " = " + std::to_string(value) + ";\n";
  };
  source.text =
      emit_constants(config, schedule) + "namespace moejit_cfg {\n" +
      constant("kDownChunk", down_chunk(config, target, schedule)) +
      constant("kMaxWorkers", max_workers(target)) +
      constant("kScratchElements", scratch_bytes(config, schedule) / size_of(config.dtype)) +
      constant("kPanelElements",
               panel_bytes(config, target, schedule) / shape_of(config, target).element) +
      "}  // namespace moejit_cfg\n" + emit_workspace(source.workspace) +
      expand_template(config.packed ? "cpu/moe_packed.h" : "cpu/moe.h");

  // Waking the other workers costs microseconds: not worth it for little work.
  const int64_t pair_bytes =
      (config.w13_rows() + config.intermediate_size) * config.hidden_size * size_of(config.dtype);
  const int64_t serial = (int64_t{96} << 10) / pair_bytes;
  source.rows_per_token = config.top_k + config.num_shared_experts;
  source.entries = {
      Entry{.name = "moe_route", .when = When::kRouted, .grid = {}, .serial_up_to = 64},
      Entry{.name = "moe_prepare", .grid = {}, .serial_up_to = 64},
      Entry{.name = "moe_gate_up", .grid = {}, .serial_up_to = serial},
      Entry{.name = "moe_down", .grid = {}, .serial_up_to = serial},
  };
  return source;
}

}  // namespace

CpuVectors cpu_vectors(const MoeConfig& config, const Target& target) {
  return {target.arch == "x86-64-v3" ? 8 : 16,
          target.arch == "x86-64-v4+bf16" && config.dtype == DType::kBF16};
}

const Family* cpu_moe_family() {
  static const CpuMoe family;
  return &family;
}

}  // namespace moejit::internal
