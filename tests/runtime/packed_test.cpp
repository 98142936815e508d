// Kernels of packed weights beside those of the same layer without: told apart everywhere, and
// right in several threads that pack, ask and launch at once.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <set>
#include <string>
#include <thread>

#include "moejit/moejit.h"
#include "moejit/pack.h"
#include "moejit/tuning.h"
#include "runtime/library.h"
#include "tests/generators/problem.h"

namespace {

using moejit::DType;
using moejit::Kernel;
using moejit::MoeConfig;
using moejit::Options;
using moejit::Policy;
using moejit::Source;
using moejit::StatusCode;
using moejit_test::GuardedBuffer;
using moejit_test::make_problem;
using moejit_test::Problem;

constexpr int64_t kTokens = 9;

// Neither H nor I is whole blocks.
MoeConfig layer() {
  return {.num_experts = 6, .top_k = 2, .hidden_size = 72, .intermediate_size = 40};
}

MoeConfig with_packed(MoeConfig config) {
  config.packed = true;
  return config;
}

// The worst row's error against the reference; infinite where anything failed.
double error_of(const Kernel& kernel, Problem* p) {
  GuardedBuffer w13, w2, workspace(kernel.workspace_size(p->options.tokens), 256);
  moejit::LaunchArgs args = p->launch_args();
  if (kernel.config().packed) {
    const auto bytes = moejit::packed_bytes(p->config, "cpu");
    if (!bytes.ok()) return INFINITY;
    w13 = GuardedBuffer(static_cast<size_t>(bytes->w13));
    w2 = GuardedBuffer(static_cast<size_t>(bytes->w2));
    if (!moejit::pack_weights(p->config, args.w13, args.w2, w13.data(), w2.data(), "cpu").ok()) {
      return INFINITY;
    }
    args.w13 = w13.data();
    args.w2 = w2.data();
  }
  args.workspace = workspace.data();
  args.workspace_size = workspace.size();
  p->out.fill_nan();
  if (!kernel.launch(args).ok() || !p->intact() || !workspace.intact()) return INFINITY;
  if (kernel.config().packed && !(w13.intact() && w2.intact())) return INFINITY;
  return moejit_test::worst_row_error(p->result(), p->expected(), p->config.hidden_size);
}

class PackedKernels : public testing::Test {
 protected:
  void SetUp() override {
    std::string path = testing::TempDir() + "moejit_packed_XXXXXX";
    directory_ = mkdtemp(path.data());
    const auto probe = moejit::get_kernel(layer(), options());
    if (!probe.ok() && probe.status().code() == StatusCode::kUnavailable) {
      GTEST_SKIP() << "no compiler of CPU kernels here: " << probe.status().message();
    }
    ASSERT_TRUE(probe.ok()) << probe.status().to_string();
    moejit::internal::forget_kernels();
  }
  Options options(Policy policy = Policy::kCached) const {
    Options options;
    options.device = "cpu";
    options.max_tokens = 16;
    options.cache_path = directory_;
    options.num_threads = 2;
    options.policy = policy;
    return options;
  }
  int64_t compiled() const {
    for (const auto& [key, value] : moejit::internal::open_store(directory_)->counters()) {
      if (key == "compile") return value;
    }
    return 0;
  }
  std::string directory_;
};

TEST_F(PackedKernels, AreKeptApartInTheProcessAndInTheDatabase) {
  // What is cached of one layer does not serve the other.
  EXPECT_EQ(moejit::get_kernel(with_packed(layer()), options(Policy::kFrozen)).status().code(),
            StatusCode::kNotReady);
  Problem p = make_problem(layer(), {.tokens = kTokens});
  const double limit = moejit_test::tolerance(layer().dtype);
  std::vector<Kernel> alive;
  int64_t compiles = -1;
  for (const Policy policy : {Policy::kCached, Policy::kFrozen}) {
    const auto plain = moejit::get_kernel(layer(), options(policy));
    const auto packed = moejit::get_kernel(with_packed(layer()), options(policy));
    ASSERT_TRUE(plain.ok()) << plain.status().to_string();
    ASSERT_TRUE(packed.ok()) << packed.status().to_string();
    EXPECT_NE(plain->state(), packed->state());
    EXPECT_FALSE(plain->config().packed);
    EXPECT_TRUE(packed->config().packed);
    // In either order.
    EXPECT_EQ(moejit::get_kernel(with_packed(layer()), options(policy))->state(), packed->state());
    EXPECT_EQ(moejit::get_kernel(layer(), options(policy))->state(), plain->state());
    alive.push_back(*plain);
    alive.push_back(*packed);
    // Those of before, too: they are still held.
    for (const Kernel& kernel : alive) EXPECT_LT(error_of(kernel, &p), limit);
    if (policy == Policy::kFrozen) {
      EXPECT_EQ(compiled(), compiles) << "the database had them";
    }
    compiles = compiled();
    moejit::internal::forget_kernels();
  }
  std::set<const void*> states;
  for (const Kernel& kernel : alive) states.insert(kernel.state().get());
  EXPECT_EQ(states.size(), 4u);
}

TEST_F(PackedKernels, AChoiceForOneIsNoneForTheOther) {
  for (const bool packed : {true, false}) {
    // A layer of its own for each order.
    MoeConfig tuned_layer = layer(), other = layer();
    tuned_layer.num_experts = other.num_experts = packed ? 4 : 5;
    tuned_layer.packed = packed;
    other.packed = !packed;
    moejit::TuneRequest request;  // bounded by candidates, not by time
    request.config = tuned_layer;
    request.device = "cpu";
    request.tokens = {4};
    request.max_candidates = 1;
    request.num_threads = 2;
    request.cache_path = directory_;
    const auto report = moejit::tune(request);
    ASSERT_TRUE(report.ok()) << report.status().to_string();
    Options later = options();
    later.max_tokens = 4;
    later.tokens = {4};
    const auto untuned = moejit::get_kernel(other, later);
    ASSERT_TRUE(untuned.ok()) << untuned.status().to_string();
    EXPECT_EQ(untuned->buckets()[0].source, Source::kModel);
    const auto again = moejit::get_kernel(tuned_layer, later);
    ASSERT_TRUE(again.ok()) << again.status().to_string();
    EXPECT_EQ(again->buckets()[0].source, Source::kExact);
  }
}

TEST_F(PackedKernels, SeveralThreadsMayPackAskAndLaunch) {
  // Arrangements of two dtypes, each by two threads, of other values.
  std::vector<MoeConfig> layers;
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const bool other : {false, true}) {
      MoeConfig config = layer();
      config.dtype = dtype;
      config.transposed = config.interleaved = config.up_first = other;
      layers.push_back(config);
      layers.push_back(config);
    }
  }
  std::atomic<size_t> waiting{layers.size()};
  std::vector<double> errors(layers.size(), INFINITY);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < layers.size(); ++t) {
    threads.emplace_back([&, t] {
      Problem p = make_problem(layers[t], {.tokens = kTokens, .seed = t + 1});
      --waiting;
      while (waiting > 0) std::this_thread::yield();
      double worst = 0;
      for (int repeat = 0; repeat < 5; ++repeat) {
        for (const bool packed : {true, false}) {
          const auto kernel =
              moejit::get_kernel(packed ? with_packed(layers[t]) : layers[t], options());
          worst = std::max(worst, kernel.ok() ? error_of(*kernel, &p) : INFINITY);
        }
      }
      errors[t] = worst;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < layers.size(); ++t) {
    EXPECT_LT(errors[t], moejit_test::tolerance(layers[t].dtype)) << t << layers[t].to_json();
  }
}

}  // namespace
