// The persistent form of cuda_stream. In the simulator's early run the first block finds nobody
// else started and takes every share of the first product; in the late run each takes one.
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
  RoutingKind routing;
  int shared = 0;
  int fused = 1;
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

class SimStreamFused : public testing::TestWithParam<Form> {};

TEST_P(SimStreamFused, MatchesReference) {
  const Form& form = GetParam();
  const MoeConfig config{.num_experts = 7,
                         .top_k = 3,
                         .hidden_size = form.hidden,
                         .intermediate_size = form.intermediate,
                         .dtype = DType::kBF16,
                         .bias = true,
                         .num_shared_experts = form.shared,
                         .router = {}};
  const Family* family = moejit::internal::find_family("cuda_stream");
  const Schedule schedule{.family = "cuda_stream",
                          .params = {{"warps", 8},
                                     {"tile_m", 1},
                                     {"tile_n", 1},
                                     {"stages", 3},
                                     {"blocks", 2},
                                     {"fused", form.fused}}};
  for (const std::string arch : {"sm_80", "sm_90a"}) {
    if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
    const auto reason = family->why_not(config, sim_target(arch), schedule);
    ASSERT_FALSE(reason) << *reason;
    const SimKernel kernel(config, arch, *family, schedule);
    ASSERT_EQ(kernel.error(), "");
    Problem problem =
        make_problem(config, {.tokens = form.tokens, .seed = 7, .routing = form.routing});
    const bool routed = form.routing == RoutingKind::kFromLogits;
    ASSERT_EQ(kernel.run(&problem, routed), "");
    EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
              tolerance(config.dtype));
  }
}

const Form kForms[] = {
    {"OneToken", 264, 200, 1, RoutingKind::kUniform},
    {"Routed", 264, 136, 3, RoutingKind::kFromLogits},
    {"ManyRows", 200, 72, 60, RoutingKind::kZipf},
    {"Sentinels", 136, 400, 9, RoutingKind::kSentinels},
    {"SharedExperts", 72, 136, 4, RoutingKind::kUniform, 2},
    {"OneTokenRouted", 136, 264, 1, RoutingKind::kFromLogits, 1},
    {"OneTokenAnExpertTwice", 136, 136, 1, RoutingKind::kDuplicates},
    {"OneTokenSentinels", 136, 136, 1, RoutingKind::kSentinels, 1},
    {"EightTokens", 264, 136, 8, RoutingKind::kZipf, 1},
    {"AnExpertTwice", 136, 136, 6, RoutingKind::kDuplicates},
    {"TooManyForOneLaunch", 136, 136, 9, RoutingKind::kZipf, 1},
    {"FewSentinels", 136, 400, 5, RoutingKind::kSentinels},
    {"TwoLaunchesRouted", 264, 264, 5, RoutingKind::kFromLogits, 1, 0},
    {"TwoLaunches", 136, 72, 11, RoutingKind::kZipf, 0, 0},
};

INSTANTIATE_TEST_SUITE_P(Forms, SimStreamFused, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit_test
