// v_wmma_f32_16x16x16_{f16,bf16} of waves of 32, and the f32 product that templates make in its
// place. Layouts as in the RDNA3 ISA document's chapter on wave matrix multiply; with r = lane % 16
// and g = lane / 16:
//   A  lane: row r; element j: column j; the halves of the wave hold the same
//   B  lane: column r; element j: row j; the halves of the wave hold the same
//   D  element i: row 2i + g, column r
#include <bit>
#include <cstring>

#include "backends/sim/engine.h"
#include "backends/sim/small_float.h"

namespace moejit::internal::sim {

using namespace moejit_sim;

void Engine::wmma(Meeting& meeting, const Thread* first) {
  constexpr uint32_t kSide = 16, kWords = 8;
  const auto args = [&](uint32_t lane) { return static_cast<WmmaArgs*>(meeting.args[lane]); };
  const int type = args(0)->type;
  const uint32_t depth = type == kF32 ? kWords : 2 * kWords;
  for (uint32_t lane = 0; lane < 32; ++lane) {
    const WmmaArgs* twin = args(lane % kSide);
    if (args(lane)->type != type) {
      fail(FindingKind::kDivergence,
           where(first + lane, meeting.line) + "\n  lanes of a wave ask for different wmma");
    }
    if (std::memcmp(args(lane)->a, twin->a, kWords * 4) != 0 ||
        std::memcmp(args(lane)->b, twin->b, kWords * 4) != 0) {
      fail(FindingKind::kDivergence,
           where(first + lane, meeting.line) + "\n  an operand of wmma differs from that of lane " +
               std::to_string(lane % kSide) + "; both halves of a wave must hold the same");
    }
  }
  const auto value = [&](const unsigned* operand, uint32_t j) {
    if (type == kF32) return std::bit_cast<float>(operand[j]);
    return half_value(type, static_cast<uint16_t>(operand[j / 2] >> (j % 2 * 16)));
  };
  float a[kSide][kSide], b[kSide][kSide];
  for (uint32_t r = 0; r < kSide; ++r) {
    for (uint32_t k = 0; k < depth; ++k) {
      a[r][k] = value(args(r)->a, k);
      b[k][r] = value(args(r)->b, k);
    }
  }
  for (uint32_t lane = 0; lane < 32; ++lane) {
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t row = 2 * i + lane / kSide;
      float sum = 0;
      for (uint32_t k = 0; k < depth; ++k) sum += a[row][k] * b[k][lane % kSide];
      args(lane)->d[i] += sum;
    }
  }
  counters_.multiply_adds += int64_t{kSide} * kSide * depth;
}

}  // namespace moejit::internal::sim
