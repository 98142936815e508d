#include "tuner/routing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <numeric>
#include <set>

#include "base/safetensors.h"

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

TEST(Routing, ATokenStaysInAsManyGroupsAsTheRouterOpens) {
  MoeConfig config = layer();
  config.router.n_group = 8;
  config.router.topk_group = 3;
  for (const char* name : {"uniform", "zipf:1.2"}) {
    const Routing r = draw_routing(spec(name), config, 400, 1);
    std::set<int> drawn;
    size_t most = 0;
    for (size_t t = 0; t < 400; ++t) {
      std::set<int> seen, groups;
      for (size_t k = 0; k < 4; ++k) {
        seen.insert(r.ids[t * 4 + k]);
        groups.insert(r.ids[t * 4 + k] / 4);
      }
      EXPECT_EQ(seen.size(), 4u);
      most = std::max(most, groups.size());
      drawn.insert(seen.begin(), seen.end());
    }
    EXPECT_EQ(most, 3u) << name;
    EXPECT_EQ(drawn.size(), 32u) << name;
  }
}

TEST(Routing, AllOfTheOpenGroupMayBeNeeded) {
  MoeConfig config = layer();
  config.router.n_group = 8;
  const Routing r = draw_routing(spec("uniform"), config, 100, 1);
  for (size_t t = 0; t < 100; ++t) {
    std::set<int> seen(r.ids.begin() + static_cast<long>(t) * 4,
                       r.ids.begin() + static_cast<long>(t) * 4 + 4);
    EXPECT_EQ(seen.size(), 4u);
    EXPECT_EQ(*seen.begin() / 4, *seen.rbegin() / 4);
  }
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
  EXPECT_EQ(RoutingSpec::parse("trace:/no/such/file").status().code(),
            StatusCode::kInvalidArgument);
  const std::string path = testing::TempDir() + "bad_trace.json";
  for (const char* text : {"", "[]", "{}", "{\"counts\":3}", "{\"counts\":[-1]}",
                           "{\"counts\":[0,0]}", "{\"counts\":[\"a\"]}"}) {
    std::ofstream(path) << text;
    EXPECT_EQ(RoutingSpec::parse("trace:" + path).status().code(), StatusCode::kInvalidArgument)
        << text;
  }
}

std::string write_trace(const std::string& name, const std::string& text) {
  const std::string path = testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << text;
  return "trace:" + path;
}

MoeConfig four_of_two() {
  MoeConfig config = layer();
  config.num_experts = 4;
  config.top_k = 2;
  return config;
}

TEST(Routing, TextOfIdsIsReplayedInItsOrder) {
  const RoutingSpec s = spec(write_trace("ids.txt", "# two a token\n0 1\n2,3\n\n 1;-1 # one\r\n"));
  ASSERT_EQ(s.ids, (std::vector<int32_t>{0, 1, 2, 3, 1, -1}));
  ASSERT_TRUE(s.check(four_of_two()).ok());
  const Routing r = draw_routing(s, four_of_two(), 7, 5);
  size_t begin = 0;  // the place that the seed chose
  while (begin < 3 && r.ids[0] != s.ids[2 * begin]) ++begin;
  for (size_t i = 0; i < r.ids.size(); ++i) EXPECT_EQ(r.ids[i], s.ids[(2 * begin + i) % 6]) << i;
  int64_t rows = 0;
  for (const int64_t n : r.rows) rows += n;
  int64_t skipped = 0;
  for (const int32_t id : r.ids) skipped += id < 0;
  EXPECT_EQ(rows + skipped, 14);
  std::set<int32_t> starts;
  for (uint64_t seed = 0; seed < 20; ++seed)
    starts.insert(draw_routing(s, four_of_two(), 1, seed).ids[0]);
  EXPECT_EQ(starts.size(), 3u);
}

TEST(Routing, SafetensorsOfEitherWidthAreTheSameTrace) {
  const int32_t narrow[] = {0, 1, 3, 2};
  const int64_t wide[] = {0, 1, 3, 2};
  const auto a = safetensors_bytes({{"topk_ids", {TensorType::kI32, {2, 2}, narrow, 16}}});
  const auto b = safetensors_bytes({{"topk_ids", {TensorType::kI64, {2, 2}, wide, 32}}});
  const RoutingSpec x = spec(write_trace("a.safetensors", *a));
  const RoutingSpec y = spec(write_trace("b.safetensors", *b));
  EXPECT_EQ(x.ids, (std::vector<int32_t>{0, 1, 3, 2}));
  EXPECT_EQ(x.ids, y.ids);
  EXPECT_EQ(x.name, y.name);
  EXPECT_EQ(x.name, spec(write_trace("c.txt", "0 1\n3 2")).name);
  EXPECT_NE(x.name, spec(write_trace("d.txt", "0 1\n2 3")).name);
}

TEST(Routing, TracesThatDoNotFitTheLayerAreRefused) {
  const std::pair<const char*, const char*> wrong[] = {{"0 1\n4 0\n", "token 1, id 0 = 4"},
                                                       {"0 -2\n", "id 1 = -2"},
                                                       {"1 1\n", "twice"},
                                                       {"0 1 2\n", "top_k is 2"},
                                                       {"9999999999 1\n", "line 1"}};
  for (const auto& [text, words] : wrong) {
    const auto parsed = RoutingSpec::parse(write_trace("wrong.txt", text));
    const Status status = parsed.ok() ? parsed->check(four_of_two()) : parsed.status();
    EXPECT_NE(status.message().find(words), std::string::npos) << text << status.message();
  }
  const int64_t far[] = {int64_t{1} << 40, 0};
  const auto bytes = safetensors_bytes({{"topk_ids", {TensorType::kI64, {1, 2}, far, 16}}});
  EXPECT_NE(RoutingSpec::parse(write_trace("far.safetensors", *bytes))
                .status()
                .message()
                .find("topk_ids: token 0, id 0 = 1099511627776"),
            std::string::npos);
  const auto none = safetensors_bytes({{"topk_ids", {TensorType::kI64, {0, 2}, far, 0}}});
  EXPECT_NE(RoutingSpec::parse(write_trace("none.safetensors", *none))
                .status()
                .message()
                .find("holds no token"),
            std::string::npos);
  EXPECT_EQ(spec(write_trace("mark.txt",
                             "\xef\xbb\xbf"
                             "0 1\n3 2"))
                .name,
            spec(write_trace("none.txt", "0 1\n3 2")).name);
  // Neither more nor fewer: the counts of another layer would leave experts cold.
  for (const char* counts : {"[1,1,1,1,1]", "[1,1,1]"}) {
    const std::string text = std::string("{\"counts\":") + counts + "}";
    EXPECT_FALSE(spec(write_trace("counts.json", text)).check(four_of_two()).ok()) << counts;
  }
  EXPECT_TRUE(spec(write_trace("counts.json", "{\"counts\":[1,0,0,2]}")).check(four_of_two()).ok());
  for (const char* text : {"0 1\n2\n", "0 x\n", "# nothing\n"}) {
    EXPECT_EQ(RoutingSpec::parse(write_trace("bad.txt", text)).status().code(),
              StatusCode::kInvalidArgument);
  }
  const float other[] = {0, 1};
  const auto floats = safetensors_bytes({{"topk_ids", {TensorType::kF32, {1, 2}, other, 8}}});
  EXPECT_EQ(RoutingSpec::parse(write_trace("f.safetensors", *floats)).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moejit::internal
