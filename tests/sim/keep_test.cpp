// Results that stay in the L2 cache until the combine, or down, discards them
// (templates/kernels/keep.h): which, by the size of the cache and of the layer, and that the layer
// is right either way.
#include <gtest/gtest.h>

#include <algorithm>

#include "backends/sim/sim_module.h"
#include "base/settings.h"
#include "runtime/library.h"
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

int64_t bytes_of(const KernelSource& source, const std::string& name) {
  for (const auto& region : source.workspace) {
    if (region.name == name) return region.bytes_per_token * kTokens;
  }
  return 0;
}

// The largest power of two up to `bytes`: what a cache may have without being rounded.
int64_t power_up_to(int64_t bytes) {
  int64_t size = 1;
  while (size * 2 <= bytes) size *= 2;
  return size;
}

// With all checks a launch runs twice.
int64_t runs() {
  return moejit::internal::settings().sim_checks == "fast" ? 1 : 2;
}

class SimKeep : public testing::TestWithParam<Form> {};

TEST_P(SimKeep, WhatFitsIsDiscarded) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  const Form& form = GetParam();
  const MoeConfig config = config_of(form);
  const KernelSource any = source_of(form, 1 << 20);
  const int64_t h = bytes_of(any, "h"), y = bytes_of(any, "y");
  ASSERT_GT(h, 0);
  ASSERT_GT(y, 0);
  bool large_h = false, both = false;
  // y up to 3/2 of the cache; h up to all of it, where y takes up to 3/4.
  for (int64_t cache = power_up_to(y / 2); !both; cache *= 2) {
    const bool keeps_y = 2 * y <= 3 * cache, keeps_h = 4 * y <= 3 * cache && h <= cache;
    both = keeps_y && keeps_h;
    large_h |= 4 * y <= 3 * cache && h > cache;
    const KernelSource source = source_of(form, cache);
    const SimKernel kernel(form.arch, source);
    ASSERT_EQ(kernel.error(), "");
    Problem problem = make_problem(config, {.tokens = kTokens, .seed = 11});
    std::vector<unsigned char> left;
    moejit::internal::sim::take_counters();
    ASSERT_EQ(kernel.run(&problem, false, &left), "");
    const int64_t kept = moejit::internal::sim::take_counters().kept_bytes;
    EXPECT_LE(worst_row_error(problem.result(), problem.expected(), config.hidden_size),
              tolerance(config.dtype));
    const Lines of_y = lines_of(source, left, "y"), of_h = lines_of(source, left, "h");
    EXPECT_EQ(of_y.gone, keeps_y ? of_y.all : 0) << cache;
    EXPECT_EQ(of_h.gone, keeps_h ? of_h.all : 0) << cache;
    EXPECT_EQ(kept, ((keeps_y ? y : 0) + (keeps_h ? h : 0)) * runs()) << cache;
  }
  EXPECT_EQ(large_h, h > y * 4 / 3) << "only a large h is too large where y has room for it";
}

const std::map<std::string, int32_t> kNarrow = {{"swap", 2},   {"tile_m", 64},  {"tile_n", 128},
                                                {"stages", 8}, {"blocks", 1},   {"cluster", 1},
                                                {"split", 1},  {"partial", 16}, {"launches", 5}};

const Form kForms[] = {
    {.name = "Swapped", .family = "cuda_tile90", .arch = "sm_90a", .params = kNarrow},
    {.name = "ThreeLaunches",  // where down discards
     .family = "cuda_tile90",
     .arch = "sm_90a",
     .params = {{"swap", 2},
                {"tile_m", 64},
                {"tile_n", 256},
                {"stages", 5},
                {"blocks", 1},
                {"cluster", 1},
                {"split", 1},
                {"partial", 32},
                {"launches", 3}}},
    {.name = "LargeH",  // so that the size of h decides
     .family = "cuda_tile90",
     .arch = "sm_90a",
     .hidden = 128,
     .intermediate = 1088,
     .params = kNarrow},
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
                {"partial", 32},
                {"launches", 5}}},
    {.name = "Shared",
     .family = "cuda_tile90",
     .arch = "sm_90a",
     .params = {{"swap", 2},
                {"tile_m", 128},
                {"tile_n", 128},
                {"stages", 6},
                {"blocks", 1},
                {"cluster", 1},
                {"split", 1},
                {"partial", 32},
                {"launches", 5}},
     .num_shared_experts = 1},
};

INSTANTIATE_TEST_SUITE_P(Forms, SimKeep, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

// The last token count that is kept and the first that is not; the rows of slots that this process
// skips are not asked for.
TEST(SimKeepTokens, UpToTheLimit) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  for (Form form : {kForms[0], kForms[1]}) {
    form.hidden = 512;  // 1 KiB of y a row
    form.params["partial"] = 16;
    const KernelSource source = source_of(form, 40 << 10);  // counted as 32 KiB: y of 24 tokens
    const SimKernel kernel(form.arch, source);
    ASSERT_EQ(kernel.error(), "");
    for (const int64_t tokens : {24, 25}) {
      for (const RoutingKind routing : {RoutingKind::kUniform, RoutingKind::kSentinels}) {
        Problem problem =
            make_problem(config_of(form), {.tokens = tokens, .seed = 13, .routing = routing});
        int64_t rows = 0;
        for (int64_t i = 0; i < tokens * 2; ++i)
          rows += problem.ids.as<int>()[i] >= 0 && problem.ids.as<int>()[i] < 4;
        EXPECT_EQ(rows < tokens * 2, routing == RoutingKind::kSentinels);
        moejit::internal::sim::take_counters();
        ASSERT_EQ(kernel.run(&problem), "");
        const int64_t discarded = moejit::internal::sim::take_counters().discarded_bytes;
        EXPECT_LE(worst_row_error(problem.result(), problem.expected(), form.hidden),
                  tolerance(DType::kBF16));
        EXPECT_EQ(discarded, tokens > 24 ? 0 : rows * 1024 * runs()) << rows << " rows";
      }
    }
  }
}

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

// Nor do they change what a choice means.
TEST(KeepSource, DevicesOfAnArchitectureShareTheDigest) {
  using moejit::internal::compute_generator_digest;
  Target target = sim_target("sm_90a");
  const std::string digest = compute_generator_digest(target);
  target.l2_bytes /= 2;
  EXPECT_EQ(compute_generator_digest(target), digest);
  Target dies = sim_target("gfx942");
  dies.backend = moejit::internal::BackendKind::kHip;
  dies.num_units = 304;
  const std::string eight = compute_generator_digest(dies);
  dies.num_units = 228;
  EXPECT_EQ(compute_generator_digest(dies), eight);
}

// Elsewhere it was not measured, and the text does not depend on the device.
TEST(KeepSource, OtherFamiliesKeepNothing) {
  for (const char* arch : {"sm_80", "sm_90a"}) {
    const auto text = [&](int64_t mib) {
      return source_of({.name = "Tile80", .family = "cuda_tile80", .arch = arch}, mib << 20).text;
    };
    EXPECT_EQ(text(6), text(96));
    EXPECT_NE(text(6).find("kL2Bytes = 0;"), std::string::npos);
  }
}

}  // namespace
}  // namespace moejit_test
