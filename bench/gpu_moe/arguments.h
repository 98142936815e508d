// The command line of gpu_moe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace moejit::gpu_bench {

struct Arguments {
  std::string verb, device = "cuda:0", layer, family, json, schedule, routing = "uniform";
  std::vector<int64_t> tokens;
  int samples = 3, repeats = 20, rounds = 1;
  double check_operations = 3e8;
  double read = 0, dot = 0;  // limits that shares refers to
  bool entries = false, routed = false, best = false, beside = false;
};

// What was asked for; otherwise the exit status, after help or an error was printed.
std::optional<Arguments> parse_arguments(int argc, char** argv, int* exit_status);

}  // namespace moejit::gpu_bench
