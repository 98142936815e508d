#include "tuner/routing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>

namespace moejit::internal {
namespace {

MoeConfig layer() {
  return {.num_experts = 32, .top_k = 4, .hidden_size = 64, .intermediate_size = 64};
}

RoutingSpec spec(const std::string& text) {
  auto parsed = RoutingSpec::parse(text);
  EXPECT_TRUE(parsed.ok()) << parsed.status().message();
  return parsed.ok() ? *parsed : RoutingSpec{};
}

TEST(Routing, UniformNamesDistinctExpertsInRangeAndCountsThem) {
  const Routing r = draw_routing(spec("uniform"), layer(), 100, 1);
  RowCounts rows(32, 0);
  for (int t = 0; t < 100; ++t) {
    std::set<int> seen;
    float sum = 0;
    for (int k = 0; k < 4; ++k) {
      const int id = r.ids[static_cast<size_t>(t * 4 + k)];
      ASSERT_GE(id, 0);
      ASSERT_LT(id, 32);
      seen.insert(id);
      ++rows[static_cast<size_t>(id)];
      sum += r.weights[static_cast<size_t>(t * 4 + k)];
    }
    EXPECT_EQ(seen.size(), 4u);
    EXPECT_NEAR(sum, 1, 1e-5);
  }
  EXPECT_EQ(rows, r.rows);
}

TEST(Routing, SameSeedSameDrawOtherSeedOtherDraw) {
  EXPECT_EQ(draw_routing(spec("uniform"), layer(), 50, 3).ids,
            draw_routing(spec("uniform"), layer(), 50, 3).ids);
  EXPECT_NE(draw_routing(spec("uniform"), layer(), 50, 3).ids,
            draw_routing(spec("uniform"), layer(), 50, 4).ids);
}

TEST(Routing, ZipfIsSkewedAndUniformIsNot) {
  const auto top_share = [](const std::string& name) {
    RowCounts rows = draw_routing(spec(name), layer(), 2000, 1).rows;
    return static_cast<double>(*std::max_element(rows.begin(), rows.end())) / (2000.0 * 4);
  };
  EXPECT_LT(top_share("uniform"), 1.3 / 32);
  EXPECT_GT(top_share("zipf:1.2"), 4.0 / 32);
}

TEST(Routing, SharedExpertsGetEveryToken) {
  MoeConfig config = layer();
  config.num_shared_experts = 2;
  const Routing r = draw_routing(spec("uniform"), config, 10, 1);
  ASSERT_EQ(r.rows.size(), 34u);
  EXPECT_EQ(r.rows[32], 10);
  EXPECT_EQ(r.rows[33], 10);
}

TEST(Routing, SkipNamesForeignExpertsAndDoesNotCountThem) {
  const Routing r = draw_routing(spec("skip"), layer(), 200, 1);
  int64_t foreign = 0;
  for (int id : r.ids) foreign += id < 0 || id >= 32;
  EXPECT_GT(foreign, 200);
  EXPECT_EQ(std::accumulate(r.rows.begin(), r.rows.end(), int64_t{0}) + foreign, 800);
}

TEST(Routing, OneSendsAllTokensToTheFirstExperts) {
  const Routing r = draw_routing(spec("one"), layer(), 9, 1);
  EXPECT_EQ(r.rows[0], 9);
  EXPECT_EQ(r.rows[4], 0);
}

TEST(Routing, TraceFollowsItsCountsAndLeavesZeroCountsAlone) {
  const std::string path = testing::TempDir() + "trace.json";
  std::ofstream(path) << "{\"counts\": [100, 50, 50, 50, 50, 0, 0, 0]}";
  MoeConfig config = layer();
  config.num_experts = 8;
  const Routing r = draw_routing(spec("trace:" + path), config, 500, 1);
  EXPECT_EQ(r.rows[5] + r.rows[6] + r.rows[7], 0);
  EXPECT_GT(r.rows[0], r.rows[1]);
}

TEST(Routing, RefusalsNameValueAndRule) {
  for (const char* bad :
       {"", "zipf", "zipf:", "zipf:abc", "zipf:-1", "zipf:11", "zipf:1.2x", "gauss"}) {
    const auto parsed = RoutingSpec::parse(bad);
    ASSERT_FALSE(parsed.ok()) << bad;
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument);
    EXPECT_NE(parsed.status().message().find(bad), std::string::npos);
  }
  EXPECT_EQ(RoutingSpec::parse("trace:/no/such/file").status().code(), StatusCode::kIoError);
  const std::string path = testing::TempDir() + "bad_trace.json";
  for (const char* text : {"", "[]", "{}", "{\"counts\":3}", "{\"counts\":[-1]}",
                           "{\"counts\":[0,0]}", "{\"counts\":[\"a\"]}"}) {
    std::ofstream(path) << text;
    EXPECT_EQ(RoutingSpec::parse("trace:" + path).status().code(), StatusCode::kDataError) << text;
  }
}

}  // namespace
}  // namespace moejit::internal
