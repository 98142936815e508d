#include "moejit/config.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace moejit {
namespace {

MoeConfig small() {
  return {.num_experts = 8, .top_k = 2, .hidden_size = 64, .intermediate_size = 32};
}

TEST(Config, DefaultsOfTheOptionalFieldsAreValid) {
  EXPECT_TRUE(small().check().ok());
}

struct Rule {
  const char* name;
  std::function<void(MoeConfig&)> change;
  const char* message;
};

void PrintTo(const Rule& rule, std::ostream* out) {
  *out << rule.name;
}

std::string rule_name(const testing::TestParamInfo<Rule>& rule) {
  return rule.param.name;
}

class ConfigRule : public testing::TestWithParam<Rule> {};

TEST_P(ConfigRule, IsNamedWithFieldAndValue) {
  MoeConfig config = small();
  GetParam().change(config);
  const Status status = config.check();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), GetParam().message);
}

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    All, ConfigRule,
    testing::Values(
        Rule{"no_experts", [](MoeConfig& c) { c.num_experts = 0; },
             "num_experts = 0: must be between 1 and 1024"},
        Rule{"many_experts", [](MoeConfig& c) { c.num_experts = 1025; },
             "num_experts = 1025: must be between 1 and 1024"},
        Rule{"top_k_zero", [](MoeConfig& c) { c.top_k = 0; },
             "top_k = 0: must be between 1 and num_experts (8)"},
        Rule{"top_k_experts", [](MoeConfig& c) { c.top_k = 9; },
             "top_k = 9: must be between 1 and num_experts (8)"},
        Rule{"top_k_limit",
             [](MoeConfig& c) {
               c.num_experts = 64;
               c.top_k = 33;
             },
             "top_k = 33: must be between 1 and 32"},
        Rule{"dtype", [](MoeConfig& c) { c.dtype = static_cast<DType>(9); },
             "dtype = 9: must be an enum value between 0 and 2"},
        Rule{"hidden_align", [](MoeConfig& c) { c.hidden_size = 60; },
             "hidden_size = 60: must be a multiple of 8 (16 bytes of bf16)"},
        Rule{"hidden_align_f32",
             [](MoeConfig& c) {
               c.dtype = DType::kF32;
               c.hidden_size = 62;
             },
             "hidden_size = 62: must be a multiple of 4 (16 bytes of f32)"},
        Rule{"hidden_negative", [](MoeConfig& c) { c.hidden_size = -8; },
             "hidden_size = -8: must be between 8 and 16777216"},
        Rule{"intermediate_zero", [](MoeConfig& c) { c.intermediate_size = 0; },
             "intermediate_size = 0: must be between 8 and 16777216"},
        Rule{"intermediate_align", [](MoeConfig& c) { c.intermediate_size = 177; },
             "intermediate_size = 177: must be a multiple of 8 (16 bytes of bf16)"},
        Rule{"activation", [](MoeConfig& c) { c.activation = static_cast<Activation>(-1); },
             "activation = -1: must be an enum value between 0 and 5"},
        Rule{"oai_gate",
             [](MoeConfig& c) {
               c.activation = Activation::kSwigluOai;
               c.gated = false;
             },
             "gated = false: must be true for activation swiglu_oai"},
        Rule{"alpha", [](MoeConfig& c) { c.swiglu_alpha = kNaN; },
             "swiglu_alpha = nan: must be finite as f32"},
        Rule{"alpha_f32", [](MoeConfig& c) { c.swiglu_alpha = 1e39; },
             "swiglu_alpha = 1e+39: must be finite as f32"},
        Rule{"limit", [](MoeConfig& c) { c.swiglu_limit = kInf; },
             "swiglu_limit = inf: must be above 0 and finite as f32"},
        Rule{"limit_zero", [](MoeConfig& c) { c.swiglu_limit = 0; },
             "swiglu_limit = 0: must be above 0 and finite as f32"},
        Rule{"interleaved",
             [](MoeConfig& c) {
               c.gated = false;
               c.interleaved = true;
             },
             "interleaved = true: must be false where gated is false"},
        Rule{"up_first",
             [](MoeConfig& c) {
               c.gated = false;
               c.up_first = true;
             },
             "up_first = true: must be false where gated is false"},
        Rule{"shared", [](MoeConfig& c) { c.num_shared_experts = 33; },
             "num_shared_experts = 33: must be between 0 and 32"},
        Rule{"shared_negative", [](MoeConfig& c) { c.num_shared_experts = -1; },
             "num_shared_experts = -1: must be between 0 and 32"},
        Rule{"shared_total",
             [](MoeConfig& c) {
               c.num_experts = 1024;
               c.num_shared_experts = 1;
             },
             "num_shared_experts = 1: must be at most 0, for 1024 experts with num_experts (1024)"},
        Rule{"size",
             [](MoeConfig& c) {
               c.num_experts = 1024;
               c.hidden_size = 1 << 24;
               c.intermediate_size = 1 << 24;
               c.dtype = DType::kF32;
             },
             "hidden_size = 16777216: must be smaller: w13 and w2 of 1024 experts would take "
             "3458764513820540928 bytes, above 2^47"},
        Rule{"scoring", [](MoeConfig& c) { c.router.scoring = static_cast<Scoring>(3); },
             "router.scoring = 3: must be an enum value between 0 and 2"},
        Rule{"order", [](MoeConfig& c) { c.router.order = static_cast<RouterOrder>(2); },
             "router.order = 2: must be an enum value between 0 and 1"},
        Rule{"group_range", [](MoeConfig& c) { c.router.n_group = 9; },
             "router.n_group = 9: must be between 1 and num_experts (8)"},
        Rule{"group_divides", [](MoeConfig& c) { c.router.n_group = 3; },
             "router.n_group = 3: must be a divisor of num_experts (8)"},
        Rule{"topk_group", [](MoeConfig& c) { c.router.topk_group = 2; },
             "router.topk_group = 2: must be between 1 and router.n_group (1)"},
        Rule{"group_top_k",
             [](MoeConfig& c) {
               c.router.n_group = 8;
               c.router.topk_group = 1;
             },
             "top_k = 2: must be at most the 1 experts of router.topk_group (1) groups"},
        Rule{"scaling", [](MoeConfig& c) { c.router.scaling_factor = 0; },
             "router.scaling_factor = 0: must be above 0 and finite as f32"}),
    rule_name);

TEST(Config, AcceptsTheEdgesOfEveryRange) {
  MoeConfig c = small();
  c.num_experts = 992;
  c.num_shared_experts = 32;
  c.top_k = 32;
  c.hidden_size = 8;
  c.intermediate_size = 1 << 20;
  EXPECT_TRUE(c.check().ok()) << c.check().to_string();
  c = small();
  c.num_experts = c.top_k = 1;
  c.dtype = DType::kF32;
  c.hidden_size = c.intermediate_size = 4;
  EXPECT_TRUE(c.check().ok());
  for (int32_t width : {176, 192, 704, 1408, 2688, 2880}) {
    c.dtype = DType::kBF16;
    c.hidden_size = c.intermediate_size = width;
    EXPECT_TRUE(c.check().ok()) << width;
  }
  c = small();  // the largest published layer
  c.num_experts = 896;
  c.top_k = 16;
  c.hidden_size = 3584;
  c.intermediate_size = 3072;
  EXPECT_TRUE(c.check().ok());
}

TEST(ConfigJson, IsCanonical) {
  EXPECT_EQ(small().to_json(),
            "{\"num_experts\":8,\"top_k\":2,\"hidden_size\":64,\"intermediate_size\":32,"
            "\"dtype\":\"bf16\",\"activation\":\"silu\",\"gated\":true,\"bias\":false,"
            "\"swiglu_alpha\":1.702,\"swiglu_limit\":7,\"transposed\":false,"
            "\"interleaved\":false,\"up_first\":false,\"num_shared_experts\":0,"
            "\"weight_on_input\":false,\"router\":{\"scoring\":\"softmax\","
            "\"order\":\"score_then_topk\",\"correction_bias\":false,\"n_group\":1,"
            "\"topk_group\":1,\"renormalize\":false,\"scaling_factor\":1}}");
  MoeConfig negative_zero = small();
  negative_zero.swiglu_alpha = -0.0;
  MoeConfig zero = small();
  zero.swiglu_alpha = 0.0;
  ASSERT_EQ(negative_zero, zero);
  EXPECT_EQ(negative_zero.to_json(), zero.to_json());
}

TEST(ConfigJson, RoundTripsEveryField) {
  MoeConfig c{.num_experts = 96,
              .top_k = 6,
              .hidden_size = 2880,
              .intermediate_size = 176,
              .dtype = DType::kF16,
              .activation = Activation::kSwigluOai,
              .gated = true,
              .bias = true,
              .swiglu_alpha = 0.1,
              .swiglu_limit = 1e-7,
              .transposed = true,
              .interleaved = true,
              .up_first = true,
              .packed = true,
              .num_shared_experts = 2,
              .weight_on_input = true,
              .router = {.scoring = Scoring::kSqrtSoftplus,
                         .order = RouterOrder::kTopkThenScore,
                         .correction_bias = true,
                         .n_group = 8,
                         .topk_group = 4,
                         .renormalize = true,
                         .scaling_factor = 2.827}};
  Result<MoeConfig> back = MoeConfig::from_json(c.to_json());
  ASSERT_TRUE(back.ok()) << back.status().to_string();
  EXPECT_EQ(*back, c);
  EXPECT_EQ(back->to_json(), c.to_json());
}

TEST(ConfigJson, FourFieldsAreEnough) {
  Result<MoeConfig> c = MoeConfig::from_json(
      " { \"top_k\": 2, \"num_experts\": 8,\n\"hidden_size\": 64, \"intermediate_size\": 32 } ");
  ASSERT_TRUE(c.ok()) << c.status().to_string();
  EXPECT_EQ(*c, small());
}

// `fields` replaces the tail of a text that is valid without it.
std::string text_with(const std::string& fields) {
  return "{\"num_experts\":8,\"top_k\":2,\"hidden_size\":64,\"intermediate_size\":32" + fields +
         "}";
}

std::string data_error(const std::string& text) {
  const Status status = MoeConfig::from_json(text).status();
  EXPECT_EQ(status.code(), StatusCode::kDataError) << text;
  return status.message();
}

TEST(ConfigJson, NamesTheFieldThatIsWrong) {
  EXPECT_EQ(data_error("{\"num_experts\":8,\"top_k\":2,\"hidden_size\":64}"),
            "intermediate_size: is missing");
  EXPECT_EQ(data_error(text_with(",\"gatd\":true")),
            "\"gatd\": unknown field; nearest known: gated");
  EXPECT_EQ(data_error(text_with(",\"router\":{\"n_groups\":1}")),
            "router.\"n_groups\": unknown field; nearest known: n_group");
  EXPECT_EQ(data_error(text_with(",\"bias\":1")), "bias = 1: must be true or false");
  EXPECT_EQ(data_error(text_with(",\"num_shared_experts\":1.5")),
            "num_shared_experts = 1.5: must be an integer");
  EXPECT_EQ(data_error(text_with(",\"num_shared_experts\":4294967296")),
            "num_shared_experts = 4294967296: must be a 32-bit integer");
  EXPECT_EQ(data_error(text_with(",\"num_shared_experts\":18446744073709551615")),
            "num_shared_experts = 18446744073709551615: must be at most 2^63 - 1");
  EXPECT_EQ(data_error(text_with(",\"router\":{\"scaling_factor\":\"2\"}")),
            "router.scaling_factor = \"2\": must be a number");
  EXPECT_EQ(data_error(text_with(",\"router\":[]")), "router = a list: must be an object");
  EXPECT_EQ(data_error(text_with(",\"activation\":\"swiglu\"")),
            "activation: \"swiglu\" is no activation; known: silu, gelu, gelu_tanh, relu2, "
            "swiglu_oai, silu_clamp; nearest: swiglu_oai");
  EXPECT_EQ(data_error(text_with(",\"top_k\":2")), "top_k: given twice");
  EXPECT_EQ(data_error(text_with(",\"router\":{\"order\":\"score_then_topk\",\"order\":1}")),
            "router.order: given twice");
  EXPECT_EQ(data_error("[]"), "the JSON text: must be an object");
}

TEST(ConfigJson, SaysWhereTheTextBreaks) {
  EXPECT_EQ(data_error("{\"num_experts\":8,\n  \"top_k\":}").substr(0, 18), "line 2, column 11:");
  EXPECT_EQ(data_error("").substr(0, 17), "line 1, column 1:");
  EXPECT_NE(data_error(text_with(",\"swiglu_alpha\":1e999")).find("number overflow"),
            std::string::npos);
  EXPECT_NE(data_error(text_with(",\"swiglu_alpha\":NaN")).find("invalid literal"),
            std::string::npos);
  EXPECT_NE(data_error(text_with("") + "x").find("line 1, column"), std::string::npos);
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_EQ(data_error(deep), "nested deeper than 64");
}

TEST(ConfigJson, ChecksTheRules) {
  const Status status = MoeConfig::from_json(
                            "{\"num_experts\":8,\"top_k\":9,\"hidden_size\":64,"
                            "\"intermediate_size\":32}")
                            .status();
  EXPECT_EQ(status.to_string(),
            "INVALID_ARGUMENT: top_k = 9: must be between 1 and num_experts (8)");
}

TEST(ConfigNames, ConvertBothWays) {
  for (DType value : {DType::kF32, DType::kBF16, DType::kF16}) {
    EXPECT_EQ(*dtype_from_string(to_string(value)), value);
  }
  for (int i = 0; i <= 5; ++i) {
    const auto value = static_cast<Activation>(i);
    EXPECT_EQ(*activation_from_string(to_string(value)), value);
  }
  EXPECT_STREQ(to_string(static_cast<DType>(77)), "unknown");
  const Status status = dtype_from_string("bfloat16").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "\"bfloat16\" is no dtype; known: f32, bf16, f16; nearest: bf16");
  EXPECT_EQ(size_of(DType::kF32), 4);
  EXPECT_EQ(size_of(DType::kBF16), 2);
  EXPECT_EQ(size_of(DType::kF16), 2);
}

}  // namespace
}  // namespace moejit
