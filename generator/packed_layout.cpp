#include "generator/packed_layout.h"

#include "generator/families/cpu_moe.h"

namespace moejit::internal {
namespace {

int64_t blocks(int64_t rows, int64_t per_block) {
  return (rows + per_block - 1) / per_block;
}

}  // namespace

int64_t PackedLayout::w13_blocks(const MoeConfig& config) const {
  return blocks(config.intermediate_size, config.gated ? lanes : 2 * lanes);
}

int64_t PackedLayout::w2_blocks(const MoeConfig& config) const {
  return blocks(config.hidden_size, 2 * lanes);
}

int64_t PackedLayout::w13_elements(const MoeConfig& config) const {
  return w13_blocks(config) * block_rows() * config.hidden_size;
}

int64_t PackedLayout::w2_elements(const MoeConfig& config) const {
  return w2_blocks(config) * block_rows() * config.intermediate_size;
}

int64_t PackedLayout::w13_at(const MoeConfig& config, int part, int64_t i, int64_t k) const {
  const int64_t per_block = config.gated ? lanes : 2 * lanes;
  const int64_t row = i % per_block + (part == 1 ? lanes : 0);
  return i / per_block * block_rows() * config.hidden_size + k / depth * step() + row * depth +
         k % depth;
}

int64_t PackedLayout::w2_at(const MoeConfig& config, int64_t n, int64_t k) const {
  return n / block_rows() * block_rows() * config.intermediate_size + k / depth * step() +
         n % block_rows() * depth + k % depth;
}

std::optional<PackedLayout> packed_layout(const MoeConfig& config, const Target& target) {
  if (target.backend != BackendKind::kCpu) return std::nullopt;
  const CpuVectors vectors = cpu_vectors(config, target);
  return PackedLayout{vectors.lanes, vectors.native_dot ? 2 : 1};
}

int64_t w13_row(const MoeConfig& config, int part, int64_t i) {
  if (!config.gated) return i;
  const int place = config.up_first ? 1 - part : part;
  return config.interleaved ? 2 * i + place : place * int64_t{config.intermediate_size} + i;
}

WeightElements weight_elements(const MoeConfig& config, const Target& target) {
  const int64_t experts = config.total_experts();
  const auto layout = config.packed ? packed_layout(config, target) : std::nullopt;
  if (layout)
    return {experts * layout->w13_elements(config), experts * layout->w2_elements(config)};
  const int64_t row = config.hidden_size;
  return {experts * config.w13_rows() * row, experts * config.intermediate_size * row};
}

}  // namespace moejit::internal
