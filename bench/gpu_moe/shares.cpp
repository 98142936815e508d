#include "shares.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

namespace moejit::gpu_bench {
namespace {

struct Mean {
  double logs = 0;
  int points = 0;
  void add(double share) {
    logs += std::log(share);
    ++points;
  }
  double value() const { return std::exp(logs / points); }
};

}  // namespace

int run_shares(const std::string& path, double read, double dot) {
  std::ifstream file(path);
  if (!file) {
    std::fprintf(stderr, "--json = %s: must be a file that perf wrote\n", path.c_str());
    return 2;
  }
  using Key = std::tuple<std::string, std::string, int64_t>;  // routing, layer, tokens
  struct Best {
    double seconds, share, product;
  };
  // The fastest of each point; of `beside` those that were timed in turns with a large product of
  // the library, whose rate is the limit in place of `dot`: what both reached at the same clocks.
  std::map<Key, Best> best, beside;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || file.eof()) continue;  // cut off where a run was stopped
    try {
      const auto row = nlohmann::json::parse(line);
      if (row.value("kind", "") != "perf" || row.value("routed", 0) == 0) continue;
      const double seconds = row.value("median_s", 0.0), product = row.value("beside", 0.0);
      if (seconds <= 0) continue;
      const double floor = std::max(row.value("bytes", 0.0) / read,
                                    row.value("flops", 0.0) / (product > 0 ? product : dot));
      const Key key{row.value("routing", ""), row.value("layer", ""),
                    row.value("tokens", int64_t{0})};
      const auto [found, fresh] =
          (product > 0 ? beside : best).try_emplace(key, Best{seconds, floor / seconds, product});
      if (!fresh && seconds < found->second.seconds)
        found->second = {seconds, floor / seconds, product};
    } catch (const nlohmann::json::exception& e) {
      std::fprintf(stderr, "--json = %s: line %d must be as perf writes it: %s\n", path.c_str(),
                   number, e.what());
      return 2;
    }
  }
  if (best.empty()) {
    std::fprintf(stderr, "--json = %s: must have rows of perf --routed 1 without --beside\n",
                 path.c_str());
    return 2;
  }
  struct Mixed {  // in turns where that was timed
    Mean mean;
    int in_turns = 0;
  };
  std::map<std::pair<std::string, std::string>, Mean> layers;
  std::map<std::string, Mean> routings;
  std::map<std::string, Mixed> mixed;
  for (const auto& [key, point] : best) {
    const auto& [routing, layer, tokens] = key;
    std::printf("%-16s %-10s %6lld %10.1f us  %.2f", layer.c_str(), routing.c_str(),
                static_cast<long long>(tokens), point.seconds * 1e6, point.share);
    const auto turns = beside.find(key);
    if (turns != beside.end())
      std::printf("   in turns with the product %10.1f us  %.2f (of %.0f TF)",
                  turns->second.seconds * 1e6, turns->second.share, turns->second.product * 1e-12);
    std::printf("\n");
    mixed[routing].mean.add(turns != beside.end() ? turns->second.share : point.share);
    mixed[routing].in_turns += turns != beside.end() ? 1 : 0;
    layers[{routing, layer}].add(point.share);
    routings[routing].add(point.share);
  }
  for (const auto& [key, mean] : layers)
    std::printf("%-16s %-10s %3d points: geometric mean %.3f\n", key.second.c_str(),
                key.first.c_str(), mean.points, mean.value());
  for (const auto& [routing, mean] : routings)
    std::printf("%-16s %-10s %3d points: geometric mean %.3f\n", "all", routing.c_str(),
                mean.points, mean.value());
  for (const auto& [routing, all] : mixed) {
    if (all.in_turns == 0) continue;
    std::printf(
        "%-16s %-10s %3d points: geometric mean %.3f, %d of them in turns with the product\n",
        "all", routing.c_str(), all.mean.points, all.mean.value(), all.in_turns);
  }
  size_t alone = 0;
  for (const auto& [key, point] : beside) alone += best.contains(key) ? 0 : 1;
  if (alone > 0) std::printf("%zu points were timed in turns alone and are left out\n", alone);
  return 0;
}

}  // namespace moejit::gpu_bench
