// The layer's own kernels with one synchronisation call taken out, each in turn: the simulator must
// report every one of them, except those that some other call makes redundant.
#include <gtest/gtest.h>

#include <cstdio>

#include "base/settings.h"
#include "tests/sim/moe_runner.h"

namespace moejit_test {
namespace {

using namespace moejit::internal;  // NOLINT: a test of internals

// Where `call` stands as a statement of its own in the kernels' part of the text.
std::vector<size_t> statements(const std::string& text, const std::string& call) {
  std::vector<size_t> found;
  const size_t kernels = text.find("namespace moe {");
  for (size_t at = text.find(call, kernels); at != std::string::npos;
       at = text.find(call, at + 1)) {
    size_t begin = text.rfind('\n', at) + 1;
    if (text.find_first_not_of(' ', begin) == at) found.push_back(at);
  }
  return found;
}

struct Mutant {
  std::string call;
  std::string line;
  int number;
  std::string verdict;  // "" where it passed
};

// Is taken out by `if constexpr` for AMD, where nothing is kept to be discarded.
constexpr const char* kOfDiscards = "// a line is read by eight lanes";

// `known`: verdicts on the same mutants by another schedule or layer; only those that passed there
// are run again. Below level 2 one of `every` mutants is run, in the longest lists.
std::vector<Mutant> run_mutants(const moejit::MoeConfig& config, const std::string& arch,
                                const std::string& family_name,
                                const std::vector<std::string>& calls, int64_t tokens, int64_t many,
                                const std::map<std::string, int32_t>& params = {},
                                const std::vector<Mutant>& known = {}, int every = 1) {
  std::vector<Mutant> mutants;
  const Family* family = find_family(family_name);
  EXPECT_NE(family, nullptr);
  Schedule schedule = family->default_schedule(config, sim_target(arch), tokens);
  for (const auto& [name, value] : params) schedule.params[name] = value;
  EXPECT_EQ(family->why_not(config, sim_target(arch), schedule).value_or(""), "");
  int place = 0;
  for (const std::string& call : calls) {
    const KernelSource original = family->emit(config, sim_target(arch), schedule);
    int number = 0;
    for (size_t at : statements(original.text, call)) {
      KernelSource source = original;
      const size_t end = source.text.find(';', at);
      const std::string line = source.text.substr(at, end - at + 1);
      const bool amd = arch.starts_with("gfx");
      if (amd && source.text.substr(at, source.text.find('\n', at) - at).ends_with(kOfDiscards))
        continue;
      if (test_level() < 2 && place++ % every != 0) {
        ++number;
        continue;
      }
      if (mutants.size() < known.size()) {
        const Mutant& before = known[mutants.size()];
        EXPECT_EQ(before.line, line);
        if (!before.verdict.empty()) {
          mutants.push_back(before);
          ++number;
          continue;
        }
      }
      for (size_t i = at; i < end; ++i) source.text[i] = ' ';
      const SimKernel kernel(arch, source);
      EXPECT_EQ(kernel.error(), "");
      // Routed launches reach the router; the longer one the paths for many slots.
      Problem routed =
          make_problem(config, {.tokens = tokens, .seed = 5, .routing = RoutingKind::kFromLogits});
      std::string verdict = kernel.run(&routed, true);
      if (verdict.empty()) {
        Problem longer =
            make_problem(config, {.tokens = many, .seed = 6, .routing = RoutingKind::kZipf});
        verdict = kernel.run(&longer);
      }
      // What only some counts reach: lists of a middle length, a single token, and a token that
      // names an expert twice.
      if (verdict.empty()) {
        Problem middle =
            make_problem(config, {.tokens = 40, .seed = 7, .routing = RoutingKind::kFromLogits});
        verdict = kernel.run(&middle, true);
      }
      if (verdict.empty()) {
        Problem one =
            make_problem(config, {.tokens = 1, .seed = 9, .routing = RoutingKind::kFromLogits});
        verdict = kernel.run(&one, true);
      }
      if (verdict.empty()) {
        Problem twice = make_problem(
            config, {.tokens = tokens, .seed = 8, .routing = RoutingKind::kDuplicates});
        verdict = kernel.run(&twice);
      }
      mutants.push_back({call, line, number++, verdict});
    }
  }
  return mutants;
}

// At least `least` of every ten mutants are found; the rest are listed in the test's output.
void expect_found(const std::vector<Mutant>& mutants, size_t least) {
  size_t found = 0;
  for (const Mutant& m : mutants) {
    if (!m.verdict.empty()) {
      ++found;
    } else {
      std::printf("  passes without %s (number %d)\n", m.line.c_str(), m.number);
    }
  }
  EXPECT_FALSE(mutants.empty());
  EXPECT_GE(found * 10, mutants.size() * least) << found << " of " << mutants.size();
}

const std::vector<std::string> kAmpere = {"block_sync(", "warp_sync(", "cp_async_wait<",
                                          "bar_sync("};
const std::vector<std::string> kHopper = {
    "block_sync(",       "warp_sync(",  "cp_async_wait<", "bar_sync(",    "grid_wait(",
    "mbar_wait(",        "wgmma_wait<", "wgmma_fence(",   "mbar_arrive(", "cp_async_arrive_noinc(",
    "fence_proxy_async("};

moejit::MoeConfig layer(int32_t hidden, int32_t intermediate) {
  return {.num_experts = 4,
          .top_k = 2,
          .hidden_size = hidden,
          .intermediate_size = intermediate,
          .dtype = moejit::DType::kBF16,
          .router = {.correction_bias = true, .n_group = 2, .topk_group = 1}};
}

TEST(SimMutation, Tile90) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  constexpr int kEvery = 4;
  // Each form of the kernels is found by schedules that have it; the text is the same.
  const std::vector<Mutant> swapped = run_mutants(
      layer(320, 192), "sm_90a", "cuda_tile90", kHopper, 100, 120,
      {{"swap", 2}, {"tile_m", 64}, {"tile_n", 128}, {"stages", 8}, {"launches", 5}}, {}, kEvery);
  const std::vector<Mutant> straight =
      run_mutants(layer(320, 192), "sm_90a", "cuda_tile90", kHopper, 100, 120,
                  {{"swap", 0}, {"tile_m", 128}, {"tile_n", 128}, {"stages", 6}, {"launches", 5}},
                  swapped, kEvery);
  // Tiles in turns go twice around the ring, which it takes to miss a turn.
  const std::vector<Mutant> turns =
      run_mutants(layer(776, 392), "sm_90a", "cuda_tile90", kHopper, 100, 140,
                  {{"swap", 2}, {"tile_m", 128}, {"tile_n", 128}, {"stages", 6}, {"launches", 5}},
                  straight, kEvery);
  const std::vector<Mutant> mutants =
      run_mutants(layer(576, 72), "sm_90a", "cuda_tile90", kHopper, 20, 33,
                  {{"swap", 2}, {"tile_m", 64}, {"tile_n", 256}, {"stages", 5}, {"launches", 3}},
                  turns, kEvery);
  ASSERT_EQ(mutants.size(), swapped.size());
  expect_found(mutants, 8);
}

// The calls that a cluster adds, in a schedule that has clusters.
TEST(SimMutation, Tile90Cluster) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  const std::map<std::string, int32_t> cluster = {
      {"tile_m", 128}, {"tile_n", 256}, {"stages", 4}, {"blocks", 1}, {"cluster", 2}};
  // One column tile of each product, so that an odd row tile leaves a block without work.
  expect_found(run_mutants(layer(248, 120), "sm_90a", "cuda_tile90",
                           {"mbar_arrive(", "mbar_wait(", "mbar_arrive_cluster(", "cluster_sync("},
                           100, 200, cluster),
               8);
}

// What hands the items out: the tickets' first values and what the producer's warps wait for. Tiles
// of fewer steps than the ring has stages, which otherwise keeps the warps together.
TEST(SimMutation, Tile90Tickets) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  const std::vector<Mutant> mutants = run_mutants(
      layer(136, 392), "sm_90a", "cuda_tile90",
      {"stg_i32(counts + kPlanTickets", "bar_sync(kProducerBarrier", "next ^= 4u"}, 100, 140,
      {{"swap", 2}, {"tile_m", 64}, {"tile_n", 128}, {"stages", 8}, {"launches", 5}});
  EXPECT_EQ(mutants.size(), 3);
  expect_found(mutants, 10);
}

// Weights that are asked for by pairs: the waits for the second of two stages.
TEST(SimMutation, Tile90Pairs) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  const std::vector<Mutant> mutants = run_mutants(
      layer(1544, 72), "sm_90a", "cuda_tile90", {"mbar_wait(s.empty", "at.next()", "ring.next()"},
      30, 40, {{"swap", 2}, {"tile_m", 64}, {"tile_n", 128}, {"stages", 8}, {"launches", 5}});
  EXPECT_EQ(mutants.size(), 11);
  expect_found(mutants, 8);
}

// The waits of two warpgroups that take turns, whose tiles go twice around the ring.
TEST(SimMutation, Tile90Turns) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  const std::vector<Mutant> mutants =
      run_mutants(layer(776, 392), "sm_90a", "cuda_tile90",
                  {"mbar_wait(s.turn", "mbar_arrive(s.turn", "pass_turn(", "ring.skip<"}, 100, 140,
                  {{"swap", 2}, {"tile_m", 128}, {"tile_n", 128}, {"stages", 6}, {"launches", 5}});
  EXPECT_EQ(mutants.size(), 6);
  expect_found(mutants, 10);
}

// What orders the sums of a layer in three launches. The combine, which has a warp_sync too, is not
// called.
TEST(SimMutation, Tile90Launches) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  const std::vector<Mutant> mutants = run_mutants(
      layer(576, 72), "sm_90a", "cuda_tile90",
      {"wait_for_tiles(", "bar_sync(kAddBarrier", "warp_sync();  // a line is read by eight",
       "stg_i32(counts + kPlanTickets"},
      20, 33, {{"swap", 2}, {"tile_m", 64}, {"tile_n", 256}, {"stages", 5}, {"launches", 3}});
  EXPECT_EQ(mutants.size(), 6);
  expect_found(mutants, 8);
}

TEST(SimMutation, Stream) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  // Without the named barriers: this layer's router has groups, so that one warp routes; the test
  // below takes them out.
  const auto without = [](std::vector<std::string> calls) {
    std::erase(calls, "bar_sync(");
    return calls;
  };
  expect_found(
      run_mutants(layer(136, 72), "sm_80", "cuda_stream", without(kAmpere), 6, 515, {}, {}, 3), 8);
  expect_found(
      run_mutants(layer(136, 72), "sm_90a", "cuda_stream", without(kHopper), 6, 515, {}, {}, 3), 8);
}

// The persistent launch, whose router of one token has barriers of its own: with and without the
// first of its two counts.
TEST(SimMutation, StreamRouter) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  moejit::MoeConfig config = layer(1032, 8);  // a stage of gate+up for every warp
  config.router = {};
  config.top_k = 3;
  for (const int experts : {24, 97}) {
    config.num_experts = experts;
    const std::vector<Mutant> mutants =
        run_mutants(config, "sm_90a", "cuda_stream",
                    {"bar_sync(", "warp_sync();  // copies into the ring"}, 1, 2);
    ASSERT_EQ(mutants.size(), 4u);
    // The second one belongs to the first count.
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(mutants[i].verdict.empty(), i == 1 && experts == 24) << i << ", " << experts;
    }
  }
}

// Waves of 64 over LDS, in the schedules with one buffer and with two. Of about ten calls one of
// the plan and one of the router is redundant in every family, and two buffers do not have the
// barrier of one.
TEST(SimMutation, Mfma) {
  if (sim_archs().empty()) GTEST_SKIP() << "no compiler module";
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  const std::vector<std::string> calls = {"block_sync(", "warp_sync("};
  for (const int32_t buffers : {1, 2}) {
    expect_found(run_mutants(layer(320, 192), "gfx942", "hip_tile", calls, 100, 120,
                             {{"buffers", buffers}, {"blocks", 1}}),
                 7);
  }
  expect_found(run_mutants(layer(136, 72), "gfx942", "hip_stream", calls, 6, 60), 7);
  expect_found(run_mutants(layer(136, 72), "gfx1100", "hip_tile", calls, 40, 60), 7);
}

}  // namespace
}  // namespace moejit_test
