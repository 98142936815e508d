#include "tests/generators/small_types.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace moejit_test {
namespace {

using moejit::DType;

struct Format {
  int exponent_bits;
  int fraction_bits;

  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  int least_exponent() const { return 1 - bias(); }
  uint32_t full_exponent() const { return (1u << exponent_bits) - 1; }
  uint32_t full_fraction() const { return (1u << fraction_bits) - 1; }
  uint32_t sign_bit() const { return 1u << (exponent_bits + fraction_bits); }
};

Format format_of(DType dtype) {
  if (dtype == DType::kBF16) return {8, 7};
  if (dtype == DType::kF16) return {5, 10};
  return {8, 23};
}

}  // namespace

double round_to(DType dtype, double value) {
  return decode(dtype, encode(dtype, value));
}

uint32_t encode(DType dtype, double value) {
  const Format f = format_of(dtype);
  const uint32_t sign = std::signbit(value) ? f.sign_bit() : 0;
  if (std::isnan(value)) return sign | f.full_exponent() << f.fraction_bits | f.full_fraction();
  const double magnitude = std::fabs(value);
  const uint32_t infinity = f.full_exponent() << f.fraction_bits;
  if (std::isinf(magnitude)) return sign | infinity;
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), f.least_exponent());
  // In units of the last place; the default rounding mode is to nearest, ties to even.
  const auto units =
      static_cast<uint64_t>(std::nearbyint(std::ldexp(magnitude, f.fraction_bits - exponent)));
  const uint64_t bits = (static_cast<uint64_t>(exponent + f.bias() - 1) << f.fraction_bits) + units;
  return sign | static_cast<uint32_t>(std::min<uint64_t>(bits, infinity));
}

double decode(DType dtype, uint32_t bits) {
  const Format f = format_of(dtype);
  const uint32_t exponent = bits >> f.fraction_bits & f.full_exponent();
  const uint32_t fraction = bits & f.full_fraction();
  double magnitude;
  if (exponent == f.full_exponent()) {
    magnitude = fraction == 0 ? INFINITY : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(fraction, f.least_exponent() - f.fraction_bits);
  } else {
    magnitude = std::ldexp(fraction + f.full_fraction() + 1.0,
                           static_cast<int>(exponent) - f.bias() - f.fraction_bits);
  }
  return bits & f.sign_bit() ? -magnitude : magnitude;
}

void store(DType dtype, const std::vector<double>& values, void* out) {
  auto* bytes = static_cast<uint8_t*>(out);
  const size_t size = moejit::size_of(dtype);
  for (double value : values) {
    const uint32_t bits = encode(dtype, value);
    std::memcpy(bytes, &bits, size);  // little-endian, as everything here
    bytes += size;
  }
}

std::vector<double> load(DType dtype, const void* data, size_t count) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  const size_t size = moejit::size_of(dtype);
  std::vector<double> values(count);
  for (double& value : values) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes, size);
    value = decode(dtype, bits);
    bytes += size;
  }
  return values;
}

}  // namespace moejit_test
