// Every CPU kernel against the float64 reference: configs x targets x routings x token counts.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/kernels/cpu_runner.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;
using moejit::internal::Schedule;

// Stricter than the common tolerance where the kernels can keep it.
double limit_of(DType dtype) {
  return dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 1.5e-3 : 1e-2;
}

void expect_right(const MoeConfig& config, const std::string& arch, const CpuKernel& kernel,
                  const ProblemOptions& options) {
  Problem problem = make_problem(config, options);
  ASSERT_EQ(kernel.run(&problem), "");
  EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
            limit_of(config.dtype))
      << arch << ", T = " << options.tokens << ", " << to_string(options.routing);
}

class CpuMoe : public testing::TestWithParam<NamedConfig> {
 protected:
  void SetUp() override {
    if (cpu_archs().empty()) GTEST_SKIP() << "no compiler module";
  }
};

TEST_P(CpuMoe, MatchesReference) {
  const MoeConfig& config = GetParam().config;
  std::vector<int64_t> counts = {1, 5, 23};
  if (test_level() >= 2) counts = {0, 1, 2, 3, 4, 7, 13, 64, 129};
  for (const std::string& arch : cpu_archs()) {
    const CpuKernel kernel(config, arch, 2, default_cpu_schedule(config, arch, 2, 5));
    ASSERT_EQ(kernel.error(), "");
    uint64_t seed = 1;
    for (int64_t tokens : counts) {
      const RoutingKind kinds[] = {RoutingKind::kUniform, RoutingKind::kSentinels,
                                   RoutingKind::kZipf};
      if (test_level() >= 2) {
        for (RoutingKind kind : all_routings()) {
          expect_right(config, arch, kernel, {.tokens = tokens, .seed = seed++, .routing = kind});
        }
      } else {
        expect_right(config, arch, kernel,
                     {.tokens = tokens, .seed = seed, .routing = kinds[seed % 3]});
        ++seed;
      }
    }
  }
}

// The same layers from packed weights: every activation, layout, dtype and tail.
TEST_P(CpuMoe, PackedMatchesReference) {
  MoeConfig config = GetParam().config;
  config.packed = true;
  std::vector<int64_t> counts = {1, 13, 40};
  if (test_level() >= 2) counts = {0, 1, 2, 7, 8, 12, 25, 64, 129};
  for (const std::string& arch : cpu_archs()) {
    const CpuKernel kernel(config, arch, 2, default_cpu_schedule(config, arch, 2, 5));
    ASSERT_EQ(kernel.error(), "");
    uint64_t seed = 1;
    for (int64_t tokens : counts) {
      const RoutingKind kinds[] = {RoutingKind::kSentinels, RoutingKind::kOneExpert,
                                   RoutingKind::kZipf};
      expect_right(config, arch, kernel,
                   {.tokens = tokens, .seed = seed, .routing = kinds[seed % 3]});
      ++seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Core, CpuMoe, testing::ValuesIn(core_configs()),
                         [](const auto& test) { return test.param.name; });

MoeConfig plain(DType dtype) {
  return {.num_experts = 7,
          .top_k = 3,
          .hidden_size = 72,
          .intermediate_size = 104,
          .dtype = dtype,
          .bias = true,
          .num_shared_experts = 1,
          .router = {}};
}

TEST(CpuMoeRouting, EveryKindAndCount) {
  for (const std::string& arch : cpu_archs()) {
    for (DType dtype : {DType::kBF16, DType::kF32, DType::kF16}) {
      const MoeConfig config = plain(dtype);
      const CpuKernel kernel(config, arch, 3, default_cpu_schedule(config, arch, 3, 8));
      ASSERT_EQ(kernel.error(), "");
      for (RoutingKind kind : all_routings()) {
        // 65 rows of one expert cross the token block.
        for (int64_t tokens : {0, 1, 7, 65}) {
          expect_right(config, arch, kernel, {.tokens = tokens, .seed = 3, .routing = kind});
        }
      }
    }
  }
}

// Long rows: several passes of the down product over I, tails on both axes.
TEST(CpuMoeShapes, LongIntermediate) {
  for (const std::string& arch : cpu_archs()) {
    for (bool packed : {false, true}) {
      const MoeConfig config{.num_experts = 2,
                             .top_k = 1,
                             .hidden_size = 40,
                             .intermediate_size = 9192,  // h of 75 rows is more than half of an L2
                             .packed = packed,
                             .router = {}};
      const CpuKernel kernel(config, arch, 2, default_cpu_schedule(config, arch, 2, 100));
      ASSERT_EQ(kernel.error(), "");
      for (int64_t tokens : {1, 75}) {
        expect_right(config, arch, kernel, {.tokens = tokens, .routing = RoutingKind::kOneExpert});
      }
    }
  }
}

TEST(CpuMoeSchedules, AllLegalOnesAgreeWithReference) {
  for (const std::string& arch : cpu_archs()) {
    for (int form : {0, 1, 2}) {
      MoeConfig config = plain(DType::kBF16);
      config.transposed = form == 1;
      config.packed = form == 2;
      config.hidden_size = 264;
      Problem problem = make_problem(config, {.tokens = 33, .routing = RoutingKind::kZipf});
      const Doubles expected = problem.expected();
      const auto schedules =
          moejit::internal::legal_schedules(config, cpu_device(arch, 2).info().target);
      ASSERT_FALSE(schedules.empty());
      for (size_t i = 0; i < schedules.size(); i += test_level() >= 2 ? 1 : 41) {
        const CpuKernel kernel(config, arch, 2, schedules[i]);
        ASSERT_EQ(kernel.error(), "");
        ASSERT_EQ(kernel.run(&problem), "");
        EXPECT_LE(worst_row_error(problem.result(), expected, config.hidden_size), 1e-2)
            << arch << " " << schedules[i].to_json();
      }
    }
  }
}

std::vector<uint8_t> bytes_of(const Problem& problem) {
  const auto* data = problem.out.as<uint8_t>();
  return {data, data + problem.out.size()};
}

TEST(CpuMoeBits, SameForAnyNumberOfWorkersAndAgain) {
  for (const std::string& arch : cpu_archs()) {
    const MoeConfig config = plain(DType::kBF16);
    const Schedule schedule = default_cpu_schedule(config, arch, 1, 40);
    Problem problem = make_problem(config, {.tokens = 40, .routing = RoutingKind::kZipf});
    std::vector<uint8_t> first;
    for (int threads : {1, 2, 3, 5}) {
      const CpuKernel kernel(config, arch, threads, schedule);
      ASSERT_EQ(kernel.error(), "");
      for (int again = 0; again < 3; ++again) {
        ASSERT_EQ(kernel.run(&problem), "");
        if (first.empty()) first = bytes_of(problem);
        EXPECT_EQ(bytes_of(problem), first) << arch << ", " << threads << " workers";
      }
    }
  }
}

class CpuRouter : public testing::TestWithParam<NamedConfig> {
 protected:
  void SetUp() override {
    if (cpu_archs().empty()) GTEST_SKIP() << "no compiler module";
  }
};

TEST_P(CpuRouter, IdsWeightsAndResult) {
  const MoeConfig& config = GetParam().config;
  const std::string& arch = cpu_archs()[GetParam().name.size() % cpu_archs().size()];
  const CpuKernel kernel(config, arch, 2, default_cpu_schedule(config, arch, 2, 5));
  ASSERT_EQ(kernel.error(), "");
  for (DType logits : {DType::kF32, DType::kBF16, DType::kF16}) {
    Problem problem = make_problem(
        config,
        {.tokens = 19, .seed = 5, .routing = RoutingKind::kFromLogits, .logits_dtype = logits});
    ASSERT_EQ(kernel.run(&problem, /*routed=*/true), "");
    const int32_t* ids = problem.ids.as<int32_t>();
    const float* weights = problem.weights.as<float>();
    for (size_t i = 0; i < problem.reference_ids.size(); ++i) {
      ASSERT_EQ(ids[i], problem.reference_ids[i]) << i;
      ASSERT_NEAR(weights[i], problem.reference_weights[i],
                  2e-6 * std::abs(problem.reference_weights[i]) + 1e-12)
          << i;
    }
    EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
              limit_of(config.dtype));
  }
}

INSTANTIATE_TEST_SUITE_P(All, CpuRouter, testing::ValuesIn(router_configs()),
                         [](const auto& test) { return test.param.name; });

TEST(CpuRouterOrder, TiesAndNans) {
  if (cpu_archs().empty()) GTEST_SKIP() << "no compiler module";
  MoeConfig config = plain(DType::kBF16);
  config.router.scoring = moejit::Scoring::kSigmoid;
  config.router.renormalize = true;
  const float nan = __builtin_nanf("");
  const std::vector<std::vector<float>> rows = {{1, 1, 1, 1, 1, 1, 1},
                                                {0, -0.0f, 0, 5, -0.0f, 0, 0},
                                                {nan, 2, nan, 1, nan, 3, nan},
                                                {nan, nan, nan, -__builtin_inff(), nan, 3, 4},
                                                {-50, -60, -70, -80, 100, 90, 80}};
  const std::vector<std::vector<int32_t>> want = {
      {0, 1, 2}, {3, 0, 1}, {5, 1, 3}, {6, 5, 3}, {4, 5, 6}};
  Problem problem = make_problem(
      config, {.tokens = 5, .routing = RoutingKind::kFromLogits, .poison_unused = false});
  for (size_t t = 0; t < rows.size(); ++t) {
    std::memcpy(problem.logits.as<float>() + t * 7, rows[t].data(), 7 * sizeof(float));
  }
  for (const std::string& arch : cpu_archs()) {
    const CpuKernel kernel(config, arch, 2, default_cpu_schedule(config, arch, 2, 5));
    ASSERT_EQ(kernel.error(), "");
    ASSERT_EQ(kernel.run(&problem, /*routed=*/true), "");
    for (size_t t = 0; t < rows.size(); ++t) {
      for (size_t k = 0; k < 3; ++k)
        EXPECT_EQ(problem.ids.as<int32_t>()[t * 3 + k], want[t][k]) << t;
    }
  }
}

}  // namespace
}  // namespace moejit_test
