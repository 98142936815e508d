// Which kept choice a look-up follows: exact, bucket, other driver, same arch, model.
#include "runtime/plan.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "runtime/tuning_run.h"
#include "tuner/roofline.h"

namespace moejit::internal {
namespace {

MoeConfig layer() {
  return {.num_experts = 8, .top_k = 2, .hidden_size = 512, .intermediate_size = 256};
}

class PlanTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto device = open_device("cpu", 2);
    ASSERT_TRUE(device.ok());
    device_ = *device;
    StoreOptions options;
    options.mode = StoreMode::kMemory;
    store_ = Store::open(options);
    space_ = legal_schedules(layer(), device_->info().target);
    ASSERT_GE(space_.size(), 2u);
  }
  void keep(int64_t tokens, const Schedule& schedule, const std::string& environment) {
    Selection s;
    s.key = measurement_key(layer(), *device_, tokens, kServingRouting);
    s.key.environment = environment;
    s.generator = generator_digest(device_->info().target);
    s.schedule = schedule.to_json();
    s.how = "tuned";
    s.median_s = 1e-5;
    s.candidates = 3;
    store_->select(s);
  }
  PlannedBucket plan(int64_t tokens) {
    auto planned = plan_buckets(layer(), *device_, *store_, {tokens});
    EXPECT_TRUE(planned.ok());
    return (*planned)[0];
  }
  std::string here() const { return device_->info().identity; }
  // The same silicon, as a driver would call it.
  std::string with(const std::string& more) const {
    std::string text = here();
    text.insert(text.size() - 1, more);
    return text;
  }
  const Device* device_ = nullptr;
  std::shared_ptr<Store> store_;
  std::vector<Schedule> space_;
};

TEST_F(PlanTest, LevelsInTheOrderOfTrust) {
  const Schedule fallback =
      find_family(space_[0].family)->default_schedule(layer(), device_->info().target, 8);
  EXPECT_EQ(plan(8).level, "model");
  EXPECT_EQ(plan(8).key, "");
  keep(8, fallback, with(",\"cores\":512"));  // a later field of the name counts: another device
  EXPECT_EQ(plan(8).level, "same arch");
  EXPECT_EQ(plan(8).info.source, Source::kNearest);
  keep(8, fallback, with(",\"driver\":\"1.2\""));
  EXPECT_EQ(plan(8).level, "other driver");
  keep(4, fallback, here());
  EXPECT_EQ(plan(8).level, "bucket");
  keep(8, space_[1], here());
  const PlannedBucket exact = plan(8);
  EXPECT_EQ(exact.level, "exact");
  EXPECT_EQ(exact.schedule, space_[1]);
  EXPECT_EQ(exact.info.source, Source::kExact);
  EXPECT_EQ(exact.key.size(), 64u);
  EXPECT_EQ(plan(64).level, "model");  // too far from all of them
}

TEST_F(PlanTest, NeverAcrossTheBalanceOfBytesAndOperations) {
  const DeviceLimits limits = known_limits(*device_, *store_, layer().dtype);
  const auto memory_bound = [&](int64_t tokens) {
    const Floor floor = layer_floor(layer(), typical_rows(layer(), tokens), tokens);
    return floor.bytes / limits.read_bytes_per_s >= floor.flops / limits.dot_flops_per_s;
  };
  int64_t tokens = 1;
  while (tokens < (1 << 20) && memory_bound(tokens)) ++tokens;
  ASSERT_GT(tokens, 2);
  ASSERT_LT(tokens, 1 << 20);
  keep(tokens - 1, space_[1], here());
  EXPECT_EQ(plan(tokens - 1).level, "exact");
  EXPECT_EQ(plan(tokens - 2).level, "bucket");
  EXPECT_EQ(plan(tokens).level, "model");
}

class PlanOfAmd : public PlanTest {
 protected:
  void SetUp() override {
    const auto device = open_device("hip:gfx942", 0);
    ASSERT_TRUE(device.ok());
    device_ = *device;
    StoreOptions options;
    options.mode = StoreMode::kMemory;
    store_ = Store::open(options);
  }
};

TEST_F(PlanOfAmd, FeaturesMakeNoOtherArchitecture) {
  const Schedule usual =
      find_family("hip_stream")->default_schedule(layer(), device_->info().target, 8);
  keep(8, usual, R"({"arch":"gfx90a:sramecc+:xnack-","backend":"hip"})");
  EXPECT_EQ(plan(8).level, "model");
  keep(8, usual, R"({"arch":"gfx942:sramecc+:xnack-","backend":"hip","units":304})");
  EXPECT_EQ(plan(8).level, "same arch");
}

// Where few tiles make the order of schedules change between neighbours.
TEST_F(PlanOfAmd, ABucketIsRankedByItsOwnPrediction) {
  const MoeConfig mixtral = {.num_experts = 8,
                             .top_k = 2,
                             .hidden_size = 4096,
                             .intermediate_size = 1792,
                             .dtype = DType::kBF16};
  const auto predicted = [&](const std::vector<int64_t>& tokens, size_t at) {
    const auto planned = plan_buckets(mixtral, *device_, *store_, tokens);
    EXPECT_TRUE(planned.ok());
    return (*planned)[at].info.predicted_s;
  };
  EXPECT_LE(predicted({256, 512}, 1), 1.05 * predicted({512}, 0));
  const auto ladder = plan_buckets(mixtral, *device_, *store_, default_token_ladder(8192));
  ASSERT_TRUE(ladder.ok());
  for (const PlannedBucket& bucket : *ladder) {
    const bool says_so = bucket.info.reason.find("compiled for all") != std::string::npos;
    const double alone = predicted({bucket.tokens}, 0);
    EXPECT_TRUE(says_so || bucket.info.predicted_s <= 1.0501 * alone ||
                bucket.info.predicted_s <= alone + 2.001e-6)
        << bucket.tokens << " tokens: " << bucket.info.predicted_s << ", alone " << alone;
  }
}

TEST(TuneItems, ShardsArePartitionsAndTheSameEverywhere) {
  MoeConfig other = layer();
  other.hidden_size = 1024;
  const std::vector<MoeConfig> layers = {layer(), other};
  const auto whole = tune_items(layers, {8, 1, 2, 4, 2}, 0, 1);
  ASSERT_EQ(whole.size(), 8u);
  EXPECT_TRUE(whole[0].first && whole[4].first && !whole[1].first);
  std::vector<int> seen(8);
  for (int shard = 0; shard < 3; ++shard) {
    for (const TuneItem& item : tune_items(layers, {1, 2, 4, 8}, shard, 3)) {
      for (size_t i = 0; i < whole.size(); ++i)
        seen[i] += whole[i].layer == item.layer && whole[i].tokens == item.tokens;
    }
  }
  EXPECT_EQ(seen, std::vector<int>(8, 1));
  EXPECT_EQ(tune_items(layers, {1}, 2, 3).size(), 0u);
  TuneRequest twice;
  twice.layers = {layer(), other, layer()};
  EXPECT_EQ(tune_layers(twice).size(), 2u);
}

}  // namespace
}  // namespace moejit::internal
