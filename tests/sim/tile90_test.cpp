// The forms of cuda_tile90 that few tokens do not reach: clusters that share weights, ranges of the
// reduction, 16-bit partial results, last row tiles of an expert that only one warpgroup has, and
// every layout of gate and up in each form of the product.
#include <gtest/gtest.h>

#include "backends/sim/sim_module.h"
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
  int swap = 0;
  bool gated = true;
  bool weight_on_input = false;
  bool interleaved = false;
  bool up_first = false;
  int experts = 3;
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

Schedule schedule_of(const Form& form) {
  Schedule schedule{.family = "cuda_tile90",
                    .params = {{"swap", form.swap},
                               {"tile_m", 128},
                               {"tile_n", 256},
                               {"stages", 4},
                               {"raster", 4},
                               {"blocks", 1},
                               {"cluster", 1},
                               {"split", 1},
                               {"partial", 32},
                               {"launches", 5}}};
  for (const auto& [name, value] : form.params) schedule.params[name] = value;
  return schedule;
}

MoeConfig config_of(const Form& form) {
  return {.num_experts = form.experts,
          .top_k = 2,
          .hidden_size = form.hidden,
          .intermediate_size = form.intermediate,
          .dtype = form.dtype,
          .activation = form.gated ? moejit::Activation::kSilu : moejit::Activation::kRelu2,
          .gated = form.gated,
          .bias = true,
          .transposed = form.transposed,
          .interleaved = form.interleaved,
          .up_first = form.up_first,
          .weight_on_input = form.weight_on_input,
          .router = {}};
}

class SimTile90 : public testing::TestWithParam<Form> {};

TEST_P(SimTile90, MatchesReference) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const Form& form = GetParam();
  const MoeConfig config = config_of(form);
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
    {"ClusterOddRows", 136, 136, 420, {{"cluster", 2}}},
    {"ClusterOneTile", 520, 264, 40, {{"cluster", 2}}},
    {"Transposed", 328, 136, 200, {}, true},
    {"ClusterF16", 264, 72, 200, {{"cluster", 2}}, false, DType::kF16},
    {"Partial16", 328, 136, 200, {{"partial", 16}}},
    {"Interleaved", 328, 200, 130, {{"cluster", 2}}, false, DType::kBF16, 0, true, false, true},
    {"InterleavedTransposed",
     200,
     328,
     130,
     {{"tile_m", 64}, {"tile_n", 128}, {"stages", 8}},
     true,
     DType::kF16,
     0,
     true,
     true,
     true,
     true},
    {"NotGated", 264, 328, 90, {}, false, DType::kBF16, 0, false},
    {"WeightOnInput", 200, 136, 130, {}, false, DType::kBF16, 0, true, true},
    {"UpFirst", 136, 200, 130, {}, false, DType::kBF16, 0, true, false, false, true},
    {"Split", 136, 1056, 150, {{"split", 2}, {"cluster", 2}}},
    {"SplitSmallTiles",
     136,
     2056,
     20,
     {{"split", 4}, {"tile_m", 64}, {"tile_n", 128}, {"stages", 8}},
     true},
};

const Form kSwapped[] = {
    {"Plain", 328, 200, 230, {}, false, DType::kBF16, 2},
    {"Cluster", 328, 200, 230, {{"cluster", 2}}, false, DType::kBF16, 2},
    {"ClusterOddColumns", 256, 136, 300, {{"cluster", 2}, {"partial", 16}}, false, DType::kBF16, 2},
    {"ClusterSmallTiles",
     520,
     264,
     70,
     {{"cluster", 2}, {"tile_m", 64}, {"stages", 5}},
     false,
     DType::kBF16,
     2},
    {"ClusterTwoGroupsOddRows",
     136,
     136,
     620,
     {{"cluster", 2}, {"tile_m", 64}, {"stages", 5}},
     false,
     DType::kBF16,
     2},
    {"FewRows", 264, 136, 9, {{"tile_m", 16}, {"stages", 6}}, false, DType::kBF16, 2},
    {"FewRowsF16", 200, 72, 40, {{"tile_m", 32}, {"stages", 6}}, false, DType::kF16, 2},
    {"Partial16", 328, 136, 200, {{"partial", 16}}, false, DType::kBF16, 2},
    {"Narrow",
     200,
     136,
     50,
     {{"tile_m", 64}, {"tile_n", 128}, {"stages", 4}, {"blocks", 2}},
     false,
     DType::kBF16,
     2},
    {"NotGated", 264, 328, 90, {{"tile_m", 64}, {"stages", 5}}, false, DType::kBF16, 2, false},
    {"WeightOnInput", 200, 136, 130, {{"partial", 16}}, false, DType::kBF16, 2, true, true},
    {"Interleaved", 328, 136, 130, {{"partial", 16}}, false, DType::kBF16, 2, true, false, true},
    {"InterleavedUpFirst",
     136,
     328,
     70,
     {{"cluster", 2}},
     false,
     DType::kBF16,
     2,
     true,
     false,
     true,
     true},
    {"First", 328, 136, 230, {{"cluster", 2}, {"partial", 16}}, false, DType::kBF16, 1},
    {"UpFirst",
     136,
     72,
     30,
     {{"tile_m", 32}, {"stages", 6}},
     false,
     DType::kBF16,
     2,
     true,
     false,
     false,
     true},
    {"Split", 264, 1056, 150, {{"split", 2}, {"cluster", 2}}, false, DType::kBF16, 2},
    {"ManyRows", 264, 136, 330, {{"tile_m", 160}, {"partial", 16}}, false, DType::kBF16, 2},
    {.name = "Turns",
     .hidden = 648,
     .intermediate = 200,
     .tokens = 330,
     .params = {{"tile_m", 160}, {"tile_n", 128}, {"stages", 6}, {"partial", 16}},
     .swap = 2},
    {.name = "TurnsInterleavedUpFirst",
     .hidden = 200,
     .intermediate = 328,
     .tokens = 170,
     .params = {{"tile_m", 160}, {"tile_n", 128}, {"stages", 6}},
     .swap = 2,
     .interleaved = true,
     .up_first = true},
    {.name = "TurnsOneStep",
     .hidden = 64,
     .intermediate = 64,
     .tokens = 500,
     .params = {{"tile_n", 128}, {"stages", 6}},
     .dtype = DType::kF16,
     .swap = 2,
     .gated = false},
    {.name = "TurnsMoreStepsThanTwoRings",
     .hidden = 904,
     .intermediate = 904,
     .tokens = 40,
     .params = {{"tile_m", 160}, {"tile_n", 128}, {"stages", 6}},
     .swap = 2,
     .weight_on_input = true},
    // 65 words of counts: in regions of 256 bytes a word too few would not be there.
    {.name = "ManyExperts",
     .hidden = 72,
     .intermediate = 72,
     .tokens = 40,
     .params = {{"tile_m", 16}, {"tile_n", 128}, {"stages", 8}},
     .swap = 2,
     .experts = 61},
    // Products of 24 blocks of 64 and more, whose weights tiles of few rows ask for by pairs; odd
    // numbers of blocks and of stages.
    {.name = "PairsGateUp",
     .hidden = 1544,
     .intermediate = 136,
     .tokens = 40,
     .params = {{"tile_m", 64}, {"tile_n", 128}, {"stages", 8}},
     .swap = 2},
    {.name = "PairsDown",
     .hidden = 200,
     .intermediate = 1592,
     .tokens = 30,
     .params = {{"tile_m", 64}, {"stages", 5}, {"partial", 16}},
     .swap = 2},
    {.name = "PairsTwoBlocks",
     .hidden = 1536,
     .intermediate = 1544,
     .tokens = 9,
     .params = {{"tile_m", 16}, {"tile_n", 128}, {"stages", 5}, {"blocks", 2}},
     .dtype = DType::kF16,
     .swap = 2,
     .gated = false},
    {.name = "PairsCluster",
     .hidden = 1608,
     .intermediate = 136,
     .tokens = 70,
     .params = {{"cluster", 2}, {"tile_m", 64}, {"stages", 5}},
     .swap = 2,
     .interleaved = true},
    {.name = "PairsSplit",
     .hidden = 136,
     .intermediate = 3144,
     .tokens = 12,
     .params = {{"tile_m", 16}, {"tile_n", 128}, {"stages", 8}, {"split", 2}},
     .swap = 2},
    {"ManyRowsCluster", 136, 264, 400, {{"tile_m", 160}, {"cluster", 2}}, false, DType::kBF16, 2},
};

// What gate+up asks for before the plan is there must be what it then loads, where every expert has
// rows and none more than a tile holds.
class SimTile90Ahead : public testing::TestWithParam<Form> {};

TEST_P(SimTile90Ahead, FirstWeightsAreThoseOfTheTiles) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const Form& form = GetParam();
  const MoeConfig config = config_of(form);
  const SimKernel kernel(config, "sm_90a", *moejit::internal::find_family("cuda_tile90"),
                         schedule_of(form));
  ASSERT_EQ(kernel.error(), "");
  Problem problem = make_problem(config, {.tokens = form.tokens, .seed = 7});
  moejit::internal::sim::take_counters();
  ASSERT_EQ(kernel.run(&problem, false), "");
  const auto counters = moejit::internal::sim::take_counters();
  EXPECT_GT(counters.boxes_ahead, 0);
  EXPECT_EQ(counters.boxes_ahead_loaded, counters.boxes_ahead);
}

const Form kAhead[] = {
    {"Straight", 200, 136, 40, {}},
    {"Transposed", 328, 136, 40, {{"tile_m", 64}, {"tile_n", 128}, {"stages", 8}}, true},
    {"Swapped", 264, 200, 40, {{"tile_m", 64}, {"stages", 5}}, false, DType::kBF16, 2},
    {"Narrow",
     200,
     136,
     40,
     {{"tile_m", 64}, {"tile_n", 128}, {"stages", 4}, {"blocks", 2}},
     false,
     DType::kBF16,
     2},
    {"Interleaved",
     328,
     136,
     40,
     {{"tile_m", 64}, {"stages", 5}},
     false,
     DType::kBF16,
     2,
     true,
     false,
     true},
    {"NotGated", 264, 328, 40, {{"tile_m", 64}, {"stages", 5}}, false, DType::kBF16, 2, false},
};

INSTANTIATE_TEST_SUITE_P(Forms, SimTile90Ahead, testing::ValuesIn(kAhead),
                         [](const auto& test) { return std::string(test.param.name); });

INSTANTIATE_TEST_SUITE_P(Forms, SimTile90, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

INSTANTIATE_TEST_SUITE_P(Swapped, SimTile90, testing::ValuesIn(kSwapped),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit_test
