// Up to 128 tokens take three launches of cuda_tile90: the plan routes them, and down adds up what
// is complete. More take the entries of their own.
#include <gtest/gtest.h>

#include "backends/sim/sim_module.h"
#include "tests/sim/moe_runner.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;
using moejit::internal::Entry;
using moejit::internal::Family;
using moejit::internal::Schedule;
using moejit::internal::When;

const Family& family() {
  return *moejit::internal::find_family("cuda_tile90");
}

struct Form {
  const char* name;
  std::map<std::string, int32_t> params;
  DType dtype = DType::kBF16;
  int shared_experts = 0;
  int n_group = 1;
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

MoeConfig config_of(const Form& form) {
  return {.num_experts = 8,
          .top_k = 3,
          .hidden_size = 264,
          .intermediate_size = 136,
          .dtype = form.dtype,
          .bias = true,
          .num_shared_experts = form.shared_experts,
          .router = {.correction_bias = form.n_group > 1,
                     .n_group = form.n_group,
                     .topk_group = form.n_group > 1 ? form.n_group / 2 : 1,
                     .renormalize = true}};
}

Schedule schedule_of(const Form& form) {
  Schedule schedule{.family = "cuda_tile90",
                    .params = {{"swap", 2},
                               {"tile_m", 64},
                               {"tile_n", 128},
                               {"stages", 8},
                               {"raster", 4},
                               {"blocks", 1},
                               {"cluster", 1},
                               {"split", 1},
                               {"partial", 32}}};
  for (const auto& [name, value] : form.params) schedule.params[name] = value;
  return schedule;
}

class SimTile90Few : public testing::TestWithParam<Form> {};

TEST_P(SimTile90Few, MatchesReference) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const MoeConfig config = config_of(GetParam());
  const Schedule schedule = schedule_of(GetParam());
  const auto reason = family().why_not(config, sim_target("sm_90a"), schedule);
  ASSERT_FALSE(reason) << *reason;
  const SimKernel kernel(config, "sm_90a", family(), schedule);
  ASSERT_EQ(kernel.error(), "");
  for (const int64_t tokens : {1, 45, 128, 129}) {
    for (const RoutingKind kind : {RoutingKind::kFromLogits, RoutingKind::kSentinels,
                                   RoutingKind::kNone, RoutingKind::kDuplicates}) {
      if (tokens > 45 && kind > RoutingKind::kSentinels && kind != RoutingKind::kFromLogits)
        continue;
      SCOPED_TRACE(std::to_string(tokens) + " tokens, " + to_string(kind));
      Problem problem = make_problem(config, {.tokens = tokens, .seed = 3, .routing = kind});
      ASSERT_EQ(kernel.run(&problem, kind == RoutingKind::kFromLogits), "");
      if (kind == RoutingKind::kFromLogits) {
        for (size_t i = 0; i < problem.reference_ids.size(); ++i) {
          ASSERT_EQ(problem.ids.as<int32_t>()[i], problem.reference_ids[i]) << i;
          ASSERT_NEAR(problem.weights.as<float>()[i], problem.reference_weights[i], 1e-5) << i;
        }
      }
      EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
                tolerance(config.dtype));
    }
  }
}

const Form kForms[] = {
    {"Narrow", {}},
    {"Turns", {{"tile_m", 160}, {"stages", 6}, {"partial", 16}}, DType::kBF16, 1},
    {"Straight", {{"swap", 0}, {"tile_m", 128}, {"tile_n", 256}, {"stages", 4}, {"cluster", 2}}},
    {"WideF16Groups", {{"tile_m", 128}, {"tile_n", 256}, {"stages", 4}}, DType::kF16, 0, 4},
};

INSTANTIATE_TEST_SUITE_P(Forms, SimTile90Few, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Tile90Few, ThreeLaunchesOfDecode) {
  const MoeConfig config = config_of({.name = ""});
  const moejit::internal::Target target = sim_target("sm_90a");
  const auto source = family().emit(config, target, family().default_schedule(config, target, 64));
  const auto launches = [&](int64_t tokens, bool routed) {
    int count = 0;
    for (const Entry& entry : source.entries) {
      if (tokens < entry.min_tokens || tokens > entry.max_tokens) continue;
      if (entry.when == When::kAlways || (entry.when == When::kRouted) == routed) ++count;
    }
    return count;
  };
  EXPECT_EQ(launches(1, true), 3);
  EXPECT_EQ(launches(128, true), 3);
  EXPECT_EQ(launches(128, false), 3);
  EXPECT_EQ(launches(129, true), 5);
  EXPECT_EQ(launches(129, false), 4);
}

}  // namespace
}  // namespace moejit_test
