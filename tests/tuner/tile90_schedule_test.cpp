// What the sm_90a tile family does untuned in prefill, and how its model counts columns.
#include <gtest/gtest.h>

#include "backends/backend.h"
#include "generator/family.h"
#include "moejit/config.h"

namespace moejit::internal {
namespace {

MoeConfig model(const char* name) {
  const auto preset = find_model_preset(name);
  EXPECT_TRUE(preset.ok()) << name;
  return preset.ok() ? preset->config : MoeConfig{};
}

// An H200 reports an L2 of 60 MB; an expert's gate and up are 235 MB of Mixtral and 37 of
// Qwen2-57B.
Target h200() {
  Target target = (*open_device("cuda:sm_90a"))->info().target;
  target.l2_bytes = int64_t{60} << 20;
  return target;
}

TEST(Tile90Schedule, PrefillIsSwappedAndLargeExpertsInClusters) {
  const Family* family = find_family("cuda_tile90");
  const Target target = h200();
  MoeConfig transposed = model("mixtral-8x7b");
  transposed.transposed = true;
  const struct {
    MoeConfig config;
    int64_t tokens;
    int32_t swap, tile_m, cluster;
  } kRows[] = {{model("mixtral-8x7b"), 2048, 2, 160, 1},
               {model("mixtral-8x7b"), 8192, 2, 160, 2},
               {model("qwen2-57b-a14b"), 8192, 2, 160, 1},
               {model("qwen3-30b-a3b"), 8192, 2, 160, 1},
               {transposed, 8192, 0, 128, 1}};
  for (const auto& row : kRows) {
    const Schedule usual = family->default_schedule(row.config, target, row.tokens);
    EXPECT_EQ(usual.at("swap"), row.swap) << usual.to_json();
    EXPECT_EQ(usual.at("tile_m"), row.tile_m) << usual.to_json();
    EXPECT_EQ(usual.at("cluster"), row.cluster) << usual.to_json();
    EXPECT_EQ(family->why_not(row.config, target, usual).value_or(""), "");
  }
}

// 2880 channels are 45 warpgroups' 64 of gate+up and 23 warpgroups' 128 of down, where tiles of 256
// columns have room for 46 and 24.
TEST(Tile90Schedule, ColumnsThatDoNotExistAreNotCounted) {
  const Family* family = find_family("cuda_tile90");
  const Target target = h200();
  const MoeConfig ragged = model("gpt-oss-120b");
  MoeConfig whole = ragged;
  whole.hidden_size = whole.intermediate_size = 3072;
  RowCounts rows(static_cast<size_t>(ragged.total_experts()), 256);
  Schedule schedule = family->default_schedule(ragged, target, 8192);
  ASSERT_EQ(schedule.at("tile_n"), 256);
  const auto flops = [&](const MoeConfig& config, const char* phase) {
    for (const PhaseWork& work : family->work(config, target, schedule, rows)) {
      if (work.name == phase) return work.dot_flops;
    }
    return 0.0;
  };
  // Of the whole one 48 and 24 warpgroups, over a reduction of 3072.
  EXPECT_NEAR(flops(ragged, "gate_up") / flops(whole, "gate_up"), 45.0 / 48 * 2880 / 3072, 1e-9);
  // Down's steps are turned over in 2 of 45 and of 48 more.
  EXPECT_NEAR(flops(ragged, "down") / flops(whole, "down"),
              23.0 / 24 * 2880 / 3072 * (1 + 2.0 / 45) / (1 + 2.0 / 48), 1e-9);
  schedule.params["swap"] = 0;
  schedule.params["tile_m"] = 128;
  EXPECT_NEAR(flops(ragged, "gate_up") / flops(whole, "gate_up"), 23.0 / 24 * 2880 / 3072, 1e-9);
}

}  // namespace
}  // namespace moejit::internal
