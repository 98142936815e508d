// Where the elements of weights lie, above all of packed ones (MoeConfig::packed): for
// pack_weights, which writes them, the tuner, which checks results against them, and launches,
// which know what they span. templates/cpu/packed.h reads them.
#pragma once

#include <cstdint>
#include <optional>

#include "generator/target.h"
#include "moejit/config.h"

namespace moejit::internal {

// Blocks of 2 * lanes rows. A gated w13 has `lanes` rows of gate and then the same ones of up in a
// block, anything else rows in order; the last block is filled with rows of zeros. Within a block:
// [K / depth][2 * lanes][depth].
struct PackedLayout {
  int64_t lanes = 16;
  int64_t depth = 2;  // elements of K; a row's 16 bytes are a multiple of it

  int64_t block_rows() const { return 2 * lanes; }
  int64_t step() const { return block_rows() * depth; }  // elements
  int64_t w13_blocks(const MoeConfig& config) const;     // of one expert
  int64_t w2_blocks(const MoeConfig& config) const;
  int64_t w13_elements(const MoeConfig& config) const;  // of one expert
  int64_t w2_elements(const MoeConfig& config) const;
  // Element of the expert's w13: row i of gate or, with part 1, of up; of its w2: row n.
  int64_t w13_at(const MoeConfig& config, int part, int64_t i, int64_t k) const;
  int64_t w2_at(const MoeConfig& config, int64_t n, int64_t k) const;
};

// None where no kernel of the target reads packed weights.
std::optional<PackedLayout> packed_layout(const MoeConfig& config, const Target& target);

// The row of w13 in place (column, where transposed) that gives gate i or, with part 1, up i.
int64_t w13_row(const MoeConfig& config, int part, int64_t i);

// Elements of the layer's w13 and w2, packed or not.
struct WeightElements {
  int64_t w13 = 0, w2 = 0;
};
WeightElements weight_elements(const MoeConfig& config, const Target& target);

}  // namespace moejit::internal
