// How good the tuner's short search is: against an exhaustive one, and against itself.
//   tuner_reach --dir DIR [--device NAME] [--candidates N] [--layers I,J] [--seconds S] [--compile]
//               [TOKENS...]
// For each of a few small layers it tunes every token count three times: exhaustively, and twice
// with `--candidates` (default: a tenth of the space, at least 2). Each search has a cache of its
// own, limits of the device included; they share binaries alone, so that nothing learns from
// another. Then the first short search's winner and the exhaustive one's are timed in turn. What
// counts as a measurement is a candidate that was launched and timed, finals or not. A line of
// DIR/reach.csv for each token count: the space, the candidates measured, the time of the short
// search's winner divided by the exhaustive winner's, whether the two short searches agree.
// Everything is kept in DIR: after --seconds it ends with exit code 3, and the same call goes on.
// --compile only fills DIR with binaries, which needs no quiet machine.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "base/fs.h"
#include "cache/exchange.h"
#include "generator/family.h"
#include "moejit/tuning.h"
#include "runtime/library.h"
#include "tuner/estimator.h"
#include "tuner/session.h"

namespace {

using namespace moejit;            // NOLINT
using namespace moejit::internal;  // NOLINT
using Clock = std::chrono::steady_clock;

constexpr int kPaused = 3;
const MoeConfig kLayers[] = {
    {.num_experts = 16, .top_k = 2, .hidden_size = 512, .intermediate_size = 256},
    {.num_experts = 32, .top_k = 4, .hidden_size = 1024, .intermediate_size = 384},
    {.num_experts = 8, .top_k = 2, .hidden_size = 2048, .intermediate_size = 1024},
    {.num_experts = 64, .top_k = 8, .hidden_size = 1024, .intermediate_size = 512},
    {.num_experts = 128, .top_k = 8, .hidden_size = 2048, .intermediate_size = 768}};

struct Arguments {
  std::string dir, device = "cpu";
  std::vector<int64_t> tokens, layers = {0, 1, 2};
  int candidates = 0;
  double seconds = 0;
  bool compile = false;
};

[[noreturn]] void die(const std::string& message) {
  std::fprintf(stderr, "tuner_reach: %s\n", message.c_str());
  std::exit(1);
}

class Reach {
 public:
  explicit Reach(Arguments arguments)
      : arguments_(std::move(arguments)),
        end_(Clock::now() +
             std::chrono::milliseconds(static_cast<int64_t>(arguments_.seconds * 1e3))),
        csv_(arguments_.dir + "/reach.csv") {
    auto device = open_device(arguments_.device);
    if (!device.ok()) die(device.status().to_string());
    device_ = *device;
    if (const Status made = make_directories(arguments_.dir, 0700); !made.ok())
      die(made.to_string());
    std::ifstream file(csv_);
    for (std::string line; std::getline(file, line);)
      done_.insert(line.substr(0, line.find(',', line.find(',') + 1)));
  }

  int run() {
    for (const int64_t layer : arguments_.layers) {
      layer_ = layer;
      config_ = kLayers[layer];
      space_ = legal_schedules(config_, device_->info().target).size();
      const int code = arguments_.compile ? compile() : measure_layer();
      if (code != 0) return code;
    }
    return 0;
  }

 private:
  bool late() const { return arguments_.seconds > 0 && Clock::now() > end_; }
  std::string place(const char* name) const {
    return arguments_.dir + "/" + std::to_string(layer_) + "-" + name;
  }
  int candidates() const {
    return arguments_.candidates > 0 ? arguments_.candidates
                                     : std::max(2, static_cast<int>(space_ / 10));
  }

  int compile() {
    TuneRequest request;
    request.config = config_;
    request.device = arguments_.device;
    request.tokens = {1};
    request.exhaustive = true;
    request.cache_path = place("binaries");
    request.progress = [this](const TuneProgress&) { return !late(); };
    const auto report = compile_only(request);
    if (!report.ok()) die(report.status().to_string());
    size_t failed = 0;
    for (const CompileRow& row : report->rows) failed += !row.ok;
    std::fprintf(stderr, "layer %lld: %zu schedules, %zu of them compiled in %.1f s\n",
                 static_cast<long long>(layer_), space_, report->rows.size() - failed,
                 report->seconds);
    return report->cancelled ? kPaused : 0;
  }

  // Null: out of time.
  const TuneReport* search(const char* name, bool exhaustive, TuneReport* report) {
    const std::string path = place(name);
    if (!path_exists(path)) {
      MergeOptions all;
      all.cpu_code = true;
      const auto merged = merge_cache({path}, {place("binaries")}, all);
      if (!merged.ok()) die(merged.status().to_string());
    }
    TuneRequest request;
    request.config = config_;
    request.device = arguments_.device;
    request.tokens = arguments_.tokens;
    request.exhaustive = exhaustive;
    request.max_candidates = candidates();
    request.cache_path = path;
    request.progress = [this](const TuneProgress&) { return !late(); };
    auto result = tune(request);
    if (!result.ok()) die(result.status().to_string());
    *report = *std::move(result);
    return report->cancelled || report->missing > 0 ? nullptr : report;
  }

  int measure_layer() {
    if (const int code = compile(); code != 0) return code;
    TuneReport exhaustive, first, second;
    if (search("exhaustive", true, &exhaustive) == nullptr) return kPaused;
    if (search("first", false, &first) == nullptr) return kPaused;
    if (search("second", false, &second) == nullptr) return kPaused;
    for (size_t row = 0; row < exhaustive.rows.size(); ++row) {
      if (late()) return kPaused;
      compare(exhaustive.rows[row], first.rows[row], second.rows[row]);
    }
    return 0;
  }

  void compare(const TuneRow& best, const TuneRow& one, const TuneRow& two) {
    const std::string key = std::to_string(layer_) + "," + std::to_string(best.tokens);
    if (done_.contains(key)) return;
    const double slower = ratio(best.tokens, one.schedule, best.schedule);
    std::ostringstream line;
    line << key << ',' << space_ << ',' << one.candidates << ',' << slower << ','
         << (one.schedule == two.schedule) << '\n';
    std::ofstream(csv_, std::ios::app) << line.str();
  }

  // Median of time(a) / time(b) over blocks of three rounds in which both are launched, each once
  // the first; a block's time is its least.
  double ratio(int64_t tokens, const std::string& a, const std::string& b) {
    if (a == b) return 1;
    const auto store = open_store(place("binaries"));
    if (lab_layer_ != layer_) lab_ = make_local_lab(*device_, config_, RoutingSpec{});
    lab_layer_ = layer_;
    if (const Status s = lab_->enter({.tokens = tokens, .num_routings = routings_for(tokens)});
        !s.ok())
      die(s.to_string());
    int kernels[2];
    for (int i = 0; i < 2; ++i) {
      const auto schedule = Schedule::from_json(i == 0 ? a : b);
      const auto built = build_kernel(*device_, *store, config_, *schedule, MayCompile::kYes);
      if (!built.ok()) die(built.status().to_string());
      const auto id = lab_->add(*built, *schedule);
      if (!id.ok()) die(id.status().to_string());
      kernels[i] = *id;
    }
    std::vector<double> ratios;
    double least[2] = {0, 0};
    const auto begin = Clock::now();
    for (int round = 0; round < 1200; ++round) {
      for (int k = 0; k < 2; ++k) {
        const int i = (k + round) % 2;
        const auto sample = lab_->measure(kernels[i], 1, round / 3, 1, 0);
        if (!sample.ok()) die(sample.status().to_string());
        least[i] = round % 3 == 0 ? (*sample)[0] : std::min(least[i], (*sample)[0]);
      }
      if (round % 3 != 2) continue;
      ratios.push_back(least[0] / least[1]);
      if (round >= 20 && Clock::now() - begin > std::chrono::seconds(2)) break;
    }
    return summarize(ratios).median_s;
  }

  const Arguments arguments_;
  const Clock::time_point end_;
  const std::string csv_;
  const Device* device_ = nullptr;
  std::set<std::string> done_;  // "layer,tokens"
  int64_t layer_ = 0, lab_layer_ = -1;
  MoeConfig config_;
  size_t space_ = 0;
  std::unique_ptr<Lab> lab_;
};

std::vector<int64_t> numbers(const char* text) {
  std::vector<int64_t> list;
  std::istringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) list.push_back(std::atoll(item.c_str()));
  return list;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--compile") {
      arguments.compile = true;
    } else if (name.starts_with("--") && i + 1 < argc) {
      const char* value = argv[++i];
      if (name == "--dir") arguments.dir = value;
      if (name == "--device") arguments.device = value;
      if (name == "--candidates") arguments.candidates = std::atoi(value);
      if (name == "--layers") arguments.layers = numbers(value);
      if (name == "--seconds") arguments.seconds = std::atof(value);
    } else {
      arguments.tokens.push_back(std::atoll(argv[i]));
    }
  }
  if (arguments.dir.empty()) die("--dir DIR: is needed; everything is kept there");
  for (const int64_t layer : arguments.layers) {
    if (layer < 0 || layer >= static_cast<int64_t>(std::size(kLayers)))
      die("--layers: must be from 0 to " + std::to_string(std::size(kLayers) - 1));
  }
  if (arguments.tokens.empty()) arguments.tokens = {1, 2, 4, 8, 16, 32, 64, 128};
  return Reach(std::move(arguments)).run();
}
