// On a GPU: every family against the float64 reference, the launch rules, and errors. Skipped, with
// the driver's reason, where there is none.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "backends/cuda/driver.h"
#include "tests/generators/gpu_configs.h"
#include "tests/generators/on_all_cores.h"
#include "tuner/check.h"
#include "tuner/limits.h"
#include "tuner/workload.h"

namespace moejit::internal {
namespace {

class CudaGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    const auto devices = cuda_backend()->devices(&why);
    if (devices.empty()) GTEST_SKIP() << why;
    const auto device = cuda_backend()->open("0");
    ASSERT_TRUE(device.ok()) << device.status().to_string();
    device_ = *device;
    if (const auto compiler = device_->compiler(); !compiler.ok())
      GTEST_SKIP() << compiler.status().message();
  }
  const Device* device_ = nullptr;
};

TEST_F(CudaGpu, EveryFamilyMatchesTheReference) {
  struct Kernel {
    MoeConfig config;
    const Family* family;
    Schedule schedule;
    KernelSource source;
    Result<Binary> binary = Status(StatusCode::kInternal, "not compiled");
  };
  constexpr int64_t kTokens[] = {1, 5, 70, 300};
  std::map<std::string, Kernel> kernels;  // some schedules serve several T
  const auto name_of = [](const NamedConfig& c, const Schedule& schedule) {
    return c.name + " " + schedule.to_json();
  };
  const Target& target = device_->info().target;
  for (const NamedConfig& c : gpu_configs()) {
    for (const Family* family : families()) {
      if (family->why_not(c.config, target)) continue;
      for (int64_t tokens : kTokens) {
        const Schedule schedule = family->default_schedule(c.config, target, tokens);
        kernels.try_emplace(name_of(c, schedule), Kernel{c.config, family, schedule, {}});
      }
    }
  }
  std::vector<Kernel*> list;
  for (auto& [name, kernel] : kernels) list.push_back(&kernel);
  moejit_test::on_all_cores(list.size(), [&](size_t i) {
    list[i]->source = list[i]->family->emit(list[i]->config, target, list[i]->schedule);
    list[i]->binary = device_->compile(list[i]->source);
  });
  for (const NamedConfig& c : gpu_configs()) {
    auto weights = Weights::make(c.config, *device_, 1);
    ASSERT_TRUE(weights.ok()) << weights.status().to_string();
    for (int64_t tokens : kTokens) {
      const auto spec = RoutingSpec::parse(tokens == 5 ? "skip" : "zipf:1.1");
      auto load = Workload::make(*weights, *device_, *spec, tokens, 1, 3);
      ASSERT_TRUE(load.ok()) << load.status().to_string();
      const Expected expected = expected_rows(**load, 0, 1e7);
      for (const Family* family : families()) {
        if (family->why_not(c.config, target)) continue;
        const Schedule schedule = family->default_schedule(c.config, target, tokens);
        const Kernel& kernel = kernels.at(name_of(c, schedule));
        ASSERT_TRUE(kernel.binary.ok()) << kernel.binary.status().log();
        const auto module = device_->load(*kernel.binary, kernel.source);
        ASSERT_TRUE(module.ok()) << module.status().to_string();
        const std::vector<WorkspaceRegion>& workspace = kernel.source.workspace;
        ASSERT_TRUE(
            (*load)
                ->reserve_workspace(*device_, workspace_offset(workspace, workspace.size(), tokens))
                .ok());
        const auto result = check_module(*device_, **module, **load, 0, expected);
        ASSERT_TRUE(result.ok()) << c.name << " " << schedule.to_json() << " "
                                 << result.status().to_string();
        EXPECT_EQ(result->problem, "") << c.name << " T=" << tokens << " " << schedule.to_json();
      }
    }
  }
}

TEST_F(CudaGpu, LoadRefusesABinaryOfAnotherArch) {
  Binary binary;
  binary.format = "cubin";
  binary.arch = "sm_70";
  binary.bytes = {1, 2, 3};
  const auto module = device_->load(binary, KernelSource{});
  ASSERT_FALSE(module.ok());
  EXPECT_EQ(module.status().code(), StatusCode::kDataError);
  binary.arch = device_->info().target.arch;
  EXPECT_FALSE(device_->load(binary, KernelSource{}).ok());
}

TEST_F(CudaGpu, OutOfMemoryIsAStatus) {
  const auto memory = device_->allocate(size_t{1} << 50);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.status().code(), StatusCode::kOutOfMemory);
  EXPECT_TRUE(device_->allocate(1 << 20).ok());
}

TEST_F(CudaGpu, MissingDeviceNamesTheRange) {
  const auto device = cuda_backend()->open("4096");
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), StatusCode::kNotFound);
}

TEST_F(CudaGpu, ProbeGivesRates) {
  const auto limits = probe_limits(*device_, DType::kBF16);
  ASSERT_TRUE(limits.ok()) << limits.status().to_string();
  EXPECT_GT(limits->read_bytes_per_s, 1e11);
  EXPECT_GT(limits->dot_flops_per_s, 1e13);
}

}  // namespace
}  // namespace moejit::internal
