// What gpu_moe checks and times.
#pragma once

#include <string>
#include <vector>

#include "moejit/config.h"

namespace moejit::gpu_bench {

struct CheckCase {
  std::string name;
  MoeConfig config;
  std::vector<int64_t> tokens;
  std::string routing = "uniform";
};
// Small layers that between them use every field of the config.
std::vector<CheckCase> check_cases();

// A named layer at its real size.
struct Layer {
  std::string name;
  MoeConfig config;
};
std::vector<Layer> layers();

}  // namespace moejit::gpu_bench
