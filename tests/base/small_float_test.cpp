// The product's conversions against the tests' own, which are written from the formats' definition.
#include "base/small_float.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "tests/generators/problem.h"
#include "tests/generators/small_types.h"

namespace moejit::internal {
namespace {

struct Format {
  const char* name;
  DType dtype;
  float (*to_float)(uint16_t);
  uint16_t (*from_float)(float);
};

void PrintTo(const Format& format, std::ostream* out) {
  *out << format.name;
}

class SmallFloat : public testing::TestWithParam<Format> {
 protected:
  void check(float value) {
    const uint16_t got = GetParam().from_float(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(GetParam().to_float(got)));
      ASSERT_EQ(got >> 15, std::signbit(value) ? 1 : 0);
    } else {
      ASSERT_EQ(got, moejit_test::encode(GetParam().dtype, value)) << value;
    }
  }
};

TEST_P(SmallFloat, WidensAllValuesExactly) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float got = GetParam().to_float(static_cast<uint16_t>(bits));
    const double want = moejit_test::decode(GetParam().dtype, bits);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
    } else {
      ASSERT_EQ(got, want) << bits;
      ASSERT_EQ(std::signbit(got), std::signbit(want)) << bits;
      ASSERT_EQ(GetParam().from_float(got), bits);
    }
  }
}

TEST_P(SmallFloat, RoundsToNearestEvenAroundEveryValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = GetParam().to_float(static_cast<uint16_t>(bits));
    const float next = GetParam().to_float(static_cast<uint16_t>(bits + 1));
    check(value);
    if (!std::isfinite(value) || !std::isfinite(next)) continue;
    const float middle = static_cast<float>((double{value} + next) / 2);
    check(middle);
    check(std::nextafter(middle, INFINITY));
    check(std::nextafter(middle, -INFINITY));
    check(std::nextafter(value, INFINITY));
    check(std::nextafter(value, -INFINITY));
  }
}

TEST_P(SmallFloat, AgreesOnAllKindsOfFloats) {
  const int shift[] = {0, 20, 12, 4};  // the stride between tested patterns, by level
  const uint64_t stride = (uint64_t{1} << shift[moejit_test::test_level()]) - 1;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += stride) {
    check(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (float value : {65504.0f, 65519.99f, 65520.0f, 65536.0f, 3.3895314e38f, 3.3961776e38f,
                      3.4028235e38f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0x1p-133f, 0x1p-134f}) {
    check(value);
    check(-value);
  }
}

std::string format_name(const testing::TestParamInfo<Format>& format) {
  return format.param.name;
}

INSTANTIATE_TEST_SUITE_P(All, SmallFloat,
                         testing::Values(Format{"bf16", DType::kBF16, bf16_to_float, float_to_bf16},
                                         Format{"f16", DType::kF16, f16_to_float, float_to_f16}),
                         format_name);

}  // namespace
}  // namespace moejit::internal
