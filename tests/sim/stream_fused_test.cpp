// The persistent form of cuda_stream. In the simulator's early run the first block finds nobody
// else started and takes every share of the first product; in the late run each takes one.
#include <gtest/gtest.h>

#include <cstring>

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
  int top_k = 3;
  int warps = 8;  // of a block; 16 on a unit
  int experts = 7;
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

class SimStreamFused : public testing::TestWithParam<Form> {};

TEST_P(SimStreamFused, MatchesReference) {
  const Form& form = GetParam();
  const MoeConfig config{.num_experts = form.experts,
                         .top_k = form.top_k,
                         .hidden_size = form.hidden,
                         .intermediate_size = form.intermediate,
                         .dtype = DType::kBF16,
                         .bias = true,
                         .num_shared_experts = form.shared,
                         .router = {}};
  const Family* family = moejit::internal::find_family("cuda_stream");
  const Schedule schedule{.family = "cuda_stream",
                          .params = {{"warps", form.warps},
                                     {"tile_m", 1},
                                     {"tile_n", 1},
                                     {"stages", 3},
                                     {"blocks", 16 / form.warps},
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
    // h of a warp in more than one load of a lane, and in more than one batch of them.
    {"OneTokenLong", 72, 1544, 1, RoutingKind::kUniform},
    {"OneTokenLonger", 8, 16648, 1, RoutingKind::kUniform, 0, 1, 2, 16},
    {"OneTokenRouted", 136, 264, 1, RoutingKind::kFromLogits, 1},
    {"OneTokenAnExpertTwice", 136, 136, 1, RoutingKind::kDuplicates},
    {"OneTokenSentinels", 136, 136, 1, RoutingKind::kSentinels, 1},
    {"EightTokens", 264, 136, 8, RoutingKind::kZipf, 1},
    {"AnExpertTwice", 136, 136, 6, RoutingKind::kDuplicates},
    // x of a warp in registers: two stages, of some warps one; as many as have room; one more.
    {"TwoStagesOfX", 712, 72, 7, RoutingKind::kZipf},
    {"SixStagesOfX", 3072, 24, 2, RoutingKind::kUniform},
    {"SevenStagesOfX", 3080, 24, 3, RoutingKind::kUniform},
    // More stages of an expert's h than warps: a warp's next one may be of the same expert.
    {"LongHidden", 72, 776, 5, RoutingKind::kZipf},
    {"SixteenWarps", 1096, 136, 8, RoutingKind::kZipf, 1, 1, 3, 16},
    {"ManyExperts", 72, 24, 8, RoutingKind::kUniform, 1, 1, 5, 16, 300},
    {"ManyExpertsRouted", 72, 24, 5, RoutingKind::kFromLogits, 0, 1, 5, 16, 257},
    // More slots of a token than lanes.
    {"ManySlots", 72, 72, 3, RoutingKind::kDuplicates, 30, 1, 7},
    {"ManySlotsRouted", 72, 72, 2, RoutingKind::kFromLogits, 30, 1, 7},
    {"ManySlotsOneToken", 72, 72, 1, RoutingKind::kSentinels, 30, 1, 7},
    {"TooManyForOneLaunch", 136, 136, 9, RoutingKind::kZipf, 1},
    {"FewSentinels", 136, 400, 5, RoutingKind::kSentinels},
    {"TwoLaunchesRouted", 264, 264, 5, RoutingKind::kFromLogits, 1, 0},
    {"TwoLaunches", 136, 72, 11, RoutingKind::kZipf, 0, 0},
};

// The words by which the blocks of a launch meet are what the next launch finds: a count too many
// would keep it waiting for ever.
TEST(SimStreamFusedMeeting, LaunchesLeaveTheWordsAsTheyWere) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  constexpr uint64_t kIdle = 0x6d0a71c5e8b24b93;  // of stream_meeting.h
  const MoeConfig config{
      .num_experts = 7, .top_k = 3, .hidden_size = 136, .intermediate_size = 264, .router = {}};
  const Family* family = moejit::internal::find_family("cuda_stream");
  const Schedule schedule{
      .family = "cuda_stream",
      .params = {
          {"warps", 8}, {"tile_m", 1}, {"tile_n", 1}, {"stages", 3}, {"blocks", 2}, {"fused", 1}}};
  const auto source = family->emit(config, sim_target("sm_90a"), schedule);
  size_t meeting = 0;
  while (meeting < source.workspace.size() && source.workspace[meeting].name != "meeting")
    ++meeting;
  ASSERT_LT(meeting, source.workspace.size());
  const auto& device = **moejit::internal::sim_backend()->open("sm_90a");
  const auto binary = device.compile(source);
  ASSERT_TRUE(binary.ok()) << binary.status().log();
  const auto module = device.load(*binary, source);
  ASSERT_TRUE(module.ok()) << module.status().to_string();
  const int64_t bytes = workspace_offset(source.workspace, source.workspace.size(), 4);
  GuardedBuffer workspace(static_cast<size_t>(bytes), 256);
  std::memset(workspace.data(), 0x5a, static_cast<size_t>(bytes));
  for (const int64_t tokens : {4, 1, 3}) {
    Problem p = make_problem(config, {.tokens = tokens, .seed = 7});
    p.out.fill_nan();
    const moejit_abi::MoeArgs args{.x = p.x.data(),
                                   .w13 = p.w13.data(),
                                   .w2 = p.w2.data(),
                                   .topk_ids = p.ids.as<int>(),
                                   .topk_weights = p.weights.as<float>(),
                                   .out = p.out.data(),
                                   .workspace = workspace.data(),
                                   .num_tokens = tokens};
    const auto status = (*module)->launch(args, nullptr);
    ASSERT_TRUE(status.ok()) << status.to_string();
    EXPECT_LE(worst_row_error(p.result(), p.expected(), config.hidden_size),
              tolerance(config.dtype));
    for (const int64_t word : {0, 128}) {
      uint64_t found = 0;
      std::memcpy(&found,
                  static_cast<const uint8_t*>(workspace.data()) +
                      workspace_offset(source.workspace, meeting, tokens) + word,
                  sizeof found);
      EXPECT_EQ(found, kIdle) << "byte " << word << " after " << tokens << " tokens";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, SimStreamFused, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit_test
