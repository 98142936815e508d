// Results that stay in the L2 cache until the combine discards them (templates/kernels/keep.h):
// which, by the size of the cache and of the layer, and that the layer is right either way.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/sim/moe_runner.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;
using moejit::internal::find_family;
using moejit::internal::KernelSource;
using moejit::internal::Schedule;
using moejit::internal::Target;
using moejit::internal::workspace_offset;

struct Form {
  const char* name;
  const char* family;
  const char* arch;
  int hidden = 320, intermediate = 192;
  std::map<std::string, int32_t> params = {};
  int num_shared_experts = 0;
};

void PrintTo(const Form& form, std::ostream* out) {
  *out << form.name;
}

MoeConfig config_of(const Form& form) {
  return {.num_experts = 4,
          .top_k = 2,
          .hidden_size = form.hidden,
          .intermediate_size = form.intermediate,
          .dtype = DType::kBF16,
          .num_shared_experts = form.num_shared_experts,
          .router = {}};
}

constexpr int64_t kTokens = 40;

KernelSource source_of(const Form& form, int64_t l2_bytes) {
  const MoeConfig config = config_of(form);
  Target target = sim_target(form.arch);
  target.l2_bytes = l2_bytes;
  const auto* family = find_family(form.family);
  Schedule schedule = family->default_schedule(config, target, kTokens);
  for (const auto& [name, value] : form.params) schedule.params[name] = value;
  EXPECT_EQ(family->why_not(config, target, schedule).value_or(""), "");
  return family->emit(config, target, schedule);
}

// Whole lines of a region, and those of them that nothing is left of: the simulator fills a line
// that is discarded with ones, which neither h nor y ever are.
struct Lines {
  int64_t all = 0, gone = 0;
};
Lines lines_of(const KernelSource& source, const std::vector<unsigned char>& workspace,
               const std::string& name) {
  Lines lines;
  for (size_t i = 0; i < source.workspace.size(); ++i) {
    const auto& region = source.workspace[i];
    if (region.name != name) continue;
    const int64_t begin = workspace_offset(source.workspace, i, kTokens);
    const int64_t bytes = region.fixed_bytes + region.bytes_per_token * kTokens;
    for (int64_t at = 0; at + 128 <= bytes; at += 128) {
      const auto* line = workspace.data() + begin + at;
      ++lines.all;
      lines.gone += std::all_of(line, line + 128, [](unsigned char c) { return c == 0xff; });
    }
  }
  return lines;
}

class SimKeep : public testing::TestWithParam<Form> {};

TEST_P(SimKeep, WhatFitsIsDiscarded) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const Form& form = GetParam();
  const KernelSource any = source_of(form, 1 << 20);
  int64_t h_bytes = 0, y_bytes = 0;
  for (const auto& region : any.workspace) {
    if (region.name == "h") h_bytes = region.bytes_per_token * kTokens;
    if (region.name == "y") y_bytes = region.bytes_per_token * kTokens;
  }
  ASSERT_GT(h_bytes, 0);
  ASSERT_GT(y_bytes, h_bytes);
  struct Cache {
    int64_t bytes;
    bool y, h;
  };
  // A power of two each, with room for the rounding: y up to 3/2 of the cache, h where y takes up
  // to 3/4 of it.
  const auto power = [](double at_least) {
    int64_t size = 1;
    while (static_cast<double>(size) < at_least) size *= 2;
    return size;
  };
  const double y = static_cast<double>(y_bytes);
  const int64_t some = power(y / 1.5);
  ASSERT_LT(static_cast<double>(some), y / 0.75) << "no power of two keeps y alone";
  for (const Cache& cache : {Cache{some / 2, false, false}, Cache{some, true, false},
                             Cache{power(y / 0.75), true, true}}) {
    const KernelSource source = source_of(form, cache.bytes);
    const SimKernel kernel(form.arch, source);
    ASSERT_EQ(kernel.error(), "");
    const MoeConfig config = config_of(form);
    Problem problem = make_problem(config, {.tokens = kTokens, .seed = 11});
    std::vector<unsigned char> left;
    ASSERT_EQ(kernel.run(&problem, false, &left), "");
    EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
              tolerance(config.dtype));
    const Lines of_y = lines_of(source, left, "y"), of_h = lines_of(source, left, "h");
    EXPECT_EQ(of_y.gone, cache.y ? of_y.all : 0) << cache.bytes;
    EXPECT_EQ(of_h.gone, cache.h ? of_h.all : 0) << cache.bytes;
  }
}

const Form kForms[] = {
    {.name = "Swapped",
     .family = "cuda_tile90",
     .arch = "sm_90a",
     .params = {{"swap", 2},
                {"tile_m", 64},
                {"tile_n", 128},
                {"stages", 8},
                {"blocks", 1},
                {"cluster", 1},
                {"split", 1},
                {"partial", 16}}},
    {.name = "Straight",
     .family = "cuda_tile90",
     .arch = "sm_90a",
     .intermediate = 1024,
     .params = {{"swap", 0},
                {"tile_m", 128},
                {"tile_n", 256},
                {"stages", 4},
                {"blocks", 1},
                {"cluster", 1},
                {"split", 2},
                {"partial", 32}}},
    {.name = "Tile80", .family = "cuda_tile80", .arch = "sm_80"},
    {.name = "Shared", .family = "cuda_tile80", .arch = "sm_90a", .num_shared_experts = 1},
};

INSTANTIATE_TEST_SUITE_P(Forms, SimKeep, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

// A row of y of 656 bytes shares a line with the next one, which another thread reads.
TEST(SimKeepRows, SharedLinesStay) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  Form form = kForms[0];
  form.hidden = 328;
  const KernelSource source = source_of(form, 1 << 20);
  const SimKernel kernel(form.arch, source);
  ASSERT_EQ(kernel.error(), "");
  Problem problem = make_problem(config_of(form), {.tokens = kTokens, .seed = 12});
  std::vector<unsigned char> left;
  ASSERT_EQ(kernel.run(&problem, false, &left), "");
  EXPECT_LE(worst_row_error(problem.result(), problem.expected(), form.hidden),
            tolerance(DType::kBF16));
  EXPECT_EQ(lines_of(source, left, "y").gone, 0);
}

// What was compiled for an architecture serves devices of it whose caches differ a little.
TEST(KeepSource, CachesOfOneClassShareIt) {
  const auto text = [](int64_t mib) { return source_of(kForms[0], mib << 20).text; };
  EXPECT_EQ(text(50), text(60));
  EXPECT_NE(text(50), text(40));
  EXPECT_NE(text(60), text(64));
}

}  // namespace
}  // namespace moejit_test
