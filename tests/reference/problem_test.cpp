// The generators themselves: a test helper that is wrong hides what it should find.
#include "tests/generators/problem.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

namespace moejit_test {
namespace {

using moejit::DType;

TEST(Configs, AreValidAndUniquelyNamed) {
  std::set<std::string> names;
  for (const auto* list : {&core_configs(), &router_configs()}) {
    for (const NamedConfig& named : *list) {
      EXPECT_TRUE(named.config.check().ok()) << named.name << named.config.check().to_string();
      EXPECT_TRUE(names.insert(named.name).second || list == &router_configs()) << named.name;
    }
  }
}

TEST(SmallTypes, KnownValues) {
  EXPECT_EQ(encode(DType::kBF16, 1.0), 0x3F80u);
  EXPECT_EQ(encode(DType::kBF16, 1.0 + 1.0 / 256), 0x3F80u);  // tie to even
  EXPECT_EQ(encode(DType::kBF16, 1.0 + 3.0 / 256), 0x3F82u);  // tie to even, up
  EXPECT_EQ(encode(DType::kBF16, 3.4e38), 0x7F80u);           // above the largest: infinite
  EXPECT_EQ(encode(DType::kF16, 65504), 0x7BFFu);
  EXPECT_EQ(encode(DType::kF16, 65519), 0x7BFFu);
  EXPECT_EQ(encode(DType::kF16, 65520), 0x7C00u);
  EXPECT_EQ(encode(DType::kF16, -std::ldexp(1, -24)), 0x8001u);  // the smallest subnormal
  EXPECT_EQ(encode(DType::kF16, std::ldexp(1, -25)), 0u);        // tie to even, down
  EXPECT_EQ(encode(DType::kF16, -0.0), 0x8000u);
  EXPECT_EQ(decode(DType::kF16, 0x3555), 0.333251953125);
  EXPECT_TRUE(std::isnan(decode(DType::kBF16, encode(DType::kBF16, NAN))));
}

TEST(SmallTypes, F32AgreesWithTheCompiler) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 100000; ++i) {
    const uint64_t bits = random();
    double value;
    memcpy(&value, &bits, sizeof(value));
    if (i % 2 == 0) value = std::ldexp(std::fmod(value, 1.0), static_cast<int>(bits % 300) - 150);
    if (std::isnan(value)) continue;
    const float f = static_cast<float>(value);
    uint32_t want;
    memcpy(&want, &f, sizeof(want));
    ASSERT_EQ(encode(DType::kF32, value), want) << value;
    ASSERT_EQ(decode(DType::kF32, want), f);
  }
}

TEST(GuardedBuffer, KeepsItsAlignmentAndNoMore) {
  for (size_t bytes : {16u, 48u, 4096u, 4112u, 100000u}) {
    GuardedBuffer buffer(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 16, 0u);
    EXPECT_TRUE(buffer.intact());
    EXPECT_EQ(buffer.as<uint8_t>()[bytes - 1], 0xFF);
    buffer.as<uint8_t>()[-1] = 0;
    EXPECT_FALSE(buffer.intact());
  }
  GuardedBuffer odd(3, 256);
  odd.as<uint8_t>()[3] = 0;
  EXPECT_FALSE(odd.intact());
}

TEST(GuardedBufferDeathTest, TrapsBehindTheEnd) {
  GuardedBuffer buffer(64);
  volatile uint8_t sink = 0;
  EXPECT_DEATH(sink = buffer.as<uint8_t>()[64], "");
  (void)sink;
}

TEST(Problem, IsTheSameForTheSameSeed) {
  const auto& config = core_configs()[3].config;
  const Problem a = make_problem(config, {.seed = 5}), b = make_problem(config, {.seed = 5}),
                c = make_problem(config, {.seed = 6});
  EXPECT_EQ(memcmp(a.w13.data(), b.w13.data(), a.w13.size()), 0);
  EXPECT_EQ(a.reference_ids, b.reference_ids);
  EXPECT_NE(memcmp(a.w13.data(), c.w13.data(), a.w13.size()), 0);
}

TEST(Problem, TensorsAndReferenceHoldTheSameValues) {
  for (const NamedConfig& named : core_configs()) {
    const Problem p = make_problem(named.config, {.routing = RoutingKind::kSparse});
    const Doubles w13 = load(named.config.dtype, p.w13.data(), p.reference.w13.size());
    for (size_t i = 0; i < w13.size(); ++i) {
      ASSERT_TRUE(w13[i] == p.reference.w13[i] ||
                  (std::isnan(w13[i]) && std::isnan(p.reference.w13[i])));
    }
    EXPECT_TRUE(p.intact());
  }
}

class ProblemRouting : public testing::TestWithParam<RoutingKind> {};

TEST_P(ProblemRouting, NeverReachesPoison) {
  for (const NamedConfig& named : core_configs()) {
    const Problem p = make_problem(named.config, {.tokens = 3, .routing = GetParam()});
    ASSERT_EQ(p.reference_ids.size(), size_t{3} * named.config.top_k);
    for (double value : p.expected()) ASSERT_TRUE(std::isfinite(value)) << named.name;
  }
}

TEST_P(ProblemRouting, RepeatsAnExpertOnlyWhereAsked) {
  const RoutingKind kind = GetParam();
  bool repeated = false, foreign = false;
  for (const NamedConfig& named : core_configs()) {
    const int32_t experts = named.config.num_experts, k = named.config.top_k;
    const Problem p = make_problem(named.config, {.tokens = 9, .routing = kind});
    for (int64_t t = 0; t < 9; ++t) {
      std::set<int32_t> seen;
      for (int32_t i = 0; i < k; ++i) {
        const int32_t id = p.reference_ids[t * k + i];
        const bool mine = id >= 0 && id < experts;
        foreign = foreign || !mine;
        repeated = repeated || (mine && !seen.insert(id).second);
      }
    }
  }
  EXPECT_EQ(repeated, kind == RoutingKind::kDuplicates);
  EXPECT_EQ(foreign, kind == RoutingKind::kSentinels || kind == RoutingKind::kNone ||
                         kind == RoutingKind::kOneExpert);
}

std::string routing_name(const testing::TestParamInfo<RoutingKind>& kind) {
  return to_string(kind.param);
}
INSTANTIATE_TEST_SUITE_P(All, ProblemRouting, testing::ValuesIn(all_routings()), routing_name);

TEST(Error, IsRelativeAndSeesEveryRow) {
  EXPECT_DOUBLE_EQ(relative_error({3, 4.5}, {3, 4}), 0.1);
  EXPECT_EQ(relative_error({0, 0}, {0, 0}), 0);
  EXPECT_TRUE(std::isinf(relative_error({0, 1e-30}, {0, 0})));
  EXPECT_TRUE(std::isinf(relative_error({NAN, 1}, {1, 1})));
  EXPECT_TRUE(std::isinf(relative_error({1, 1}, {NAN, 1})));
  EXPECT_EQ(relative_error({NAN, 1}, {NAN, 1}), 0);
  EXPECT_TRUE(std::isinf(relative_error({INFINITY, 1}, {1, 1})));
  EXPECT_EQ(relative_error({INFINITY, 1}, {INFINITY, 1}), 0);
  EXPECT_TRUE(std::isinf(relative_error({1}, {1, 1})));
  Doubles want(2000, 1000), got = want;
  want[0] = want[1] = 1e-3;
  got[0] = 2e-3;
  got[1] = 1e-3;
  EXPECT_LT(relative_error(got, want), 1e-6);
  EXPECT_GT(worst_row_error(got, want, 2), 0.5);
}

}  // namespace
}  // namespace moejit_test
