// Which schedules a tune tries of a space that is too large to be tried as a whole.
#include "tuner/candidates.h"

#include <gtest/gtest.h>

#include <map>

#include "backends/backend.h"
#include "tuner/limits.h"
#include "tuner/routing.h"

namespace moejit::internal {
namespace {

struct Choice {
  std::vector<Candidate> list;
  double best_s = 0;  // predicted
};

Choice choose(const std::string& layer, int64_t tokens) {
  Choice choice;
  const auto device = open_device("cuda:sm_90a");
  const auto preset = find_model_preset(layer);
  const auto spec = RoutingSpec::parse("uniform");
  EXPECT_TRUE(device.ok() && preset.ok() && spec.ok());
  const Target& target = (*device)->info().target;
  const DeviceLimits limits = guess_limits(target, preset->config.dtype);
  std::vector<RowCounts> rows;
  for (uint64_t seed = 0; seed < 4; ++seed)
    rows.push_back(draw_routing(*spec, preset->config, tokens, seed).rows);
  const std::vector<RankedSchedule> ranked = rank_schedules(preset->config, target, limits, rows);
  const SessionProblem problem{preset->config, target, "", tokens, rows, limits};
  int bad = 0;
  choice.list = choose_candidates(problem, ranked, SessionOptions{}, &bad);
  choice.best_s = ranked.front().predicted_s;
  EXPECT_EQ(bad, 0);
  return choice;
}

// Of a family at most one is taken from far behind, but for the two that are drawn.
TEST(Candidates, FarOnesAreTheFirstOfTheirFamily) {
  for (const int64_t tokens : {1, 8, 32, 128, 2048}) {
    const Choice choice = choose("mixtral-8x7b", tokens);
    EXPECT_EQ(choice.list.size(), 14u);
    std::map<std::string, int> far;
    for (const Candidate& c : choice.list) {
      if (!c.is_default && c.predicted_s > 1.15 * choice.best_s) ++far[c.schedule.family];
    }
    int more = 0;
    for (const auto& [family, count] : far) more += count - 1;
    EXPECT_LE(more, 2) << tokens;
  }
}

// What differs in one parameter is tried where nothing else is near: rings of the persistent
// launch.
TEST(Candidates, NearTwinsComeBeforeWhatIsFar) {
  int rings = 0;
  for (const Candidate& c : choose("gpt-oss-120b", 1).list) {
    const Schedule& s = c.schedule;
    rings += s.family == "cuda_stream" && s.at("fused") == 1 && s.at("warps") == 16 ? 1 : 0;
  }
  EXPECT_GE(rings, 3);
}

}  // namespace
}  // namespace moejit::internal
