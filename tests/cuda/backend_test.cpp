// What the CUDA backend says without a GPU: devices, names, compile-only targets, binaries.
#include <gtest/gtest.h>

#include "backends/cuda/cuda_module.h"
#include "backends/cuda/nvrtc.h"
#include "tests/generators/gpu_configs.h"

namespace moejit::internal {
namespace {

TEST(CudaBackend, NoDeviceIsASentence) {
  std::string why;
  const auto devices = cuda_backend()->devices(&why);
  if (!devices.empty()) GTEST_SKIP() << "this machine has " << devices.front().detail;
  EXPECT_NE(why.find("CUDA"), std::string::npos) << why;
  const auto device = cuda_backend()->open("0");
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(device.status().message(), why);
}

TEST(CudaBackend, UnknownArchListsTheKnownOnes) {
  const auto device = cuda_backend()->open("sm_42");
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), StatusCode::kNotFound);
  EXPECT_NE(device.status().message().find("sm_90a"), std::string::npos)
      << device.status().message();
}

TEST(CudaBackend, CompileOnlyTargetNeitherLoadsNorAllocates) {
  const auto device = cuda_backend()->open("sm_90a");
  ASSERT_TRUE(device.ok()) << device.status().to_string();
  EXPECT_EQ((*device)->info().target.arch, "sm_90a");
  EXPECT_EQ((*device)->info().target.shared_bytes, 232448);
  EXPECT_EQ((*device)->allocate(16).status().code(), StatusCode::kUnsupported);
  Binary binary;
  binary.format = "cubin";
  binary.arch = "sm_90a";
  binary.bytes = {1};
  EXPECT_EQ((*device)->load(binary, KernelSource{}).status().code(), StatusCode::kUnsupported);
  // The same device for the life of the process.
  EXPECT_EQ(*device, *cuda_backend()->open("sm_90a"));
}

TEST(CudaBackend, GridFollowsTokensAndUnits) {
  EXPECT_EQ(cuda::grid_blocks({.fixed = 1}, 100, 132), 1);
  EXPECT_EQ(cuda::grid_blocks({.fixed = 0, .per_token_num = 1, .per_token_den = 4}, 9, 132), 3);
  EXPECT_EQ(cuda::grid_blocks({.fixed = 0, .per_token_num = 1, .per_token_den = 4}, 0, 132), 1);
  EXPECT_EQ(cuda::grid_blocks({.fixed = 1 << 30, .per_unit_cap = 2}, 1, 132), 264);
  EXPECT_EQ(
      cuda::grid_blocks(
          {.fixed = 0, .per_token_num = 512, .per_token_den = 256, .per_unit_cap = 16}, 8, 132),
      16);
}

TEST(PtxasReport, WorstEntryCounts) {
  const cuda::PtxasReport report = cuda::parse_ptxas_report(
      "ptxas info    : Compiling entry function 'a' for 'sm_90a'\n"
      "ptxas         .     8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n"
      "ptxas info    : Used 80 registers, used 1 barriers, 1024 bytes smem\n"
      "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 168 registers, used 1 barriers\n");
  EXPECT_EQ(report.registers, 168);
  EXPECT_EQ(report.spill_bytes, 28);
  EXPECT_EQ(report.shared_bytes, 1024);
  EXPECT_FALSE(report.serialized_wgmma);
  EXPECT_EQ(cuda::parse_ptxas_report("").registers, -1);
  EXPECT_TRUE(
      cuda::parse_ptxas_report("warning (C7510): Potential Performance Loss").serialized_wgmma);
}

TEST(CudaFamilies, EveryConfigHasALegalDefaultOnEveryArch) {
  for (const char* arch : {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120a"}) {
    const auto device = cuda_backend()->open(arch);
    ASSERT_TRUE(device.ok());
    const Target& target = (*device)->info().target;
    std::vector<NamedConfig> configs = gpu_configs();
    for (const ModelPreset& preset : model_presets())
      configs.push_back({preset.name, preset.config});
    for (const NamedConfig& c : configs) {
      int families_that_can = 0;
      for (const Family* family : families()) {
        if (family->why_not(c.config, target)) continue;
        ++families_that_can;
        for (int64_t tokens : {1, 8, 64, 512, 8192}) {
          const Schedule schedule = family->default_schedule(c.config, target, tokens);
          const auto why = family->why_not(c.config, target, schedule);
          EXPECT_FALSE(why) << arch << " " << c.name << " T=" << tokens << " " << schedule.to_json()
                            << ": " << *why;
          const RowCounts rows(static_cast<size_t>(c.config.total_experts()), 3);
          for (const PhaseWork& work : family->work(c.config, target, schedule, rows)) {
            EXPECT_GE(work.bytes, 0) << work.name;
            EXPECT_GT(work.parallel, 0) << work.name;
            EXPECT_LE(work.parallel, 1) << work.name;
          }
        }
      }
      EXPECT_GE(families_that_can, 1) << arch << " " << c.name;
    }
  }
}

TEST(CudaFamilies, RefusalsNameParameterAndRule) {
  const auto device = cuda_backend()->open("sm_90a");
  ASSERT_TRUE(device.ok());
  const Target& target = (*device)->info().target;
  const MoeConfig config = gpu_configs().front().config;
  const Family* tile = find_family("cuda_tile90");
  ASSERT_NE(tile, nullptr);
  Schedule schedule = tile->default_schedule(config, target, 8192);
  schedule.params["stages"] = 8;
  schedule.params["tile_n"] = 256;
  const auto why = tile->why_not(config, target, schedule);
  ASSERT_TRUE(why);
  EXPECT_NE(why->find("stages = 8"), std::string::npos) << *why;
  EXPECT_NE(why->find("shared memory"), std::string::npos) << *why;
  schedule.params.erase("raster");
  EXPECT_EQ(*tile->why_not(config, target, schedule), "raster: is missing");
  MoeConfig f32 = config;
  f32.dtype = DType::kF32;
  EXPECT_TRUE(tile->why_not(f32, target));
  EXPECT_FALSE(find_family("cuda_fma")->why_not(f32, target));
}

}  // namespace
}  // namespace moejit::internal
