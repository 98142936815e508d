#include "tuner/roofline.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tuner/limits.h"

namespace moejit::internal {
namespace {

const DeviceLimits kLimits{.read_bytes_per_s = 1e10,
                           .dot_flops_per_s = 1e11,
                           .vector_flops_per_s = 1e10,
                           .launch_s = 1e-6,
                           .measured = true};

TEST(Roofline, PhaseTakesTheLargerOfMemoryAndArithmetic) {
  const PhaseWork memory{.name = "m", .bytes = 1e10, .dot_flops = 1e10};
  const PhaseWork arithmetic{.name = "a", .bytes = 1e9, .dot_flops = 2e11};
  EXPECT_DOUBLE_EQ(predict_seconds({memory}, kLimits), 1.0);
  EXPECT_DOUBLE_EQ(predict_seconds({arithmetic}, kLimits), 2.0);
  EXPECT_DOUBLE_EQ(predict_seconds({memory, arithmetic}, kLimits), 3.0);
}

TEST(Roofline, WhatIsExposedCountsMostWhereBothTakeAsLong) {
  const PhaseWork even{.name = "e", .bytes = 1e10, .dot_flops = 1e11, .exposed = 0.25};
  const PhaseWork memory{.name = "m", .bytes = 1e10, .dot_flops = 2e10, .exposed = 0.25};
  const PhaseWork arithmetic{.name = "a", .bytes = 5e9, .dot_flops = 2e11, .exposed = 0.25};
  EXPECT_DOUBLE_EQ(predict_seconds({even}, kLimits), 1.0 + 0.25);
  EXPECT_DOUBLE_EQ(predict_seconds({memory}, kLimits), 1.0 + 0.25 * 0.2 * 0.2);
  EXPECT_DOUBLE_EQ(predict_seconds({arithmetic}, kLimits), 2.0 + 0.25 * 0.5 * 0.5 / 2.0);
  // Idle units stretch operations first. What is exposed comes on top of the L2's time, too.
  const PhaseWork half{
      .name = "h",
      .bytes = 1e10,
      .l2_bytes = 1.2e11,  // at four times the read rate 3 s, with half the units 6
      .dot_flops = 5e10,
      .parallel = 0.5,
      .exposed = 0.25};
  EXPECT_DOUBLE_EQ(predict_seconds({half}, kLimits), 6.0 + 0.25);
  EXPECT_DOUBLE_EQ(predict_seconds({PhaseWork{.name = "none", .exposed = 1}}, kLimits), 0.0);
}

TEST(Roofline, IdleUnitsAndLaunchesCost) {
  const PhaseWork half{.name = "h", .bytes = 1e10, .parallel = 0.5, .launches = 3};
  EXPECT_DOUBLE_EQ(predict_seconds({half}, kLimits), 2.0 + 3e-6);
}

TEST(Roofline, FloorCountsTouchedExpertsOnceAndEveryRow) {
  const MoeConfig c{.num_experts = 4, .top_k = 1, .hidden_size = 64, .intermediate_size = 32};
  const Floor floor = layer_floor(c, {5, 0, 1, 0}, 6);
  EXPECT_DOUBLE_EQ(floor.bytes, 2 * 3 * 64 * 32 * 2.0 + 2 * 6 * 64 * 2.0);
  EXPECT_DOUBLE_EQ(floor.flops, 2 * 3 * 64 * 32 * 6.0);
}

TEST(Roofline, RankingIsSortedAndTotal) {
  const MoeConfig c{.num_experts = 8, .top_k = 2, .hidden_size = 512, .intermediate_size = 256};
  Target target;
  target.arch = "x86-64-v3";
  const auto ranked =
      rank_schedules(c, target, guess_limits(target, c.dtype), {RowCounts{4, 4, 0, 0, 0, 0, 0, 0}});
  ASSERT_FALSE(ranked.empty());
  for (size_t i = 1; i < ranked.size(); ++i) {
    EXPECT_LE(ranked[i - 1].predicted_s, ranked[i].predicted_s);
    EXPECT_FALSE(ranked[i - 1].schedule == ranked[i].schedule);
  }
  EXPECT_EQ(ranked.size(), legal_schedules(c, target).size());
}

TEST(Limits, JsonKeepsEveryDtypeApart) {
  DeviceLimits other = kLimits;
  other.dot_flops_per_s = 5;
  const std::string text =
      add_limits_to_json(add_limits_to_json("", DType::kBF16, kLimits), DType::kF32, other);
  ASSERT_TRUE(limits_from_json(text, DType::kBF16));
  EXPECT_EQ(limits_from_json(text, DType::kBF16)->dot_flops_per_s, 1e11);
  EXPECT_EQ(limits_from_json(text, DType::kF32)->dot_flops_per_s, 5);
  EXPECT_FALSE(limits_from_json(text, DType::kF16));
  // Limits of another probe are none.
  auto older = nlohmann::json::parse(text);
  older["bf16"]["probe"] = 1;
  EXPECT_FALSE(limits_from_json(older.dump(), DType::kBF16));
  EXPECT_TRUE(limits_from_json(older.dump(), DType::kF32));
  older["f32"].erase("probe");
  EXPECT_FALSE(limits_from_json(older.dump(), DType::kF32));
}

TEST(Limits, DamagedJsonIsNoLimits) {
  for (const char* text : {"", "x", "[]", "{\"bf16\":3}", "{\"bf16\":{\"probe\":\"x\"}}"}) {
    EXPECT_FALSE(limits_from_json(text, DType::kBF16)) << text;
  }
  const auto good = nlohmann::json::parse(add_limits_to_json("", DType::kBF16, kLimits));
  for (const char* field : {"read_bytes_per_s", "dot_flops_per_s", "launch_s"}) {
    auto negative = good, missing = good;
    negative["bf16"][field] = -1;
    missing["bf16"].erase(field);
    EXPECT_FALSE(limits_from_json(negative.dump(), DType::kBF16)) << field;
    EXPECT_FALSE(limits_from_json(missing.dump(), DType::kBF16)) << field;
  }
}

}  // namespace
}  // namespace moejit::internal
