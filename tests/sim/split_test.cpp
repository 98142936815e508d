// Blocks that share a reduction (hip_tile's split and split_gate): right, the same bits from run to
// run, and without a barrier found broken.
#include <gtest/gtest.h>

#include "tests/sim/moe_runner.h"

namespace moejit_test {
namespace {

using moejit::Activation;
using moejit::DType;
using moejit::MoeConfig;
using moejit::internal::find_family;
using moejit::internal::Schedule;

Schedule split_schedule(const MoeConfig& config, const std::string& arch, int tokens, int split,
                        int split_gate) {
  Schedule schedule = find_family("hip_tile")->default_schedule(config, sim_target(arch), tokens);
  schedule.params["split"] = split;
  schedule.params["split_gate"] = split_gate;
  return schedule;
}

// Six and five stages of a reduction, the last of them short.
MoeConfig layer() {
  return {.num_experts = 5,
          .top_k = 2,
          .hidden_size = 328,
          .intermediate_size = 264,
          .dtype = DType::kBF16,
          .router = {}};
}

class SimSplit : public testing::TestWithParam<NamedConfig> {};

TEST_P(SimSplit, MatchesReferenceBitForBitTwice) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const MoeConfig& config = GetParam().config;
  struct Cut {
    const char* arch;
    int tokens, split, split_gate;
  };
  for (const Cut& cut :
       {Cut{"gfx942", 9, 2, 2}, Cut{"gfx1100", 40, 2, 1}, Cut{"gfx1100", 9, 1, 2}}) {
    const Schedule schedule =
        split_schedule(config, cut.arch, cut.tokens, cut.split, cut.split_gate);
    const SimKernel kernel(config, cut.arch, *find_family("hip_tile"), schedule);
    ASSERT_EQ(kernel.error(), "");
    Doubles first;
    for (int turn = 0; turn < 2; ++turn) {
      Problem problem = make_problem(
          config, {.tokens = cut.tokens, .seed = 9, .routing = RoutingKind::kSentinels});
      ASSERT_EQ(kernel.run(&problem, false), "") << kernel.name();
      EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
                tolerance(config.dtype))
          << kernel.name();
      if (turn == 0) first = problem.result();
      EXPECT_EQ(problem.result(), first) << kernel.name();
    }
  }
}

std::vector<NamedConfig> configs() {
  std::vector<NamedConfig> all = {{"plain", layer()}};
  const auto add = [&](const char* name, auto change) {
    MoeConfig c = layer();
    change(c);
    all.push_back({name, c});
  };
  add("bias", [](MoeConfig& c) { c.bias = true; });
  add("interleaved_up_first", [](MoeConfig& c) {
    c.interleaved = c.up_first = c.bias = true;
    c.activation = Activation::kSwigluOai;
  });
  add("ungated_f32", [](MoeConfig& c) {
    c.gated = false;
    c.dtype = DType::kF32;
    c.activation = Activation::kRelu2;
  });
  add("transposed_f16", [](MoeConfig& c) {
    c.transposed = true;
    c.dtype = DType::kF16;
  });
  add("shared_weight_on_input", [](MoeConfig& c) {
    c.num_shared_experts = 1;
    c.weight_on_input = c.bias = true;
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Layers, SimSplit, testing::ValuesIn(configs()),
                         [](const auto& test) { return test.param.name; });

TEST(SimSplitRules, TooShortAReductionIsRefused) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const MoeConfig config = layer();
  const auto why = [&](int split, int split_gate) {
    return find_family("hip_tile")
        ->why_not(config, sim_target("gfx942"),
                  split_schedule(config, "gfx942", 9, split, split_gate))
        .value_or("");
  };
  EXPECT_EQ(why(2, 2), "");
  EXPECT_NE(why(4, 1).find("split = 4: the 5 stages"), std::string::npos) << why(4, 1);
  EXPECT_NE(why(1, 4).find("split_gate = 4: the 6 stages"), std::string::npos) << why(1, 4);
}

}  // namespace
}  // namespace moejit_test
