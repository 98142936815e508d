// Operands of the tensor cores as f32.
#pragma once

#include <bit>
#include <cstdint>

#include "templates/device/sim/runtime.h"

namespace moejit::internal::sim {

inline float bf16_value(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

inline float f16_value(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 31u;
  const uint32_t fraction = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (exponent + 112u) << 23 | fraction << 13);
}

// tf32 keeps the sign, the exponent and ten bits of the fraction.
inline float tf32_value(uint32_t bits) {
  return std::bit_cast<float>(bits & 0xffffe000u);
}

inline float half_value(int type, uint16_t bits) {
  return type == moejit_sim::kBf16 ? bf16_value(bits) : f16_value(bits);
}

}  // namespace moejit::internal::sim
