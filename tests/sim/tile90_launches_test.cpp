// cuda_tile90 in three launches: the plan routes, and down adds up. The sums are those of the five
// launches, bit by bit.
#include <gtest/gtest.h>

#include <cstring>

#include "tests/sim/moe_runner.h"
#include "tuner/roofline.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;
using moejit::internal::find_family;
using moejit::internal::KernelSource;
using moejit::internal::Schedule;

struct Form {
  const char* name;
  int64_t tokens;
  MoeConfig config;
  std::map<std::string, int32_t> params = {};
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

Schedule schedule_of(const Form& form, int32_t launches) {
  Schedule schedule{.family = "cuda_tile90",
                    .params = {{"swap", 2},
                               {"tile_m", 64},
                               {"tile_n", 128},
                               {"stages", 8},
                               {"raster", 4},
                               {"blocks", 1},
                               {"cluster", 1},
                               {"split", 1},
                               {"partial", 32},
                               {"launches", launches}}};
  for (const auto& [name, value] : form.params) schedule.params[name] = value;
  return schedule;
}

KernelSource source_of(const Form& form, int32_t launches) {
  const auto* family = find_family("cuda_tile90");
  const Schedule schedule = schedule_of(form, launches);
  EXPECT_EQ(family->why_not(form.config, sim_target("sm_90a"), schedule).value_or(""), "");
  return family->emit(form.config, sim_target("sm_90a"), schedule);
}

class SimTile90Launches : public testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  }
};

void expect_same(const SimKernel& three, const SimKernel& five, const Form& form,
                 RoutingKind routing) {
  const bool routed = routing == RoutingKind::kFromLogits;
  const ProblemOptions options = {.tokens = form.tokens, .seed = 21, .routing = routing};
  Problem one = make_problem(form.config, options), other = make_problem(form.config, options);
  ASSERT_EQ(three.run(&one, routed), "") << to_string(routing);
  ASSERT_EQ(five.run(&other, routed), "") << to_string(routing);
  EXPECT_LE(worst_row_error(one.result(), one.expected(), form.config.hidden_size),
            tolerance(form.config.dtype))
      << to_string(routing);
  EXPECT_EQ(std::memcmp(one.out.data(), other.out.data(), one.out.size()), 0) << to_string(routing);
  EXPECT_EQ(std::memcmp(one.ids.data(), other.ids.data(), one.ids.size()), 0);
  EXPECT_EQ(std::memcmp(one.weights.data(), other.weights.data(), one.weights.size()), 0);
}

TEST_P(SimTile90Launches, ThreeAreFive) {
  const Form& form = GetParam();
  const KernelSource source = source_of(form, 3);
  ASSERT_EQ(source.entries.size(), 3);
  const SimKernel three("sm_90a", source), five("sm_90a", source_of(form, 5));
  ASSERT_EQ(three.error() + five.error(), "");
  for (const RoutingKind routing : {RoutingKind::kUniform, RoutingKind::kSentinels,
                                    RoutingKind::kNone, RoutingKind::kFromLogits})
    expect_same(three, five, form, routing);
}

MoeConfig layer(int32_t experts, int32_t top_k, int32_t hidden, int32_t intermediate) {
  return {.num_experts = experts,
          .top_k = top_k,
          .hidden_size = hidden,
          .intermediate_size = intermediate,
          .dtype = DType::kBF16,
          .router = {}};
}
MoeConfig rich(MoeConfig config) {
  config.dtype = DType::kF16;
  config.bias = true;
  config.num_shared_experts = 2;
  config.router = {.correction_bias = true, .n_group = 4, .topk_group = 2};
  return config;
}

const Form kForms[] = {
    {"Wide", 40, layer(3, 2, 264, 136), {{"tile_n", 256}, {"stages", 5}, {"partial", 16}}},
    {"Narrow", 30, layer(6, 4, 264, 72), {{"partial", 16}}},
    {"OneToken", 1, layer(6, 2, 136, 72)},
    {"TwoBlocks", 9, rich(layer(8, 3, 200, 136)), {{"tile_m", 16}, {"stages", 5}, {"blocks", 2}}},
    // More slots than a thread has loads under way.
    {"ManySlots", 12, rich(layer(24, 9, 72, 72)), {{"tile_m", 16}}},
    {"MostSlots", 3, layer(40, 32, 72, 16), {{"tile_m", 16}}},
    // More tokens than the plan has warps.
    {"ManyTokens", 260, layer(4, 1, 24, 16)},
};

INSTANTIATE_TEST_SUITE_P(Forms, SimTile90Launches, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

// More blocks than can run at a time: those that finish before all have started leave, and do not
// wait for those that cannot start before.
TEST(SimTile90LaunchesLate, EarlyBlocksLeave) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const Form& form = kForms[1];
  KernelSource source = source_of(form, 3);
  source.entries.back().grid.per_unit_cap *= 3;
  const SimKernel three("sm_90a", source), five("sm_90a", source_of(form, 5));
  ASSERT_EQ(three.error() + five.error(), "");
  expect_same(three, five, form, RoutingKind::kSentinels);
}

TEST(SimTile90LaunchesRules, NameTheParameter) {
  const auto* family = find_family("cuda_tile90");
  const MoeConfig config = layer(8, 2, 128, 1024);
  const auto refused = [&](const MoeConfig& of, std::map<std::string, int32_t> params) {
    return family->why_not(of, sim_target("sm_90a"), schedule_of({"", 1, of, params}, 3))
        .value_or("legal");
  };
  EXPECT_EQ(refused(config, {}), "legal");
  for (const auto& params :
       std::vector<std::map<std::string, int32_t>>{{{"tile_m", 128}, {"stages", 6}},
                                                   {{"tile_n", 256}, {"stages", 5}, {"cluster", 2}},
                                                   {{"split", 2}}}) {
    EXPECT_NE(refused(config, params).find("launches = 3"), std::string::npos)
        << refused(config, params);
  }
  EXPECT_EQ(refused(layer(64, 32, 128, 1024), {}), "legal");
  EXPECT_EQ(refused(layer(256, 8, 128, 1024), {}), "legal");
  EXPECT_NE(refused(layer(257, 8, 128, 1024), {}).find("launches = 3"), std::string::npos);
  MoeConfig many = layer(64, 32, 128, 1024);
  many.num_shared_experts = 1;
  EXPECT_NE(refused(many, {}).find("launches = 3"), std::string::npos) << refused(many, {});
}

TEST(SimTile90LaunchesRules, DefaultsAreLegal) {
  const auto* family = find_family("cuda_tile90");
  MoeConfig many = layer(64, 32, 128, 1024), transposed = layer(8, 2, 128, 1024);
  many.num_shared_experts = 1;
  transposed.transposed = true;
  MoeConfig half = layer(8, 2, 128, 1024);
  half.dtype = DType::kF16;
  const struct {
    MoeConfig config;
    int64_t most_tokens;  // in three launches
  } kLayers[] = {{layer(8, 2, 128, 1024), 128},
                 {half, 128},
                 {layer(64, 32, 128, 1024), 64},
                 {layer(4, 2, 128, 1024), 64},
                 {layer(257, 8, 128, 1024), 0},
                 {many, 0},
                 {transposed, 0}};
  for (const auto& of : kLayers) {
    for (const int64_t tokens : {1, 33, 64, 128, 129, 4096}) {
      const Schedule usual = family->default_schedule(of.config, sim_target("sm_90a"), tokens);
      EXPECT_EQ(family->why_not(of.config, sim_target("sm_90a"), usual).value_or(""), "");
      EXPECT_EQ(usual.at("launches"), tokens <= of.most_tokens ? 3 : 5) << usual.to_json();
    }
  }
}

// By rates of an H200: where step 39 of docs/performance_gpu_steps.md timed three ahead, and five.
TEST(SimTile90LaunchesRules, TheModelKnowsWhereTheyPay) {
  const moejit::DeviceLimits limits{.read_bytes_per_s = 4.66e12,
                                    .dot_flops_per_s = 9e14,
                                    .vector_flops_per_s = 3e13,
                                    .l2_bytes_per_s = 9.2e12,
                                    .launch_s = 3.6e-6,
                                    .measured = true};
  const MoeConfig qwen = layer(128, 8, 2048, 768);
  moejit::internal::Target target = sim_target("sm_90a");
  target.num_units = 132;
  for (const int64_t tokens : {16, 64, 128, 256, 512}) {
    const moejit::internal::RowCounts rows(128, tokens / 16);
    const auto seconds = [&](int32_t launches) {
      return predict_seconds(qwen, target, schedule_of({"", 1, qwen, {{"partial", 16}}}, launches),
                             limits, {rows});
    };
    EXPECT_EQ(seconds(3) < seconds(5), tokens <= 128) << tokens;
  }
}

}  // namespace
}  // namespace moejit_test
