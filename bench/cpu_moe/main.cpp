// The whole layer on the CPU: moejit, its peers (as far as built in: oneDNN, ggml, ik_llama.cpp)
// and the machine's limits in one run.
//
//   cpu_moe [--shapes NAME,...] [--tokens 1,8,32,128,512] [--routing uniform,zipf:1.2]
//           [--threads N] [--seconds S] [--tune] [--peers NAME,... | --no-peer]
//           [--format table|json|csv]
//
// Per point: every implementation's answer is compared with float64; the limits are probed before
// and after (their larger value counts: the bandwidth of a shared machine flips within minutes);
// the implementations take turns on rotating routings, so that weights are cold; medians. `share`
// is floor / time, floor = max(bytes that any implementation must read / read rate, operations /
// dot rate).
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "base/table.h"
#include "bench/cpu_moe/limits.h"
#include "bench/cpu_moe/peers.h"
#include "generator/family.h"
#include "moejit/moejit.h"
#include "tuner/check.h"
#include "tuner/workload.h"

namespace {

using moejit::MoeConfig;
using moejit::Status;
using moejit::internal::Cell;
using moejit::internal::Column;
using moejit::internal::Device;
using moejit::internal::Table;
using moejit::internal::Unit;
using moejit::internal::Workload;
using Clock = std::chrono::steady_clock;

struct Shape {
  const char* name;
  int32_t experts, top_k, hidden, intermediate;
};
constexpr Shape kShapes[] = {{"qwen3-30b-a3b", 128, 8, 2048, 768},
                             {"mixtral-8x7b", 8, 2, 4096, 14336},
                             {"qwen2-57b-a14b", 64, 8, 3584, 2560},
                             {"deepseek-v3-64e", 64, 8, 7168, 2048}};

struct Arguments {
  std::vector<std::string> shapes, routings = {"uniform", "zipf:1.2"};
  std::vector<int64_t> tokens = {1, 8, 32, 128, 512};
  int threads = 2;
  double seconds = 0.6;  // per implementation and point
  bool tune = false;
  std::vector<moejit_bench::PeerKind> peers = moejit_bench::peer_kinds();
  std::string format = "table";
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

bool choose_peers(const std::string& names, Arguments* a) {
  a->peers.clear();
  for (const std::string& name : split(names)) {
    const size_t before = a->peers.size();
    for (const auto& kind : moejit_bench::peer_kinds()) {
      if (name == kind.key) a->peers.push_back(kind);
    }
    if (a->peers.size() == before) {
      std::fprintf(stderr, "--peers = %s: this build has no such peer\n", name.c_str());
      return false;
    }
  }
  return true;
}

bool parse(int argc, char** argv, Arguments* a) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--tune") {
      a->tune = true;
    } else if (name == "--no-peer") {
      a->peers.clear();
    } else if (i + 1 >= argc) {
      return false;
    } else if (const std::string value = argv[++i]; name == "--shapes") {
      a->shapes = split(value);
    } else if (name == "--routing") {
      a->routings = split(value);
    } else if (name == "--tokens") {
      a->tokens.clear();
      for (const std::string& part : split(value)) a->tokens.push_back(std::atoll(part.c_str()));
    } else if (name == "--peers") {
      if (!choose_peers(value, a)) return false;
    } else if (name == "--threads") {
      a->threads = std::atoi(value.c_str());
    } else if (name == "--seconds") {
      a->seconds = std::atof(value.c_str());
    } else if (name == "--format") {
      a->format = value;
    } else {
      return false;
    }
  }
  return moejit::internal::table_format_from_string(a->format).ok() && a->threads > 0 &&
         *std::min_element(a->tokens.begin(), a->tokens.end()) > 0;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

template <typename Body>
double seconds_of(const Body& body) {
  const auto start = Clock::now();
  body();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double run_peer(moejit_bench::Peer& peer, const Workload& load, int routing) {
  const auto a = load.args(routing);
  return peer.run(load.tokens(), a.x, a.topk_ids, a.topk_weights, a.out);
}

// Between two implementations: threads of the last one wait actively for a while, not on the next
// one's time, and each starts from the same state of the processor.
void rest() {
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

class Runner {
 public:
  Runner(const Arguments& arguments, const Device& device, Table* table)
      : arguments_(arguments), device_(device), table_(*table) {}

  Status shape(const Shape& shape);

 private:
  Status point(const Shape& shape, const moejit::Kernel& kernel, const std::string& routing,
               int64_t tokens);

  const Arguments& arguments_;
  const Device& device_;
  Table& table_;
  std::shared_ptr<const moejit::internal::Weights> weights_;
  std::shared_ptr<const moejit_bench::Limits> limits_;
  std::vector<std::unique_ptr<moejit_bench::Peer>> peers_;
  bool versions_told_ = false;
};

// Relative Frobenius error of `out` over the expected rows.
double error_of(const moejit::internal::Expected& expected, const void* out, int64_t hidden) {
  double difference = 0, norm = 0;
  for (size_t r = 0; r < expected.tokens.size(); ++r) {
    const auto* row = static_cast<const uint16_t*>(out) + expected.tokens[r] * hidden;
    for (int64_t c = 0; c < hidden; ++c) {
      const uint32_t bits = uint32_t{row[c]} << 16;
      float got;
      std::memcpy(&got, &bits, sizeof got);
      const double want = expected.rows[r * static_cast<size_t>(hidden) + static_cast<size_t>(c)];
      difference += (got - want) * (got - want);
      norm += want * want;
    }
  }
  const double error = std::sqrt(difference / norm);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

Status Runner::shape(const Shape& shape) {
  const MoeConfig config{.num_experts = shape.experts,
                         .top_k = shape.top_k,
                         .hidden_size = shape.hidden,
                         .intermediate_size = shape.intermediate,
                         .router = {}};
  auto limits = moejit_bench::Limits::make(device_, config.dtype);
  if (!limits.ok()) return limits.status();
  limits_ = *limits;
  auto weights = moejit::internal::Weights::make(config, device_, 1);
  if (!weights.ok()) return weights.status();
  weights_ = *weights;
  for (const auto& kind : arguments_.peers) {
    auto peer = kind.make(config, weights_->w13().device.get(), weights_->w2().device.get(),
                          arguments_.threads);
    if (!peer.ok()) return peer.status();
    if (!versions_told_) {
      table_.fact(std::string(kind.key) + "_version", kind.title, (*peer)->version());
    }
    peers_.push_back(std::move(*peer));
  }
  versions_told_ = true;
  moejit::Options options;
  options.device = "cpu";
  options.num_threads = arguments_.threads;
  options.tokens = arguments_.tokens;
  options.max_tokens = *std::max_element(options.tokens.begin(), options.tokens.end());
  if (arguments_.tune) options.policy = moejit::Policy::kTune;
  const auto kernel = moejit::get_kernel(config, options);
  if (!kernel.ok()) return kernel.status();
  for (const std::string& routing : arguments_.routings) {
    for (int64_t tokens : arguments_.tokens) {
      MOEJIT_RETURN_IF_ERROR(point(shape, *kernel, routing, tokens));
    }
  }
  peers_.clear();
  weights_.reset();
  return {};
}

Status Runner::point(const Shape& shape, const moejit::Kernel& kernel, const std::string& routing,
                     int64_t tokens) {
  const auto spec = moejit::internal::RoutingSpec::parse(routing);
  if (!spec.ok()) return spec.status();
  const int num_routings = tokens <= 32 ? 9 : 3;
  auto made = Workload::make(weights_, device_, *spec, tokens, num_routings, 11);
  if (!made.ok()) return made.status();
  Workload& load = **made;
  MOEJIT_RETURN_IF_ERROR(
      load.reserve_workspace(device_, static_cast<int64_t>(kernel.workspace_size(tokens))));

  double bytes = 0, flops = 0;
  for (const auto& rows : load.row_counts()) {
    const auto floor = moejit::internal::layer_floor(kernel.config(), rows, tokens);
    bytes += floor.bytes / num_routings;
    flops += floor.flops / num_routings;
    for (const auto& peer : peers_) peer->prepare(tokens, rows);
  }

  const auto launch = [&](int i) {
    const auto a = load.args(i);
    return kernel.launch({.num_tokens = tokens,
                          .x = a.x,
                          .w13 = a.w13,
                          .w2 = a.w2,
                          .topk_ids = a.topk_ids,
                          .topk_weights = a.topk_weights,
                          .out = a.out,
                          .workspace = a.workspace});
  };
  const auto expected = moejit::internal::expected_rows(load, 0, 1e9);
  const double tolerance = moejit::internal::tolerance(kernel.config().dtype);
  std::vector<double> errors;
  for (size_t p = 0; p <= peers_.size(); ++p) {
    std::memset(load.out(), 0xff, static_cast<size_t>(load.out_bytes()));  // NaN
    if (p == 0) {
      MOEJIT_RETURN_IF_ERROR(launch(0));
    } else {
      run_peer(*peers_[p - 1], load, 0);
    }
    errors.push_back(error_of(expected, load.out(), shape.hidden));
    if (!(errors.back() <= tolerance)) {
      return Status(moejit::StatusCode::kVerificationFailed,
                    std::string(p == 0 ? "moejit" : arguments_.peers[p - 1].title) +
                        ": relative error " + std::to_string(errors.back()) + " is above " +
                        std::to_string(tolerance));
    }
  }

  const int64_t probe_bytes = std::min<int64_t>(weights_->w13().bytes(), int64_t{512} << 20);
  const auto before = limits_->measure(weights_->w13().device.get(), probe_bytes);
  if (!before.ok()) return before.status();
  std::vector<double> own;
  std::vector<std::vector<double>> others(peers_.size());
  Status failed;
  double spent = 0;
  const double budget = arguments_.seconds * static_cast<double>(1 + peers_.size());
  for (int i = 0; i < num_routings || spent < budget; ++i) {
    // Short launches: an untimed one first, as in decoding, where the threads are awake.
    const bool is_short = tokens <= 8;
    if (is_short) failed = launch(i + 1);
    own.push_back(seconds_of([&] { failed = launch(i); }));
    if (!failed.ok()) return failed;
    spent += own.back();
    for (size_t p = 0; p < peers_.size(); ++p) {
      rest();
      if (is_short) run_peer(*peers_[p], load, i + 1);
      others[p].push_back(run_peer(*peers_[p], load, i));
      spent += others[p].back();
    }
    if (!peers_.empty()) rest();
    if (i >= 2000 || spent > 4 * budget) break;
  }
  const auto after = limits_->measure(weights_->w13().device.get(), probe_bytes);
  if (!after.ok()) return after.status();
  const double bandwidth = std::max(before->bytes_per_s, after->bytes_per_s);
  const double rate = std::max(before->flops_per_s, after->flops_per_s);
  const double floor = std::max(bytes / bandwidth, flops / rate);
  const double time = median(own);
  std::string schedule;
  for (const auto& bucket : kernel.buckets()) {
    if (bucket.tokens <= tokens) schedule = bucket.schedule;
  }
  std::vector<Cell> row = {
      std::string(shape.name), spec->name, tokens, time, floor / time, bytes / time, flops / time};
  std::fprintf(stderr, "%-16s %-9s T=%-5lld %9.3f ms  share %.3f", shape.name, spec->name.c_str(),
               static_cast<long long>(tokens), time * 1e3, floor / time);
  for (size_t p = 0; p < peers_.size(); ++p) {
    const double other = median(others[p]);
    row.insert(row.end(), {other, other / time});
    std::fprintf(stderr, "  %s %.3f ms", arguments_.peers[p].title, other * 1e3);
  }
  std::fputc('\n', stderr);
  row.insert(row.end(), {before->bytes_per_s, after->bytes_per_s, rate, schedule});
  row.insert(row.end(), errors.begin(), errors.end());
  table_.add(std::move(row));
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  if (!parse(argc, argv, &arguments)) {
    std::fprintf(
        stderr,
        "usage: cpu_moe [--shapes NAME,...] [--tokens 1,8,...] [--routing uniform,zipf:1.2]\n"
        "               [--threads N] [--seconds S] [--tune] [--peers NAME,... | --no-peer]\n"
        "               [--format table|json|csv]\n");
    return 2;
  }
  const auto device = moejit::internal::open_device("cpu", arguments.threads);
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", device.status().to_string().c_str());
    return 1;
  }
  std::vector<Column> columns = {{"shape", "layer"},
                                 {"routing", "routing"},
                                 {"tokens", "T"},
                                 {"time_s", "time", Unit::kSeconds},
                                 {"share", "share of limit", Unit::kShare},
                                 {"bytes_per_s", "read", Unit::kBytesPerS},
                                 {"flops_per_s", "rate", Unit::kFlopsPerS}};
  for (const auto& kind : arguments.peers) {
    const std::string key = kind.key, title = kind.title;
    columns.push_back({key + "_s", title, Unit::kSeconds});
    columns.push_back({"versus_" + key, "vs " + title, Unit::kRatio});
  }
  columns.insert(columns.end(),
                 {{"limit_bytes_per_s_before", "limit before", Unit::kBytesPerS, true},
                  {"limit_bytes_per_s_after", "limit after", Unit::kBytesPerS},
                  {"limit_flops_per_s", "dot limit", Unit::kFlopsPerS},
                  {"schedule", "schedule", Unit::kNone, true},
                  {"error", "error", Unit::kScientific}});
  for (const auto& kind : arguments.peers) {
    columns.push_back({std::string(kind.key) + "_error", std::string(kind.title) + " error",
                       Unit::kScientific, true});
  }
  Table table(columns);
  table.fact("threads", "threads", int64_t{arguments.threads});
  Runner runner(arguments, **device, &table);
  for (const Shape& shape : kShapes) {
    if (!arguments.shapes.empty() && std::find(arguments.shapes.begin(), arguments.shapes.end(),
                                               shape.name) == arguments.shapes.end()) {
      continue;
    }
    if (const Status status = runner.shape(shape); !status.ok()) {
      std::fprintf(stderr, "%s: %s\n", shape.name, status.to_string().c_str());
      return 1;
    }
  }
  const auto format = moejit::internal::table_format_from_string(arguments.format);
  std::fputs(table.render({.format = *format}, "cpu_moe").c_str(), stdout);
  return 0;
}
