// get_kernel as its callers meet it: hits, misses, policies, choices, and caches that cannot be
// used.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <set>
#include <thread>

#include "moejit/moejit.h"
#include "moejit/tuning.h"
#include "runtime/library.h"

namespace {

using moejit::Kernel;
using moejit::MoeConfig;
using moejit::Options;
using moejit::Policy;
using moejit::Result;
using moejit::Source;
using moejit::StatusCode;

MoeConfig layer(int hidden = 128) {
  return {.num_experts = 8, .top_k = 2, .hidden_size = hidden, .intermediate_size = 64};
}

std::string fresh_directory() {
  std::string path = testing::TempDir() + "moejit_get_kernel_XXXXXX";
  return mkdtemp(path.data());
}

Options cpu(const std::string& directory, int64_t max_tokens = 16) {
  Options options;
  options.device = "cpu";
  options.max_tokens = max_tokens;
  options.cache_path = directory;
  options.num_threads = 2;
  return options;
}

int64_t counter(const std::string& directory, const std::string& name) {
  for (const auto& [key, value] : moejit::internal::open_store(directory)->counters()) {
    if (key == name) return value;
  }
  return -1;
}

class GetKernelOnCpu : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fresh_directory();
    const auto probe = moejit::get_kernel(layer(), cpu(directory_));
    if (!probe.ok() && probe.status().code() == StatusCode::kUnavailable) {
      GTEST_SKIP() << "no compiler of CPU kernels here: " << probe.status().message();
    }
    ASSERT_TRUE(probe.ok()) << probe.status().to_string();
    moejit::internal::forget_kernels();
  }
  std::string directory_;
};

TEST_F(GetKernelOnCpu, SecondCallReturnsTheSameState) {
  const auto a = moejit::get_kernel(layer(), cpu(directory_));
  const auto b = moejit::get_kernel(layer(), cpu(directory_));
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->state(), b->state());
  const auto c = moejit::get_kernel(layer(256), cpu(directory_));
  ASSERT_TRUE(c.ok());
  EXPECT_NE(a->state(), c->state());
}

TEST_F(GetKernelOnCpu, EveryFieldOfTheConfigIsPartOfTheKey) {
  std::vector<MoeConfig> configs(12, layer());
  configs[1].top_k = 3;
  configs[2].activation = moejit::Activation::kGelu;
  configs[3].bias = true;
  configs[4].interleaved = true;
  configs[5].up_first = true;
  configs[6].num_shared_experts = 1;
  configs[7].weight_on_input = true;
  configs[8].router.renormalize = true;
  configs[9].router.scaling_factor = 2.5;
  configs[10].dtype = moejit::DType::kF32;
  configs[11].swiglu_limit = 3.5;
  std::set<const void*> states;
  std::vector<Kernel> keep;
  for (const MoeConfig& config : configs) {
    const auto kernel = moejit::get_kernel(config, cpu(directory_));
    ASSERT_TRUE(kernel.ok()) << config.to_json() << kernel.status().to_string();
    EXPECT_TRUE(kernel->config() == config);
    states.insert(kernel->state().get());
    keep.push_back(*kernel);
  }
  EXPECT_EQ(states.size(), configs.size());
}

TEST_F(GetKernelOnCpu, AfterForgettingTheDatabaseAnswersWithoutACompile) {
  ASSERT_TRUE(moejit::get_kernel(layer(), cpu(directory_)).ok());
  const int64_t compiled = counter(directory_, "compile");
  moejit::internal::forget_kernels();
  ASSERT_TRUE(moejit::get_kernel(layer(), cpu(directory_)).ok());
  EXPECT_EQ(counter(directory_, "compile"), compiled);
  EXPECT_GE(compiled, 1);
}

TEST_F(GetKernelOnCpu, ConcurrentFirstCallsCompileOnce) {
  const MoeConfig config = layer(384);
  const int64_t before = counter(directory_, "compile");
  std::vector<std::thread> threads;
  std::vector<Kernel> kernels(8);
  for (Kernel& kernel : kernels) {
    threads.emplace_back([&kernel, &config, this] {
      const auto result = moejit::get_kernel(config, cpu(directory_));
      if (result.ok()) kernel = *result;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Kernel& kernel : kernels) EXPECT_EQ(kernel.state(), kernels[0].state());
  ASSERT_TRUE(kernels[0]);
  std::set<std::string> schedules;
  for (const auto& bucket : kernels[0].buckets()) schedules.insert(bucket.schedule);
  EXPECT_EQ(counter(directory_, "compile") - before, static_cast<int64_t>(schedules.size()));
}

TEST_F(GetKernelOnCpu, FrozenNeverCompiles) {
  Options frozen = cpu(directory_);
  frozen.policy = Policy::kFrozen;
  const auto refused = moejit::get_kernel(layer(512), frozen);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kNotReady);
  ASSERT_TRUE(moejit::get_kernel(layer(512), cpu(directory_)).ok());
  EXPECT_TRUE(moejit::get_kernel(layer(512), frozen).ok());
}

TEST_F(GetKernelOnCpu, UntunedBucketsAreTheModelsAndSaySo) {
  const auto kernel = moejit::get_kernel(layer(), cpu(directory_, 100));
  ASSERT_TRUE(kernel.ok());
  const auto buckets = kernel->buckets();
  ASSERT_EQ(buckets.size(), 8u);  // 1 2 4 ... 64 100
  EXPECT_EQ(buckets.front().tokens, 1);
  EXPECT_EQ(buckets.back().tokens, 100);
  for (const auto& bucket : buckets) {
    EXPECT_EQ(bucket.source, Source::kModel);
    EXPECT_GT(bucket.predicted_s, 0);
    EXPECT_GE(bucket.predicted_s, bucket.floor_s * 0.999);
    EXPECT_NE(bucket.reason.find("model"), std::string::npos);
  }
}

TEST_F(GetKernelOnCpu, TunePolicyGivesExactBucketsThatOutliveTheProcessMap) {
  Options options = cpu(directory_, 8);
  options.tokens = {2, 8};
  options.policy = Policy::kTune;
  options.tune_budget_s = 12;
  const auto tuned = moejit::get_kernel(layer(), options);
  ASSERT_TRUE(tuned.ok()) << tuned.status().to_string();
  for (const auto& bucket : tuned->buckets()) {
    EXPECT_EQ(bucket.source, Source::kExact);
    EXPECT_GT(bucket.measured_s, 0);
  }
  moejit::internal::forget_kernels();
  Options later = cpu(directory_, 64);
  later.tokens = {2, 12, 64};
  const auto kernel = moejit::get_kernel(layer(), later);
  ASSERT_TRUE(kernel.ok());
  EXPECT_EQ(kernel->buckets()[0].source, Source::kExact);
  EXPECT_EQ(kernel->buckets()[1].source, Source::kNearest);  // 12 is within a factor of two of 8
  EXPECT_EQ(kernel->buckets()[2].source, Source::kModel);    // 64 is not
}

TEST_F(GetKernelOnCpu, WorkspaceGrowsWithTokensAndNeverShrinks) {
  const auto kernel = moejit::get_kernel(layer(), cpu(directory_, 300));
  ASSERT_TRUE(kernel.ok());
  size_t last = 0;
  for (int64_t t = 0; t <= 300; ++t) {
    EXPECT_GE(kernel->workspace_size(t), last);
    last = kernel->workspace_size(t);
  }
  EXPECT_GE(kernel->workspace_size(0), 256u);
}

TEST_F(GetKernelOnCpu, WhatALaunchWritesMayLieOverNothingElse) {
  const auto kernel = moejit::get_kernel(layer(), cpu(directory_));
  ASSERT_TRUE(kernel.ok());
  constexpr int64_t kTokens = 4;
  // One block of memory: x, w13, w2, weights, out, workspace, ids; each on 256 bytes.
  const size_t workspace_size = kernel->workspace_size(kTokens);
  const size_t sizes[] = {4 * 256, 8 * 128 * 256, 8 * 128 * 128, 256, 4 * 256, workspace_size, 256};
  size_t total = 0;
  for (const size_t size : sizes) total += (size + 255) / 256 * 256;
  const std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(256, total)), std::free);
  std::memset(memory.get(), 0, total);
  char* places[7];
  char* at = memory.get();
  for (int i = 0; i < 7; ++i) {
    places[i] = at;
    at += (sizes[i] + 255) / 256 * 256;
  }
  const moejit::LaunchArgs good{.num_tokens = kTokens,
                                .x = places[0],
                                .w13 = places[1],
                                .w2 = places[2],
                                .topk_ids = reinterpret_cast<int32_t*>(places[6]),
                                .topk_weights = reinterpret_cast<float*>(places[3]),
                                .out = places[4],
                                .workspace = places[5],
                                .workspace_size = workspace_size};
  EXPECT_TRUE(kernel->launch(good).ok()) << kernel->launch(good).to_string();  // side by side
  const auto refused = [&](const char* names, void* out, void* workspace) {
    moejit::LaunchArgs args = good;
    args.out = out;
    args.workspace = workspace;
    const auto status = kernel->launch(args);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << names;
    EXPECT_NE(status.message().find(names), std::string::npos) << status.message();
  };
  refused("must not overlap x", places[0], places[5]);
  refused("must not overlap w13", places[2] - 256, places[5]);
  refused("must not overlap w2", places[2], places[5]);
  refused("must not overlap topk_weights", places[3], places[5]);
  refused("must not overlap topk_ids", places[6], places[5]);
  refused("workspace = ", places[4], places[1]);
  refused("must not overlap workspace, ", places[5], places[5]);

  const std::vector<float> logits(kTokens * 8, 0.0f);
  moejit::RoutedLaunchArgs routed{.num_tokens = kTokens,
                                  .x = places[0],
                                  .w13 = places[1],
                                  .w2 = places[2],
                                  .router_logits = logits.data(),
                                  .logits_dtype = moejit::DType::kF32,
                                  .out = places[4],
                                  .workspace = places[5],
                                  .workspace_size = workspace_size};
  EXPECT_TRUE(kernel->launch_routed(routed).ok());
  routed.router_logits = places[4];
  EXPECT_NE(kernel->launch_routed(routed).message().find("must not overlap router_logits"),
            std::string::npos);
}

TEST_F(GetKernelOnCpu, OptionsOutsideTheirRangeAreNamed) {
  const auto expect = [&](Options options, const char* field) {
    const auto kernel = moejit::get_kernel(layer(), options);
    ASSERT_FALSE(kernel.ok()) << field;
    EXPECT_NE(kernel.status().message().find(field), std::string::npos)
        << kernel.status().message();
  };
  Options options = cpu(directory_);
  options.max_tokens = 0;
  expect(options, "max_tokens = 0");
  options.max_tokens = int64_t{1} << 40;
  expect(options, "max_tokens");
  options = cpu(directory_);
  options.tokens = {4, 99};
  expect(options, "99");
  options = cpu(directory_);
  options.num_threads = -1;
  expect(options, "num_threads = -1");
  options = cpu(directory_);
  options.device = "tpu:0";
  expect(options, "tpu");
  options = cpu(directory_);
  options.tune_budget_s = -1;
  expect(options, "tune_budget_s");
  MoeConfig bad = layer();
  bad.top_k = 9;
  EXPECT_NE(moejit::get_kernel(bad, cpu(directory_)).status().message().find("top_k = 9"),
            std::string::npos);
}

// A cache that cannot be used costs a warning, never the kernel.
TEST_F(GetKernelOnCpu, CachePathThatIsAFileStillGivesAKernel) {
  const std::string path = directory_ + "/not_a_directory";
  std::ofstream(path) << "x";
  std::vector<std::string> lines;
  moejit::set_log_callback(
      [](int level, const char* message, void* user) {
        if (level <= 1) static_cast<std::vector<std::string>*>(user)->push_back(message);
      },
      &lines);
  const auto kernel = moejit::get_kernel(layer(), cpu(path));
  moejit::set_log_callback(nullptr, nullptr);
  EXPECT_TRUE(kernel.ok()) << kernel.status().to_string();
  EXPECT_EQ(lines.size(), 1u);
}

TEST_F(GetKernelOnCpu, SupportsAnswersWithoutCompiling) {
  EXPECT_TRUE(moejit::supports(layer(), "cpu").ok());
  EXPECT_EQ(moejit::supports(layer(), "nothing").code(), StatusCode::kNotFound);
  MoeConfig bad = layer();
  bad.hidden_size = 3;
  EXPECT_EQ(moejit::supports(bad, "cpu").code(), StatusCode::kInvalidArgument);
}

TEST_F(GetKernelOnCpu, ExplainNamesTheChoiceAndItsRivals) {
  const auto explained = moejit::explain(layer(), cpu(directory_), {4});
  ASSERT_TRUE(explained.ok());
  ASSERT_EQ(explained->size(), 1u);
  EXPECT_EQ((*explained)[0].key.size(), 64u);
  EXPECT_FALSE((*explained)[0].runners_up.empty());
  for (const auto& rival : (*explained)[0].runners_up) {
    EXPECT_NE(rival.schedule, (*explained)[0].choice.schedule);
  }
}

TEST_F(GetKernelOnCpu, GenerateIsTheSameTextEveryTimeAndHoldsSourceAssemblyReport) {
  const auto first = moejit::generate(layer(), "cpu", 4);
  const auto second = moejit::generate(layer(), "cpu", 4);
  ASSERT_TRUE(first.ok()) << first.status().to_string();
  ASSERT_GE(first->size(), 3u);
  EXPECT_EQ((*first)[0].text, (*second)[0].text);
  EXPECT_NE((*first)[0].text.find("kNumExperts = 8"), std::string::npos);
  EXPECT_NE((*first)[1].text.find(".text"), std::string::npos);
  EXPECT_FALSE(moejit::generate(layer(), "cpu", 4, "{\"family\":\"cpu_moe\"}").ok());
  EXPECT_FALSE(moejit::generate(layer(), "cpu", 4, "not json").ok());
}

TEST_F(GetKernelOnCpu, VerifyPassesOnEveryRouting) {
  moejit::VerifyRequest request;
  request.config = layer();
  request.device = "cpu";
  request.num_threads = 2;
  request.cache_path = directory_;
  const auto rows = moejit::verify(request);
  ASSERT_TRUE(rows.ok()) << rows.status().to_string();
  EXPECT_EQ(rows->size(), 24u);
  for (const auto& row : *rows)
    EXPECT_TRUE(row.ok) << row.tokens << " " << row.routing << " " << row.note;
}

TEST_F(GetKernelOnCpu, BenchMeasuresWhatItReports) {
  moejit::BenchRequest request;
  request.config = layer();
  request.device = "cpu";
  request.tokens = {3};
  request.samples = 3;
  request.num_threads = 2;
  request.cache_path = directory_;
  const auto report = moejit::bench(request);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  ASSERT_EQ(report->rows.size(), 1u);
  const auto& row = report->rows[0];
  EXPECT_EQ(row.samples, 3);
  EXPECT_GT(row.median_s, 0);
  EXPECT_LE(row.p20_s, row.p80_s);
  EXPECT_TRUE(report->limits.measured);
  EXPECT_NEAR(row.share, row.floor_s / row.median_s, 1e-12);
  EXPECT_LT(row.error, 5e-3);
}

}  // namespace
