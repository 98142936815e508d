// How good the tuner's short search is: against an exhaustive one, and against itself.
//   tuner_reach [BUCKETS...]     token counts, default 1 8 32 128
// For each of a few small layers it tunes every token count exhaustively, then twice as `moejit
// tune` does, each in a cache of its own, and times the three winners side by side. Prints CSV to
// stdout: the size of the space, how many candidates the short search measured, its time divided by
// the exhaustive winner's, and whether two short searches chose the same.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "generator/family.h"
#include "moejit/tuning.h"
#include "runtime/library.h"
#include "tuner/estimator.h"
#include "tuner/session.h"

namespace {

using namespace moejit;            // NOLINT
using namespace moejit::internal;  // NOLINT

TuneReport must_tune(const TuneRequest& request) {
  auto report = tune(request);
  if (!report.ok()) {
    std::fprintf(stderr, "tuner_reach: %s\n", report.status().to_string().c_str());
    std::exit(1);
  }
  return *report;
}

// Medians of both schedules, round by round in turn.
double ratio(const Device& device, const MoeConfig& config, int64_t tokens, const std::string& a,
             const std::string& b) {
  if (a == b) return 1;
  const auto store = open_store("");
  const auto lab = make_local_lab(device, config, RoutingSpec{});
  if (!lab->enter({.tokens = tokens, .num_routings = routings_for(tokens)}).ok()) return 0;
  std::vector<int> kernels;
  for (const std::string& text : {a, b}) {
    const auto schedule = Schedule::from_json(text);
    const auto built = build_kernel(device, *store, config, *schedule, MayCompile::kYes);
    if (!built.ok()) return 0;
    const auto id = lab->add(*built, *schedule);
    if (!id.ok()) return 0;
    kernels.push_back(*id);
  }
  std::vector<double> ratios;
  for (int round = 0; round < 21; ++round) {
    const auto first = lab->measure(kernels[0], 0, round, 1, 0);
    const auto second = lab->measure(kernels[1], 0, round, 1, 0);
    if (first.ok() && second.ok() && round > 0) ratios.push_back((*first)[0] / (*second)[0]);
  }
  return summarize(ratios).median_s;
}

}  // namespace

int main(int argc, char** argv) {
  TuneRequest request;
  request.device = "cpu";
  for (int i = 1; i < argc; ++i) request.tokens.push_back(std::atoll(argv[i]));
  if (request.tokens.empty()) request.tokens = {1, 8, 32, 128};
  const MoeConfig layers[] = {
      {.num_experts = 16, .top_k = 2, .hidden_size = 512, .intermediate_size = 256},
      {.num_experts = 32, .top_k = 4, .hidden_size = 1024, .intermediate_size = 384}};
  const auto device = open_device("cpu");
  if (!device.ok()) return 1;
  const auto root = std::filesystem::temp_directory_path() / "moejit-tuner-reach";
  std::filesystem::remove_all(root);
  std::printf("layer,tokens,space,measured,share_measured,time_ratio,same_choice\n");
  int same = 0, buckets = 0;
  double worst = 0;
  for (size_t i = 0; i < std::size(layers); ++i) {
    TuneReport reports[3];
    request.config = layers[i];
    for (int run = 0; run < 3; ++run) {
      request.exhaustive = run == 0;
      request.cache_path = (root / (std::to_string(i) + "-" + std::to_string(run))).string();
      reports[run] = must_tune(request);
    }
    const auto space = legal_schedules(layers[i], (*device)->info().target).size();
    for (size_t row = 0; row < request.tokens.size(); ++row) {
      const TuneRow &best = reports[0].rows[row], &one = reports[1].rows[row],
                    &two = reports[2].rows[row];
      const double slower = ratio(**device, layers[i], one.tokens, one.schedule, best.schedule);
      std::printf("%zu,%lld,%zu,%d,%.3f,%.3f,%d\n", i, static_cast<long long>(one.tokens), space,
                  one.candidates, one.candidates / static_cast<double>(space), slower,
                  one.schedule == two.schedule);
      std::fflush(stdout);
      same += one.schedule == two.schedule;
      ++buckets;
      worst = std::max(worst, slower);
    }
  }
  std::fprintf(stderr, "tuner_reach: worst time ratio %.3f; the same choice in %d of %d\n", worst,
               same, buckets);
  std::filesystem::remove_all(root);
  return 0;
}
