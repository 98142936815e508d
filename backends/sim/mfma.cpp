// v_mfma_f32_{16x16x16,32x32x8}{f16,bf16} and v_mfma_f32_{16x16x4,32x32x2}f32. Layouts as in the
// CDNA3 ISA document's chapter on matrix arithmetic; with n the side of the product, c = lane % n
// and g = lane / n:
//   A  lane: row c; 16-bit element j: column 4g + j; f32: column g
//   B  lane: column c; 16-bit element j: row 4g + j; f32: row g
//   D  element i: column c, row 4 (64 / n) (i / 4) + 4g + i % 4
#include <bit>
#include <cmath>

#include "backends/sim/engine.h"
#include "backends/sim/small_float.h"

namespace moejit::internal::sim {

using namespace moejit_sim;

void Engine::mfma(Meeting& meeting) {
  const auto* head = static_cast<MfmaArgs*>(meeting.args[0]);
  const int type = head->type;
  const auto side = static_cast<uint32_t>(head->size);
  const uint32_t groups = 64 / side;
  const uint32_t depth = type == kF32 ? groups : groups * 4;
  float a[32][16];
  float b[16][32];
  const auto value = [&](const unsigned* operand, uint32_t j) {
    if (type == kF32) return std::bit_cast<float>(*operand);
    const auto bits = static_cast<uint16_t>(operand[j / 2] >> (j % 2 * 16));
    const uint16_t exponent = type == kBf16 ? 0x7f80 : 0x7c00;
    if (head->flush != 0 && (bits & exponent) == 0)
      return std::copysign(0.0f, bits >> 15 ? -1.0f : 1.0f);
    return half_value(type, bits);
  };
  for (uint32_t lane = 0; lane < 64; ++lane) {
    const auto* args = static_cast<MfmaArgs*>(meeting.args[lane]);
    if (args->type != type || args->size != head->size) {
      fail(FindingKind::kDivergence, "entry " + entry_->name +
                                         "\n  lanes of a wave ask for different mfma at " +
                                         line_of(meeting.line));
    }
    const uint32_t each = type == kF32 ? 1 : 4;
    for (uint32_t j = 0; j < each; ++j) {
      const uint32_t k = lane / side * each + j;
      a[lane % side][k] = value(args->a, j);
      b[k][lane % side] = value(args->b, j);
    }
  }
  float d[32][32];
  for (uint32_t row = 0; row < side; ++row) {
    for (uint32_t column = 0; column < side; ++column) d[row][column] = 0;
    for (uint32_t k = 0; k < depth; ++k) {
      for (uint32_t column = 0; column < side; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (uint32_t lane = 0; lane < 64; ++lane) {
    auto* args = static_cast<MfmaArgs*>(meeting.args[lane]);
    for (uint32_t i = 0; i < side * side / 64; ++i) {
      args->d[i] += d[4 * groups * (i / 4) + 4 * (lane / side) + i % 4][lane % side];
    }
  }
  counters_.multiply_adds += int64_t{side} * side * depth;
}

}  // namespace moejit::internal::sim
