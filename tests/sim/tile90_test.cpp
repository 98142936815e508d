// The forms of cuda_tile90 that few tokens do not reach: clusters that share weights, ranges of the
// reduction, 16-bit partial results, last row tiles of an expert that only one warpgroup has.
#include <gtest/gtest.h>

#include "tests/sim/moe_runner.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;
using moejit::internal::Family;
using moejit::internal::Schedule;

struct Form {
  const char* name;
  int hidden, intermediate;
  int64_t tokens;
  std::map<std::string, int32_t> params;
  bool transposed = false;
  DType dtype = DType::kBF16;
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

Schedule schedule_of(const Form& form) {
  Schedule schedule{.family = "cuda_tile90",
                    .params = {{"tile_m", 128},
                               {"tile_n", 256},
                               {"stages", 4},
                               {"raster", 4},
                               {"blocks", 1},
                               {"cluster", 1},
                               {"split", 1},
                               {"partial", 32}}};
  for (const auto& [name, value] : form.params) schedule.params[name] = value;
  return schedule;
}

class SimTile90 : public testing::TestWithParam<Form> {};

TEST_P(SimTile90, MatchesReference) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const Form& form = GetParam();
  const MoeConfig config{.num_experts = 3,
                         .top_k = 2,
                         .hidden_size = form.hidden,
                         .intermediate_size = form.intermediate,
                         .dtype = form.dtype,
                         .bias = true,
                         .transposed = form.transposed,
                         .router = {}};
  const Family* family = moejit::internal::find_family("cuda_tile90");
  const Schedule schedule = schedule_of(form);
  const auto reason = family->why_not(config, sim_target("sm_90a"), schedule);
  ASSERT_FALSE(reason) << *reason;
  const SimKernel kernel(config, "sm_90a", *family, schedule);
  ASSERT_EQ(kernel.error(), "");
  for (RoutingKind kind : {RoutingKind::kUniform, RoutingKind::kZipf, RoutingKind::kSentinels}) {
    Problem problem = make_problem(config, {.tokens = form.tokens, .seed = 7, .routing = kind});
    ASSERT_EQ(kernel.run(&problem, false), "") << to_string(kind);
    EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
              tolerance(config.dtype))
        << to_string(kind);
    if (moejit_test::test_level() < 2 && kind == RoutingKind::kZipf) break;
  }
}

const Form kForms[] = {
    {"Plain", 320, 200, 230, {}},
    {"Cluster", 320, 200, 230, {{"cluster", 2}}},
    {"ClusterOddColumns", 256, 136, 300, {{"cluster", 2}, {"partial", 16}}},
    {"ClusterOneTile", 520, 264, 40, {{"cluster", 2}}},
    {"Transposed", 328, 136, 200, {}, true},
    {"ClusterF16", 264, 72, 200, {{"cluster", 2}}, false, DType::kF16},
    {"Partial16", 328, 136, 200, {{"partial", 16}}},
    {"Split", 136, 1056, 150, {{"split", 2}, {"cluster", 2}}},
    {"SplitSmallTiles",
     136,
     2056,
     20,
     {{"split", 4}, {"tile_m", 64}, {"tile_n", 128}, {"stages", 8}}},
};

INSTANTIATE_TEST_SUITE_P(Forms, SimTile90, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit_test
