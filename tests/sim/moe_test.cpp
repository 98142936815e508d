// Every GPU kernel family on the simulated devices against the float64 reference.
#include <gtest/gtest.h>

#include "tests/sim/moe_runner.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;
using moejit::internal::Family;
using moejit::internal::Schedule;

void expect_right(const SimKernel& kernel, const MoeConfig& config, const ProblemOptions& options,
                  bool routed = false) {
  Problem problem = make_problem(config, options);
  ASSERT_EQ(kernel.run(&problem, routed), "")
      << kernel.name() << ", T = " << options.tokens << ", " << to_string(options.routing);
  EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
            tolerance(config.dtype))
      << kernel.name() << ", T = " << options.tokens << ", " << to_string(options.routing);
}

class SimMoe : public testing::TestWithParam<NamedConfig> {
 protected:
  void SetUp() override {
    if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  }
};

TEST_P(SimMoe, MatchesReference) {
  const MoeConfig& config = GetParam().config;
  std::vector<int64_t> counts = {1, 19};
  if (test_level() >= 2) counts = {1, 2, 5, 8, 19, 70};
  uint64_t seed = 1;
  for (const std::string& arch : sim_archs()) {
    for (const Family* family : gpu_families(config, arch)) {
      for (int64_t tokens : counts) {
        // The text is gfx942's but for the numbers of the device.
        if (arch == "gfx90a" && tokens > 1 && test_level() < 2) continue;
        if (arch == "gfx1100" && tokens == 1 && test_level() < 2) continue;
        const Schedule schedule = family->default_schedule(config, sim_target(arch), tokens);
        const SimKernel kernel(config, arch, *family, schedule);
        ASSERT_EQ(kernel.error(), "");
        const RoutingKind kinds[] = {RoutingKind::kUniform, RoutingKind::kSentinels,
                                     RoutingKind::kZipf};
        expect_right(kernel, config, {.tokens = tokens, .seed = seed, .routing = kinds[seed % 3]});
        ++seed;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Core, SimMoe, testing::ValuesIn(core_configs()),
                         [](const auto& test) { return test.param.name; });

TEST(SimMoeRouting, EveryKind) {
  const MoeConfig config{.num_experts = 7,
                         .top_k = 3,
                         .hidden_size = 136,
                         .intermediate_size = 72,
                         .dtype = DType::kBF16,
                         .bias = true,
                         .num_shared_experts = 1,
                         .router = {}};
  for (const std::string& arch : sim_archs()) {
    for (const Family* family : gpu_families(config, arch)) {
      for (int64_t tokens :
           test_level() >= 2 ? std::vector<int64_t>{1, 6, 33, 80} : std::vector<int64_t>{1, 17}) {
        const SimKernel kernel(config, arch, *family,
                               family->default_schedule(config, sim_target(arch), tokens));
        ASSERT_EQ(kernel.error(), "");
        for (RoutingKind kind : all_routings()) {
          expect_right(kernel, config, {.tokens = tokens, .seed = 3, .routing = kind});
        }
      }
    }
  }
}

// More slots than one block lists in shared memory, and several tiles of one expert.
TEST(SimMoeRouting, ManySlots) {
  const MoeConfig config{.num_experts = 4,
                         .top_k = 2,
                         .hidden_size = 24,
                         .intermediate_size = 16,
                         .dtype = DType::kBF16,
                         .num_shared_experts = 1,
                         .router = {}};
  for (const std::string& arch : sim_archs()) {
    for (const Family* family : gpu_families(config, arch)) {
      const SimKernel kernel(config, arch, *family,
                             family->default_schedule(config, sim_target(arch), 520));
      ASSERT_EQ(kernel.error(), "");
      expect_right(kernel, config, {.tokens = 520, .seed = 2, .routing = RoutingKind::kZipf});
    }
  }
}

// Schedules spread over the legal space; all of it at level 3.
TEST(SimMoeSchedules, AreAllRight) {
  for (const bool transposed : {false, true}) {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      const int32_t step = 16 / moejit::size_of(dtype);
      const MoeConfig config{.num_experts = 5,
                             .top_k = 2,
                             .hidden_size = 25 * step,
                             .intermediate_size = 11 * step,
                             .dtype = dtype,
                             .transposed = transposed,
                             .router = {}};
      for (const std::string& arch : sim_archs()) {
        std::vector<Schedule> legal = gpu_schedules(config, arch);
        const size_t most = test_level() >= 3 ? legal.size() : test_level() == 2 ? 24 : 4;
        const size_t stride = std::max<size_t>(1, legal.size() / most);
        for (size_t i = stride / 2; i < legal.size(); i += stride) {
          const SimKernel kernel(config, arch, *moejit::internal::find_family(legal[i].family),
                                 legal[i]);
          ASSERT_EQ(kernel.error(), "");
          expect_right(kernel, config, {.tokens = 5, .seed = i + 1});
        }
      }
    }
  }
}

class SimRouter : public testing::TestWithParam<NamedConfig> {};

TEST_P(SimRouter, RoutedLaunch) {
  const MoeConfig& config = GetParam().config;
  for (const std::string& arch : sim_archs()) {
    const auto families = gpu_families(config, arch);
    if (families.empty()) continue;
    const SimKernel kernel(config, arch, *families[0],
                           families[0]->default_schedule(config, sim_target(arch), 5));
    ASSERT_EQ(kernel.error(), "");
    Problem problem =
        make_problem(config, {.tokens = 5, .seed = 4, .routing = RoutingKind::kFromLogits});
    ASSERT_EQ(kernel.run(&problem, true), "") << kernel.name();
    for (size_t i = 0; i < problem.reference_ids.size(); ++i) {
      ASSERT_EQ(problem.ids.as<int32_t>()[i], problem.reference_ids[i]) << i;
      ASSERT_NEAR(problem.weights.as<float>()[i], problem.reference_weights[i], 1e-5) << i;
    }
    EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
              tolerance(config.dtype));
  }
}

std::vector<NamedConfig> some_routers() {
  const auto& all = router_configs();
  std::vector<NamedConfig> some;
  const size_t stride = test_level() >= 2 ? 1 : std::max<size_t>(1, all.size() / 12);
  for (size_t i = 0; i < all.size(); i += stride) some.push_back(all[i]);
  return some;
}
INSTANTIATE_TEST_SUITE_P(Routers, SimRouter, testing::ValuesIn(some_routers()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace moejit_test
