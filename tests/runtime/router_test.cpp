// Logits that a router must survive: ties, NaN, infinities, far apart. Routed launches against the
// reference, ids exactly.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "moejit/moejit.h"
#include "tests/generators/problem.h"

namespace {

using moejit::Kernel;
using moejit::MoeConfig;
using moejit::RouterOrder;
using moejit::Scoring;
using moejit_test::GuardedBuffer;
using moejit_test::make_problem;
using moejit_test::Problem;

constexpr int kExperts = 12;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Rows of kExperts logits.
const std::vector<std::vector<double>>& rows() {
  static const std::vector<std::vector<double>> all = {
      std::vector<double>(kExperts, 0.5),                         // all tied
      {1, 2, 2, 1, 2, 1, 1, 2, 2, 1, 1, 1},                       // tied where the cut falls
      {-100, -101, -99, -120, -100, -300, -98, 3, -97, 2, 1, 0},  // scores that vanish
      {88, 90, 91, 87, 92, 86, 85, 80, 81, 82, 83, 84},           // exp of which is large
      {1, kNaN, 3, 4, kNaN, 6, -INFINITY, 8, 2, 5, 7, 9},
      {kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, kNaN, 1, 2},
      std::vector<double>(kExperts, kNaN),
      {-INFINITY, 1, 2, 3, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, 0, 4},
  };
  return all;
}

std::vector<moejit_test::NamedConfig> routers() {
  std::vector<moejit_test::NamedConfig> list;
  for (Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid, Scoring::kSqrtSoftplus}) {
    for (RouterOrder order : {RouterOrder::kScoreThenTopk, RouterOrder::kTopkThenScore}) {
      for (int groups : {1, 3}) {
        MoeConfig c{.num_experts = kExperts, .top_k = 4, .hidden_size = 16, .intermediate_size = 8};
        c.router.scoring = scoring;
        c.router.order = order;
        c.router.n_group = groups;
        c.router.topk_group = groups == 1 ? 1 : 2;
        list.push_back({std::string(to_string(scoring)) + "_" + to_string(order) + "_g" +
                            std::to_string(groups),
                        c});
      }
    }
  }
  return list;
}

class HardLogits : public testing::TestWithParam<moejit_test::NamedConfig> {};

TEST_P(HardLogits, AreRoutedAsTheReferenceRoutesThem) {
  const MoeConfig& config = GetParam().config;
  static std::string directory = testing::TempDir() + "moejit_router_XXXXXX";
  static const char* const made = mkdtemp(directory.data());
  const auto tokens = static_cast<int64_t>(rows().size());
  const auto kernel = moejit::get_kernel(config, {.device = "cpu",
                                                  .max_tokens = tokens,
                                                  .tokens = {tokens},
                                                  .cache_path = made,
                                                  .num_threads = 2});
  if (!kernel.ok()) GTEST_SKIP() << kernel.status().to_string();
  Problem p = make_problem(config, {.tokens = tokens, .poison_unused = false});
  std::vector<double> logits;
  for (const auto& row : rows()) logits.insert(logits.end(), row.begin(), row.end());
  moejit_test::store(moejit::DType::kF32, logits, p.logits.data());
  GuardedBuffer workspace(kernel->workspace_size(tokens), 256);
  std::vector<int32_t> ids(p.reference_ids.size(), -77);
  std::vector<float> weights(ids.size(), -77);
  moejit::RoutedLaunchArgs args = p.routed_args();
  args.topk_ids = ids.data();
  args.topk_weights = weights.data();
  args.workspace = workspace.data();
  ASSERT_TRUE(kernel->launch_routed(args).ok());
  const auto want = moejit_reference::route(config, tokens, logits);
  for (size_t i = 0; i < ids.size(); ++i) {
    SCOPED_TRACE("row " + std::to_string(i / 4) + ", place " + std::to_string(i % 4));
    EXPECT_EQ(ids[i], want.ids[i]);
    if (std::isnan(want.weights[i])) {
      EXPECT_TRUE(std::isnan(weights[i])) << weights[i];
    } else {
      EXPECT_NEAR(weights[i], want.weights[i], 1e-5 * (1 + std::fabs(want.weights[i])));
    }
  }
  EXPECT_TRUE(p.intact() && workspace.intact());
}

std::string router_name(const testing::TestParamInfo<moejit_test::NamedConfig>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(All, HardLogits, testing::ValuesIn(routers()), router_name);

}  // namespace
