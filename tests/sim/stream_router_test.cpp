// The router inside the persistent form of cuda_stream, for one token: against the reference, and
// bit for bit against what the same kernel does for two tokens, each of which has a warp of its
// own.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/sim/moe_runner.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;
using moejit::RouterOrder;
using moejit::Scoring;
using moejit::internal::Family;
using moejit::internal::Schedule;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr auto kScoreFirst = RouterOrder::kScoreThenTopk;
constexpr auto kTopkFirst = RouterOrder::kTopkThenScore;

MoeConfig router(int32_t experts, int32_t top_k, Scoring scoring, RouterOrder order, bool bias,
                 bool renormalize) {
  MoeConfig c{.num_experts = experts,
              .top_k = top_k,
              .hidden_size = 16,
              .intermediate_size = 8,
              .dtype = DType::kBF16,
              .router = {}};
  c.router.scoring = scoring;
  c.router.order = order;
  c.router.correction_bias = bias;
  c.router.renormalize = renormalize;
  c.router.scaling_factor = 1.5;
  return c;
}

struct Case {
  std::string name;
  MoeConfig config;
  int warps = 16;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::vector<Case> cases() {
  std::vector<Case> list = {
      {"AllOf7", router(7, 7, Scoring::kSoftmax, kScoreFirst, false, false)},
      {"Of7", router(7, 3, Scoring::kSigmoid, kScoreFirst, true, true), 8},
      {"Of24", router(24, 6, Scoring::kSqrtSoftplus, kScoreFirst, false, false), 8},
      {"AllOf24", router(24, 24, Scoring::kSoftmax, kTopkFirst, false, true)},
      {"Of64", router(64, 6, Scoring::kSigmoid, kTopkFirst, true, false)},
      {"Of65", router(65, 8, Scoring::kSoftmax, kScoreFirst, false, true)},
      {"ManyOf65", router(65, 20, Scoring::kSqrtSoftplus, kTopkFirst, true, true)},
      {"Of128", router(128, 8, Scoring::kSoftmax, kScoreFirst, false, false)},
      {"Of190", router(190, 3, Scoring::kSoftmax, kTopkFirst, true, false), 8},
      {"Of200", router(200, 8, Scoring::kSigmoid, kScoreFirst, true, true)},
      {"ManyOf200", router(200, 32, Scoring::kSoftmax, kScoreFirst, false, false)},
      {"Of256", router(256, 7, Scoring::kSqrtSoftplus, kScoreFirst, true, false)},
      {"ManyOf256", router(256, 32, Scoring::kSigmoid, kScoreFirst, false, true)},
      // What one warp does alone.
      {"OneOf256", router(256, 1, Scoring::kSigmoid, kTopkFirst, false, false)},
      {"Of200InSmallBlocks", router(200, 4, Scoring::kSigmoid, kScoreFirst, false, true), 8},
      {"Of300", router(300, 6, Scoring::kSoftmax, kScoreFirst, false, true)},
      {"SoftmaxAndBias", router(128, 8, Scoring::kSoftmax, kScoreFirst, true, true)},
      {"Groups", router(64, 4, Scoring::kSigmoid, kScoreFirst, true, true)},
  };
  list.back().config.router.n_group = 8;
  list.back().config.router.topk_group = 3;
  if (test_level() < 2) return list;
  for (Scoring scoring : {Scoring::kSoftmax, Scoring::kSigmoid, Scoring::kSqrtSoftplus}) {
    for (RouterOrder order : {kScoreFirst, kTopkFirst}) {
      for (int bits = 0; bits < 8; ++bits) {
        list.push_back(
            {std::string(to_string(scoring)) + "_" + to_string(order) + "_" + std::to_string(bits),
             router(bits & 4 ? 97 : 33, 8, scoring, order, bits & 1, bits & 2)});
      }
    }
  }
  return list;
}

struct Row {
  const char* name;
  std::vector<double> logits;
  // Not where softmax makes NaN of every score: the kernels select by the logits then.
  bool as_reference = true;
};

std::vector<Row> hard_rows(const MoeConfig& c) {
  const int32_t experts = c.num_experts;
  const bool softmax = c.router.order == kScoreFirst && c.router.scoring == Scoring::kSoftmax;
  std::vector<Row> rows;
  const auto add = [&](const char* name, bool as_reference, auto logit) {
    Row row{name, {}, as_reference};
    for (int32_t e = 0; e < experts; ++e) row.logits.push_back(logit(e));
    rows.push_back(row);
  };
  add("equal", true, [](int32_t) { return 0.5; });
  add("three values", true, [](int32_t e) { return e * 7 % 3 * 0.75 - 1; });
  add("rising", true, [](int32_t e) { return e * 0.03125 - 4; });
  add("falling in pairs", true, [](int32_t e) { return 3 - e / 2 * 0.0625; });
  add("the last are the best", true, [&](int32_t e) { return e + 2 >= experts ? 2.0 : -1.0; });
  add("minus infinity", true, [&](int32_t e) { return e % 5 == 1 ? e % 2 : -INFINITY; });
  // The softmax of such rows is NaN for all experts; the kernels select by the logits.
  add("NaN", !softmax, [](int32_t e) {
    return e % 3 == 0 ? kNaN : e % 4 == 1 ? -INFINITY : e % 8;
  });
  add("NaN but two", !softmax, [&](int32_t e) { return e + 3 >= experts ? e - experts : kNaN; });
  add("all NaN", true, [](int32_t) { return kNaN; });
  add("infinity", !softmax, [](int32_t e) { return e % 6 == 5 ? INFINITY : e % 7 * 0.25; });
  add("signed zero", true, [](int32_t e) { return e % 2 == 0 ? -0.0 : e % 3 == 0 ? -1.0 : 0.0; });
  return rows;
}

std::vector<uint32_t> bits_of(const GuardedBuffer& buffer, size_t count) {
  std::vector<uint32_t> bits(count);
  std::memcpy(bits.data(), buffer.data(), count * 4);
  return bits;
}

class SimStreamRouter : public testing::TestWithParam<Case> {};

TEST_P(SimStreamRouter, OneToken) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const MoeConfig& config = GetParam().config;
  const int warps = GetParam().warps;
  const Family* family = moejit::internal::find_family("cuda_stream");
  const Schedule schedule{.family = "cuda_stream",
                          .params = {{"warps", warps},
                                     {"tile_m", 1},
                                     {"tile_n", 1},
                                     {"stages", 3},
                                     {"blocks", 16 / warps},
                                     {"fused", 1}}};
  const SimKernel kernel(config, "sm_90a", *family, schedule);
  ASSERT_EQ(kernel.error(), "");
  const size_t places = config.top_k;
  int turn = 0;
  const auto check = [&](const Row* row, DType dtype) {
    SCOPED_TRACE(std::string(row != nullptr ? row->name : "random") + ", " + to_string(dtype));
    const ProblemOptions options = {.tokens = 1,
                                    .seed = static_cast<uint64_t>(++turn),
                                    .routing = RoutingKind::kFromLogits,
                                    .logits_dtype = dtype,
                                    .poison_unused = row == nullptr};
    Problem one = make_problem(config, options);
    if (row != nullptr) {
      store(dtype, row->logits, one.logits.data());
      one.reference_logits = load(dtype, one.logits.data(), config.num_experts);
      const auto routing =
          moejit_reference::route(config, 1, one.reference_logits, one.reference_correction);
      one.reference_ids = routing.ids;
      one.reference_weights = routing.weights;
    }
    ASSERT_EQ(kernel.run(&one, true), "");
    bool infinite = false;  // of such weights h overflows, and the sum of its products is NaN
    if (row == nullptr || row->as_reference) {
      for (size_t k = 0; k < places; ++k) {
        ASSERT_EQ(one.ids.as<int32_t>()[k], one.reference_ids[k]) << k;
        const double want = one.reference_weights[k], got = one.weights.as<float>()[k];
        infinite = infinite || std::isinf(want);
        if (!std::isfinite(want)) {
          ASSERT_TRUE(got == want || (std::isnan(want) && std::isnan(got))) << k << ": " << got;
        } else {
          ASSERT_NEAR(got, want, 1e-5) << k;
        }
      }
      if (!infinite) {
        EXPECT_LE(worst_row_error(one.result(), one.expected(), config.hidden_size),
                  tolerance(config.dtype));
      }
    }
    // The same logits twice.
    ProblemOptions twice = options;
    twice.tokens = 2;
    twice.poison_unused = false;
    Problem two = make_problem(config, twice);
    const size_t bytes = static_cast<size_t>(config.num_experts) * moejit::size_of(dtype);
    std::memcpy(two.logits.as<uint8_t>(), one.logits.data(), bytes);
    std::memcpy(two.logits.as<uint8_t>() + bytes, one.logits.data(), bytes);
    if (config.router.correction_bias) {
      std::memcpy(two.correction_bias.data(), one.correction_bias.data(),
                  sizeof(float) * config.num_experts);
    }
    ASSERT_EQ(kernel.run(&two, true), "");
    EXPECT_EQ(bits_of(one.ids, places), bits_of(two.ids, places));
    EXPECT_EQ(bits_of(one.weights, places), bits_of(two.weights, places));
  };
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  for (DType dtype : dtypes) check(nullptr, dtype);
  for (const Row& row : hard_rows(config)) check(&row, dtypes[turn % 3]);
}

INSTANTIATE_TEST_SUITE_P(Routers, SimStreamRouter, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace moejit_test
