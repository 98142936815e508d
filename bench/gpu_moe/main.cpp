// gpu_moe: correctness and speed of the GPU families at their real sizes, without the cache. One
// table per run on stdout.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>

#include "arguments.h"
#include "backends/backend.h"
#include "candidates.h"
#include "cases.h"
#include "generator/family.h"
#include "model.h"
#include "rates.h"
#include "shares.h"
#include "tuner/check.h"
#include "tuner/estimator.h"
#include "tuner/roofline.h"
#include "tuner/workload.h"

namespace {

using namespace moejit;
using namespace moejit::internal;
using namespace moejit::gpu_bench;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int run_check(const Device& device, const Arguments& args) {
  std::mt19937 random(1);
  int bad = 0, good = 0;
  for (const gpu_bench::CheckCase& test : gpu_bench::check_cases()) {
    if (!args.layer.empty() && args.layer != test.name) continue;
    auto spec = RoutingSpec::parse(test.routing);
    auto weights = Weights::make(test.config, device, 1);
    if (!spec.ok() || !weights.ok()) {
      std::printf("%-28s no workload: %s\n", test.name.c_str(),
                  weights.status().to_string().c_str());
      ++bad;
      continue;
    }
    const double begin = now();
    std::vector<Built> built = pick(device, test.config, args, test.tokens.back(), &random);
    compile_all(device, test.config, &built);
    std::fprintf(stderr, "[%s: %zu schedules, compiled in %.1f s]\n", test.name.c_str(),
                 built.size(), now() - begin);
    for (int64_t tokens : test.tokens) {
      auto load = Workload::make(*weights, device, *spec, tokens, 1, 11);
      if (!load.ok()) {
        std::printf("%-28s T=%lld: %s\n", test.name.c_str(), static_cast<long long>(tokens),
                    load.status().to_string().c_str());
        ++bad;
        continue;
      }
      const Expected expected = expected_rows(**load, 0, 2e7);
      for (Built& b : built) {
        std::string problem;
        double error = 0;
        if (!b.binary.ok()) {
          problem = b.binary.status().to_string() + "\n" + b.binary.status().log().substr(0, 2000);
        } else {
          const int64_t bytes =
              workspace_offset(b.source.workspace, b.source.workspace.size(), tokens);
          auto module = device.load(*b.binary, b.source);
          Status reserved = (*load)->reserve_workspace(device, bytes);
          if (!module.ok()) {
            problem = module.status().to_string();
          } else if (!reserved.ok()) {
            problem = reserved.to_string();
          } else {
            auto checked = check_module(device, **module, **load, 0, expected);
            problem = checked.ok() ? checked->problem : checked.status().to_string();
            if (checked.ok()) error = checked->error;
          }
        }
        if (problem.empty()) {
          ++good;
        } else {
          ++bad;
          std::printf("BAD %-24s T=%-5lld err %.2g spill %d %s: %s\n", test.name.c_str(),
                      static_cast<long long>(tokens), error,
                      b.binary.ok() ? b.binary->spill_bytes : -1, b.schedule.to_json().c_str(),
                      problem.c_str());
          if (problem.find("CUDA_ERROR") != std::string::npos) {
            std::printf("the context is lost; stopping\n");
            return 1;
          }
        }
      }
    }
  }
  std::printf("check: %d good, %d bad\n", good, bad);
  return bad == 0 ? 0 : 1;
}

// Compiles what check would run, on a machine without a GPU (--device cuda:sm_90a).
int run_compile(const Device& device, const Arguments& args) {
  std::mt19937 random(1);
  int bad = 0, good = 0, spilling = 0;
  for (const gpu_bench::CheckCase& test : gpu_bench::check_cases()) {
    if (!args.layer.empty() && args.layer != test.name) continue;
    std::vector<Built> built = pick(device, test.config, args, test.tokens.back(), &random);
    compile_all(device, test.config, &built);
    for (const Built& b : built) {
      if (!b.binary.ok()) {
        ++bad;
        std::printf("BAD %s %s: %s\n%s\n", test.name.c_str(), b.schedule.to_json().c_str(),
                    b.binary.status().to_string().c_str(),
                    b.binary.status().log().substr(0, 1500).c_str());
        continue;
      }
      ++good;
      if (b.binary->spill_bytes > 0 || b.binary->log.find("C75") != std::string::npos) {
        ++spilling;
        std::printf("spill %d registers %d %s %s\n", b.binary->spill_bytes, b.binary->registers,
                    test.name.c_str(), b.schedule.to_json().c_str());
      }
    }
  }
  std::printf("compile: %d good, %d bad, %d spilling or with ptxas warnings\n", good, bad,
              spilling);
  return bad == 0 ? 0 : 1;
}

// Each entry of each schedule, behind those before it: they hand out the tickets by which blocks
// take tiles, and write what is discarded at the end.
void time_entries(const Device& device, const Workload& load, const std::vector<Built>& built,
                  int repeats) {
  for (const Built& b : built) {
    if (!b.binary.ok()) continue;
    const auto part = [&](std::vector<Entry> entries) {
      KernelSource source = b.source;
      source.entries = std::move(entries);
      auto module = device.load(*b.binary, source);
      return module.ok() ? *module : nullptr;
    };
    std::printf("  %s:", b.schedule.to_json().c_str());
    std::vector<Entry> before;
    for (const Entry& entry : b.source.entries) {
      const int64_t tokens = load.args(0).num_tokens;
      if (entry.when == When::kRouted || tokens < entry.min_tokens || tokens > entry.max_tokens)
        continue;
      const bool alone = before.empty();
      const auto one = part({entry}), first = alone ? one : part(before);
      before.push_back(entry);
      if (one == nullptr || first == nullptr) continue;
      const int each = alone ? 1 : 2;
      const auto times = device.time(
          [&](int i, Stream s) {
            return (i % each == each - 1 ? one : first)->launch(load.args(0), s);
          },
          repeats * each);
      if (!times.ok()) continue;
      std::vector<double> own;
      for (size_t i = static_cast<size_t>(each) - 1; i < times->size();
           i += static_cast<size_t>(each))
        own.push_back((*times)[i]);
      std::printf("  %s %.1f", entry.name.c_str(), summarize(own).median_s * 1e6);
    }
    std::printf("\n");
  }
}

int run_perf(const Device& device, const Arguments& args, std::FILE* json) {
  const gpu_bench::Layer* layer = nullptr;
  const std::vector<gpu_bench::Layer> all = gpu_bench::layers();
  for (const gpu_bench::Layer& l : all) {
    if (l.name == args.layer) layer = &l;
  }
  if (layer == nullptr) {
    std::fprintf(stderr, "--layer = %s: must be one of", args.layer.c_str());
    for (const gpu_bench::Layer& l : all) std::fprintf(stderr, " %s", l.name.c_str());
    std::fprintf(stderr, "\n");
    return 2;
  }
  const double begin = now();
  const MoeConfig& config = layer->config;
  auto spec = RoutingSpec::parse(args.routing);
  auto weights = Weights::make(config, device, 3 * device.info().target.l2_bytes);
  if (!weights.ok() || !spec.ok()) {
    std::printf("%s: %s\n", layer->name.c_str(), weights.status().to_string().c_str());
    return 1;
  }
  std::mt19937 random(3);
  // The floor takes the rate of a large cuBLAS product, where there is one: no product of a real
  // layer has been seen to reach what the bare instruction does.
  auto probed = probe_limits(device, config.dtype);
  const DeviceLimits limits =
      probed.ok() ? *probed : guess_limits(device.info().target, config.dtype);
  DeviceLimits reachable = limits;
  LibraryProduct product;
  const auto rate = library_flops(device, &product);
  if (rate.ok()) reachable.dot_flops_per_s = *rate;
  if (probed.ok()) {
    report_rates(limits, rate, json);
  } else {
    std::printf("probe: %s; guessed limits\n", probed.status().to_string().c_str());
  }
  if (!args.beside) {
    product = {};  // its matrices take half a gigabyte
  } else if (!rate.ok()) {
    std::printf("--beside = 1: must be 0 where cuBLAS cannot be used: %s\n",
                rate.status().to_string().c_str());
    return 1;
  }
  std::map<std::string, Binary> compiled;  // points share schedules
  for (int64_t tokens : args.tokens) {
    auto load = Workload::make(*weights, device, *spec, tokens, 8, 5);
    if (!load.ok()) {
      std::printf("%s\n", load.status().to_string().c_str());
      continue;
    }
    Expected expected;
    if (args.check_operations > 0) expected = expected_rows(**load, 0, args.check_operations);
    const std::vector<RowCounts> counts = (*load)->row_counts();
    std::vector<Built> built = args.schedule.empty()
                                   ? rank(device, config, args, limits, counts, tokens)
                                   : pick(device, config, args, tokens, &random);
    compile_all(device, config, &built, &compiled);
    RouterBuffers router;
    if (args.routed) {
      auto buffers = router_buffers(device, **load);
      if (!buffers.ok()) {
        std::printf("%s\n", buffers.status().to_string().c_str());
        return 1;
      }
      router = *buffers;
    }
    const MeanFloor floor = mean_floor(config, reachable, counts, tokens);
    struct Row {
      double seconds;
      std::string text;
    };
    std::vector<Row> rows;
    // In rounds over all schedules: a card under load grows slower from round to round.
    std::vector<std::vector<double>> measured(built.size()), products(built.size());
    for (size_t at = 0; at < built.size() * static_cast<size_t>(args.rounds); ++at) {
      const Built& b = built[at % built.size()];
      std::vector<double>& sorted = measured[at % built.size()];
      const bool first = at < built.size(), last = at >= built.size() * (args.rounds - 1);
      if (!b.binary.ok()) {
        if (first) {
          std::printf("%s: %s\n", b.schedule.to_json().c_str(),
                      b.binary.status().log().substr(0, 800).c_str());
        }
        continue;
      }
      const int64_t bytes = workspace_offset(b.source.workspace, b.source.workspace.size(), tokens);
      Status reserved = (*load)->reserve_workspace(device, bytes);
      auto module = device.load(*b.binary, b.source);
      if (!module.ok() || !reserved.ok()) {
        std::printf("%s: %s %s\n", b.schedule.to_json().c_str(),
                    module.ok() ? "" : module.status().to_string().c_str(),
                    reserved.to_string().c_str());
        continue;
      }
      double error = -1;
      if (args.check_operations > 0 && last) {
        auto checked = check_module(device, **module, **load, 0, expected);
        if (!checked.ok() || !checked->problem.empty()) {
          std::printf(
              "WRONG %s: %s\n", b.schedule.to_json().c_str(),
              checked.ok() ? checked->problem.c_str() : checked.status().to_string().c_str());
          if (!checked.ok()) return 1;
          continue;
        }
        error = checked->error;
      }
      const Module& launchable = **module;
      const int each = args.beside ? 2 : 1;
      const auto times = device.time(
          [&](int at_launch, Stream s) {
            const int i = at_launch / each;
            if (at_launch % each != 0) return product.launch(s);
            MoeArgs a = (*load)->args(i);
            if (args.routed) router.apply(&a, i);
            return launchable.launch(a, s);
          },
          args.repeats * each);
      if (!times.ok()) {
        std::printf("%s: %s\n", b.schedule.to_json().c_str(), times.status().to_string().c_str());
        return 1;
      }
      for (size_t i = 0; i < times->size(); ++i)
        (i % static_cast<size_t>(each) == 0 ? sorted : products[at % built.size()])
            .push_back((*times)[i]);
      if (!last) continue;
      std::sort(sorted.begin(), sorted.end());
      const double median_s = sorted[sorted.size() / 2];
      const double predicted =
          predict_seconds(config, device.info().target, b.schedule, limits, counts);
      const double beside =
          args.beside ? product.operations() / summarize(products[at % built.size()]).median_s : 0;
      char of_library[48] = "";
      if (args.beside) {
        std::snprintf(of_library, sizeof of_library, "%.2f of %.0f TF beside  ",
                      floor.flops / median_s / beside, beside * 1e-12);
      }
      char text[512];
      std::snprintf(text, sizeof text,
                    "%-16s %6lld %10.1f us (min %.1f, model %.1f) floor %.2f %7.3f TB/s %6.0f TF  "
                    "%sr%d s%d err %.1e  %s",
                    layer->name.c_str(), static_cast<long long>(tokens), median_s * 1e6,
                    sorted[0] * 1e6, predicted * 1e6, floor.seconds / median_s,
                    floor.bytes / median_s * 1e-12, floor.flops / median_s * 1e-12, of_library,
                    b.binary->registers, b.binary->spill_bytes, error,
                    b.schedule.to_json().c_str());
      rows.push_back({median_s, text});
      if (json != nullptr) {
        std::fprintf(
            json,
            "{\"kind\":\"perf\",\"routed\":%d,\"routing\":\"%s\",\"layer\":\"%s\",\"tokens\":%lld,"
            "\"median_s\":%.6g,\"min_s\":%.6g,\"predicted_s\":%.6g,\"floor_s\":%.6g,\"bytes\":%.6g,"
            "\"flops\":%.6g,\"beside\":%.6g,\"error\":%.3g,\"schedule\":%s}\n",
            args.routed ? 1 : 0, args.routing.c_str(), layer->name.c_str(),
            static_cast<long long>(tokens), median_s, sorted[0], predicted, floor.seconds,
            floor.bytes, floor.flops, beside, error, b.schedule.to_json().c_str());
        std::fflush(json);
      }
    }
    std::sort(rows.begin(), rows.end(),
              [](const Row& a, const Row& b) { return a.seconds < b.seconds; });
    for (const Row& r : rows) {
      std::printf("%s\n", r.text.c_str());
      if (args.best) break;
    }
    if (args.entries) time_entries(device, **load, built, args.repeats);
    std::fflush(stdout);
  }
  std::printf("(%s: %.1f s)\n", layer->name.c_str(), now() - begin);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  int exit_status = 0;
  const auto parsed = parse_arguments(argc, argv, &exit_status);
  if (!parsed) return exit_status;
  const Arguments& args = *parsed;
  if (args.verb == "model") return gpu_bench::run_model(args.json, args.device);
  if (args.verb == "shares") return gpu_bench::run_shares(args.json, args.read, args.dot);
  const auto device = open_device(args.device);
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", device.status().to_string().c_str());
    return 1;
  }
  std::printf("device %s: %s, driver %s\n", (*device)->info().name.c_str(),
              (*device)->info().product.c_str(), (*device)->info().driver.c_str());
  std::FILE* json = args.json.empty() ? nullptr : std::fopen(args.json.c_str(), "a");
  if (!args.json.empty() && json == nullptr) {
    std::fprintf(stderr, "--json = %s: must be a file that can be written\n", args.json.c_str());
    return 2;
  }
  int result = 2;
  if (args.verb == "check") result = run_check(**device, args);
  if (args.verb == "compile") result = run_compile(**device, args);
  if (args.verb == "limits") result = run_limits(**device, json);
  if (args.verb == "perf") result = run_perf(**device, args, json);
  if (json != nullptr) std::fclose(json);
  return result;
}
