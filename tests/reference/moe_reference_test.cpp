// The reference against numbers worked out by hand.
#include "tests/reference/moe_reference.h"

#include <gtest/gtest.h>

#include <limits>

namespace {

using moejit::Activation;
using moejit::MoeConfig;
using moejit::RouterOrder;
using moejit::Scoring;
using moejit_reference::Doubles;
using moejit_reference::layer;
using moejit_reference::route;
using moejit_reference::Routing;
using moejit_reference::Tensors;

using Ids = std::vector<int32_t>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

MoeConfig shape(int32_t experts, int32_t top_k, int32_t hidden, int32_t inner) {
  return {
      .num_experts = experts, .top_k = top_k, .hidden_size = hidden, .intermediate_size = inner};
}

void expect_near(const Doubles& got, const Doubles& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-12) << "element " << i;
}

// Relu2 keeps everything whole. x = (1, 2); gate rows (1,0) and (0,1) give 1 and 2, up rows (3,0)
// and (0,5) give 3 and 10, so h = (1*3, 4*10) = (3, 40); w2 rows (1,0) and (1,1) give out = (3,
// 43).
struct Layout {
  bool transposed, interleaved, up_first;
  Doubles w13, w2;
};

class LayerLayout : public testing::TestWithParam<Layout> {};

TEST_P(LayerLayout, GivesTheSameLayer) {
  MoeConfig c = shape(1, 1, 2, 2);
  c.activation = Activation::kRelu2;
  c.transposed = GetParam().transposed;
  c.interleaved = GetParam().interleaved;
  c.up_first = GetParam().up_first;
  const Tensors in{.x = {1, 2}, .w13 = GetParam().w13, .w2 = GetParam().w2};
  expect_near(layer(c, 1, in, {0}, {1}), {3, 43});
}

INSTANTIATE_TEST_SUITE_P(
    All, LayerLayout,
    testing::Values(
        // Rows (or, transposed, columns): g0 = (1,0), g1 = (0,1), u0 = (3,0), u1 = (0,5).
        Layout{false, false, false, {1, 0, 0, 1, 3, 0, 0, 5}, {1, 0, 1, 1}},
        Layout{false, false, true, {3, 0, 0, 5, 1, 0, 0, 1}, {1, 0, 1, 1}},
        Layout{false, true, false, {1, 0, 3, 0, 0, 1, 0, 5}, {1, 0, 1, 1}},
        Layout{false, true, true, {3, 0, 1, 0, 0, 5, 0, 1}, {1, 0, 1, 1}},
        Layout{true, false, false, {1, 0, 3, 0, 0, 1, 0, 5}, {1, 1, 0, 1}},
        Layout{true, false, true, {3, 0, 1, 0, 0, 5, 0, 1}, {1, 1, 0, 1}},
        Layout{true, true, false, {1, 3, 0, 0, 0, 0, 1, 5}, {1, 1, 0, 1}},
        Layout{true, true, true, {3, 1, 0, 0, 0, 0, 5, 1}, {1, 1, 0, 1}}));

TEST(Layer, BiasFollowsTheRowsOfW13) {
  MoeConfig c = shape(1, 1, 1, 2);
  c.activation = Activation::kRelu2;
  c.bias = true;
  // Products are all 0, so g = bias: gates (2, 3), ups (5, 7): h = (4*5, 9*7) = (20, 63).
  Tensors in{.x = {1}, .w13 = {0, 0, 0, 0}, .w2 = {1, 10}, .b13 = {2, 3, 5, 7}, .b2 = {1000}};
  expect_near(layer(c, 1, in, {0}, {0.5}), {0.5 * (20 + 630 + 1000)});
  c.interleaved = true;
  in.b13 = {2, 5, 3, 7};
  expect_near(layer(c, 1, in, {0}, {0.5}), {0.5 * (20 + 630 + 1000)});
  c.up_first = true;
  in.b13 = {5, 2, 7, 3};
  expect_near(layer(c, 1, in, {0}, {0.5}), {0.5 * (20 + 630 + 1000)});
}

TEST(Layer, WithoutGateThereIsOneRowEach) {
  MoeConfig c = shape(1, 1, 1, 2);
  c.activation = Activation::kRelu2;
  c.gated = false;
  const Tensors in{.x = {2}, .w13 = {1, -3}, .w2 = {5, 100}};
  expect_near(layer(c, 1, in, {0}, {1}), {20});  // (2^2, max(-6,0)^2) = (4, 0)
}

// One expert of width 1 whose gate gives g and whose up gives u.
double activation(Activation a, double g, double u, bool gated = true, double limit = 7) {
  MoeConfig c = shape(1, 1, 1, 1);
  c.activation = a;
  c.gated = gated;
  c.swiglu_limit = limit;
  return layer(c, 1, {.x = {1}, .w13 = {g, u}, .w2 = {1}}, {0}, {1})[0];
}

TEST(Layer, Activations) {
  // Values of sigmoid, erf and tanh from tables, to 12 places.
  EXPECT_NEAR(activation(Activation::kSilu, 2, 3), 3 * 2 * 0.880797077978, 1e-11);
  EXPECT_NEAR(activation(Activation::kSilu, -2, 3), -3 * 2 * 0.119202922022, 1e-11);
  EXPECT_NEAR(activation(Activation::kGelu, 1, 3), 3 * 0.841344746069, 1e-11);  // Phi(1)
  EXPECT_NEAR(activation(Activation::kGeluTanh, 1, 3), 3 * 0.841191990608, 1e-9);
  EXPECT_NEAR(activation(Activation::kRelu2, -4, 3), 0, 0);
  EXPECT_NEAR(activation(Activation::kRelu2, 4, 3, false), 16, 0);
  EXPECT_NEAR(activation(Activation::kSilu, 2, 99, false), 2 * 0.880797077978, 1e-11);
  // gpt-oss: gate 9 and up -9 meet the limit 7; sigmoid(1.702*7) = 0.999993296.
  EXPECT_NEAR(activation(Activation::kSwigluOai, 9, -9), 7 * 0.999993296 * (-7 + 1), 1e-6);
  EXPECT_NEAR(activation(Activation::kSwigluOai, 0.5, 2), 0.5 * 0.700776873213 * 3, 1e-11);
  // The gate has no lower limit.
  EXPECT_NEAR(activation(Activation::kSwigluOai, -9, 0), -9 * 2.2265e-7, 1e-9);
  EXPECT_NEAR(activation(Activation::kSiluClamp, 9, -9), 7 * 0.999088948806 * -7, 1e-9);
  EXPECT_NEAR(activation(Activation::kSiluClamp, 2, 9, true, 1), 0.731058578630, 1e-11);
  EXPECT_NEAR(activation(Activation::kSiluClamp, 9, 0, false), 7 * 0.999088948806, 1e-9);
  for (Activation a : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                       Activation::kRelu2, Activation::kSwigluOai, Activation::kSiluClamp}) {
    EXPECT_TRUE(std::isnan(activation(a, kNaN, 1)));
    EXPECT_TRUE(std::isnan(activation(a, 1, kNaN)));
  }
}

// Expert e multiplies by 10^e: relu2 without gate of x = 1 is 1, w2 = 10^e.
TEST(Layer, SumsExpertsByWeightAndSkipsForeignIds) {
  MoeConfig c = shape(3, 2, 1, 1);
  c.activation = Activation::kRelu2;
  c.gated = false;
  Tensors in{.x = {1, 1, 1, 1}, .w13 = {1, 1, 1}, .w2 = {1, 10, 100}};
  const Ids ids = {2, 0, /**/ -1, 1, /**/ 1, 1, /**/ 3, INT32_MIN};
  const Doubles weights = {0.5, 2, /**/ kNaN, 3, /**/ 1, 4, /**/ kNaN, kNaN};
  expect_near(layer(c, 4, in, ids, weights), {52, 30, 50, 0});
  EXPECT_TRUE(layer(c, 0, {.x = {}, .w13 = in.w13, .w2 = in.w2}, {}, {}).empty());
}

TEST(Layer, SharedExpertsSeeEveryTokenOnceWithWeightOne) {
  MoeConfig c = shape(2, 1, 1, 1);
  c.num_shared_experts = 2;
  c.activation = Activation::kRelu2;
  c.gated = false;
  const Tensors in{.x = {1, 2}, .w13 = {1, 1, 1, 1}, .w2 = {1, 10, 100, 1000}};
  // The second token's id names a shared expert: not routed, so skipped.
  expect_near(layer(c, 2, in, {1, 2}, {0.5, 0.5}), {1105, 4400});
}

TEST(Layer, WeightOnInputComesBeforeTheBias) {
  MoeConfig c = shape(1, 1, 1, 1);
  c.num_shared_experts = 1;
  c.activation = Activation::kRelu2;
  c.gated = false;
  c.bias = true;
  c.weight_on_input = true;
  const Tensors in{.x = {2}, .w13 = {3, 0}, .w2 = {10, 0}, .b13 = {1, 0}, .b2 = {5, 0}};
  expect_near(layer(c, 1, in, {0}, {0.5}), {165});  // (2*3*0.5 + 1)^2 * 10 + 5
}

MoeConfig router(int32_t experts, int32_t top_k) {
  return shape(experts, top_k, 1, 1);
}

TEST(Route, SoftmaxOverAllExperts) {
  // exp of ln values: 1, 4, 2, 3 of 10.
  const Doubles logits = {0, std::log(4), std::log(2), std::log(3)};
  MoeConfig c = router(4, 2);
  Routing r = route(c, 1, logits);
  EXPECT_EQ(r.ids, (Ids{1, 3}));
  expect_near(r.weights, {0.4, 0.3});
  c.router.renormalize = true;
  c.router.scaling_factor = 14;
  expect_near(route(c, 1, logits).weights, {8, 6});
}

TEST(Route, SoftmaxOverTheSelected) {
  MoeConfig c = router(4, 2);
  c.router.order = RouterOrder::kTopkThenScore;
  const Routing r = route(c, 1, {0, std::log(4), std::log(2), std::log(12)});
  EXPECT_EQ(r.ids, (Ids{3, 1}));
  expect_near(r.weights, {0.75, 0.25});
}

TEST(Route, SigmoidAndSqrtSoftplusScoreEachAlone) {
  MoeConfig c = router(3, 2);
  for (RouterOrder order : {RouterOrder::kScoreThenTopk, RouterOrder::kTopkThenScore}) {
    c.router.order = order;
    c.router.scoring = Scoring::kSigmoid;
    Routing r = route(c, 1, {0, std::log(3), std::log(1.0 / 3)});
    EXPECT_EQ(r.ids, (Ids{1, 0}));
    expect_near(r.weights, {0.75, 0.5});
    c.router.scoring = Scoring::kSqrtSoftplus;
    r = route(c, 1, {std::log(std::exp(4) - 1), 1000, -1000});
    EXPECT_EQ(r.ids, (Ids{1, 0}));
    expect_near(r.weights, {std::sqrt(1000), 2});
  }
}

TEST(Route, TiesGoToTheLowerId) {
  EXPECT_EQ(route(router(5, 3), 1, {1, 2, 2, 1, 2}).ids, (Ids{1, 2, 4}));
  EXPECT_EQ(route(router(5, 4), 1, {1, 2, 2, 1, 2}).ids, (Ids{1, 2, 4, 0}));
}

TEST(Route, NaNRanksLast) {
  MoeConfig c = router(4, 4);
  c.router.scoring = Scoring::kSigmoid;
  EXPECT_EQ(route(c, 1, {kNaN, -INFINITY, kNaN, 5}).ids, (Ids{3, 1, 0, 2}));
  c.top_k = 2;
  c.router.n_group = 2;  // the first group's best is a number all the same
  EXPECT_EQ(route(c, 1, {kNaN, 1, 0, -1}).ids, (Ids{1, 0}));
}

TEST(Route, CorrectionBiasSelectsButDoesNotWeigh) {
  MoeConfig c = router(3, 1);
  c.router.scoring = Scoring::kSigmoid;
  c.router.correction_bias = true;
  const Routing r = route(c, 1, {0, std::log(3), 0}, {0, 0, 1});
  EXPECT_EQ(r.ids, (Ids{2}));
  expect_near(r.weights, {0.5});
}

TEST(Route, GroupsCompeteByMaximumOrByTheirTwoBest) {
  MoeConfig c = router(6, 2);
  c.router.order = RouterOrder::kTopkThenScore;  // selection by the logits themselves
  c.router.n_group = 3;
  const Doubles logits = {9, 1, /**/ 6, 7, /**/ 5, 5};
  const Doubles zero(6, 0);
  EXPECT_EQ(route(c, 1, logits).ids, (Ids{0, 1}));  // the first group has the maximum
  c.router.correction_bias = true;                  // sums 10, 13, 10
  EXPECT_EQ(route(c, 1, logits, zero).ids, (Ids{3, 2}));
  EXPECT_EQ(route(c, 1, logits, {0, 4, 0, 0, 0, 0}).ids, (Ids{0, 1}));  // 14: the bias counts
  c.router.topk_group = 2;  // the middle one and, of the tied others, the lower
  EXPECT_EQ(route(c, 1, logits, zero).ids, (Ids{0, 3}));
  c.router.n_group = 6;  // one expert each: its own value
  EXPECT_EQ(route(c, 1, logits, zero).ids, (Ids{0, 3}));
}

TEST(Route, TokensAreIndependent) {
  const Routing r = route(router(2, 1), 3, {0, 1, 1, 0, 0, 1});
  EXPECT_EQ(r.ids, (Ids{1, 0, 1}));
}

}  // namespace
