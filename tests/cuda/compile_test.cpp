// Real cross-compilation: every family for every architecture, no GPU needed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "backends/cuda/nvrtc.h"
#include "tests/generators/gpu_configs.h"

namespace moejit::internal {
namespace {

int test_level() {
  const char* level = std::getenv("MOEJIT_TEST_LEVEL");
  return level == nullptr ? 1 : std::atoi(level);
}

class CudaCompile : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto& nvrtc = cuda::Nvrtc::get();
    if (!nvrtc.ok()) GTEST_SKIP() << nvrtc.status().message();
    if (std::string why = (*nvrtc)->why_not(GetParam()); !why.empty()) GTEST_SKIP() << why;
  }
};

TEST_P(CudaCompile, DefaultsCompileWithoutSpills) {
  const auto device = cuda_backend()->open(GetParam());
  ASSERT_TRUE(device.ok());
  const Target& target = (*device)->info().target;
  const std::vector<NamedConfig> configs = gpu_configs();
  // All configs on the architecture with the most families, one in three elsewhere.
  const bool all = test_level() > 1 || std::string(GetParam()) == "sm_90a";
  for (size_t i = 0; i < configs.size(); i += all ? 1 : 3) {
    const NamedConfig& c = configs[i];
    for (const Family* family : families()) {
      if (family->why_not(c.config, target)) continue;
      const int64_t tokens = i % 2 == 0 ? 8192 : 4;
      const Schedule schedule = family->default_schedule(c.config, target, tokens);
      const KernelSource source = family->emit(c.config, target, schedule);
      EXPECT_EQ(source.text, family->emit(c.config, target, schedule).text);
      const auto binary = (*device)->compile(source);
      ASSERT_TRUE(binary.ok()) << c.name << " " << schedule.to_json() << "\n"
                               << binary.status().to_string() << "\n"
                               << binary.status().log();
      EXPECT_GT(binary->registers, 0);
      EXPECT_EQ(binary->spill_bytes, 0) << c.name << " " << schedule.to_json();
      EXPECT_LE(binary->shared_bytes, target.shared_bytes);
      const cuda::PtxasReport report = cuda::parse_ptxas_report(binary->log);
      EXPECT_FALSE(report.serialized_wgmma) << schedule.to_json();
      EXPECT_FALSE(report.ignored_setmaxnreg) << schedule.to_json();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Archs, CudaCompile,
                         ::testing::Values("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a",
                                           "sm_120a"),
                         [](const auto& arch) { return std::string(arch.param); });

// A tune leaves out what spills: tiles of real layers, narrow ones and wide ones, whose producer
// has few registers. gpt-oss-120b, with biases and alternating rows, needs most.
TEST(CudaCompileLayers, TilesOfHopperDoNotSpill) {
  const auto& nvrtc = cuda::Nvrtc::get();
  if (!nvrtc.ok()) GTEST_SKIP() << nvrtc.status().message();
  if (std::string why = (*nvrtc)->why_not("sm_90a"); !why.empty()) GTEST_SKIP() << why;
  const auto device = cuda_backend()->open("sm_90a");
  ASSERT_TRUE(device.ok());
  const Target& target = (*device)->info().target;
  const Family* family = find_family("cuda_tile90");
  for (const char* name :
       {"gpt-oss-120b", "deepseek-v3", "mixtral-8x7b", "qwen3-30b-a3b", "qwen2-57b-a14b"}) {
    const auto preset = find_model_preset(name);
    ASSERT_TRUE(preset.ok()) << name;
    const MoeConfig& config = preset->config;
    struct Shape {
      int64_t rows, most_tokens;  // rows of an expert
      int launches;
    };
    // Narrow tiles, with the plan that is the router; wide ones.
    for (const Shape& shape : {Shape{8, 128, 3}, Shape{64, 1 << 20, 5}}) {
      const int64_t tokens =
          std::min(shape.rows * config.num_experts / config.top_k, shape.most_tokens);
      const Schedule schedule = family->default_schedule(config, target, tokens);
      EXPECT_EQ(schedule.at("launches"), shape.launches);
      const auto binary = (*device)->compile(family->emit(config, target, schedule));
      ASSERT_TRUE(binary.ok()) << binary.status().to_string();
      EXPECT_EQ(binary->spill_bytes, 0) << name << " " << schedule.to_json();
    }
    if (test_level() < 2) break;
  }
}

TEST(CudaCompileErrors, LogAndSourceAreKept) {
  if (!cuda::Nvrtc::get().ok()) GTEST_SKIP() << cuda::Nvrtc::get().status().message();
  const auto device = cuda_backend()->open("sm_90a");
  KernelSource source;
  source.name = "broken.cu";
  source.arch = "sm_90a";
  source.text = "extern \"C\" __global__ void k() { no_such_function(); }\n";
  const auto binary = (*device)->compile(source);
  ASSERT_FALSE(binary.ok());
  EXPECT_EQ(binary.status().code(), StatusCode::kCompileError);
  EXPECT_NE(binary.status().log().find("no_such_function"), std::string::npos);
}

TEST(CudaCompileErrors, OldCompilerNamesTheRemedy) {
  if (!cuda::Nvrtc::get().ok()) GTEST_SKIP() << cuda::Nvrtc::get().status().message();
  const std::string why = (*cuda::Nvrtc::get())->why_not("sm_999a");
  EXPECT_NE(why.find("cannot compile for sm_999a"), std::string::npos) << why;
  EXPECT_NE(why.find("install"), std::string::npos) << why;
}

TEST(CudaProbe, CompilesAndShowsAssembly) {
  if (!cuda::Nvrtc::get().ok()) GTEST_SKIP() << cuda::Nvrtc::get().status().message();
  const auto device = cuda_backend()->open("sm_80");
  const MoeConfig config = gpu_configs().front().config;
  const Family* family = find_family("cuda_stream");
  const Target& target = (*device)->info().target;
  const auto text = (*device)->assembly(
      family->emit(config, target, family->default_schedule(config, target, 1)));
  ASSERT_TRUE(text.ok()) << text.status().to_string();
  EXPECT_NE(text->find(".target sm_80"), std::string::npos);
  EXPECT_NE(text->find("mma.sync"), std::string::npos);
  EXPECT_NE(text->find("registers"), std::string::npos);
}

}  // namespace
}  // namespace moejit::internal
