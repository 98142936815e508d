// Device names, facts about the machine, memory and timing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cpu_info.h"
#include "base/dylib.h"
#include "tests/cpu_backend/sources.h"

namespace moejit::internal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Registry, CpuIsThereAndKeepsItsDevices) {
  EXPECT_NE(std::find(backends().begin(), backends().end(), cpu_backend()), backends().end());
  const auto device = open_device("cpu", 3);
  ASSERT_TRUE(device.ok()) << device.status().to_string();
  EXPECT_EQ((*device)->info().name, "cpu");
  EXPECT_EQ((*device)->info().target.num_units, 3);
  EXPECT_EQ(*open_device("cpu", 3), *device);
  EXPECT_NE(*open_device("cpu", 2), *device);
  EXPECT_TRUE(open_device("auto").ok());
}

TEST(Registry, UnknownNamesListWhatExists) {
  for (const char* name : {"", "gpu", "CPU", "cpux", ":", "tpu:0"}) {
    const auto status = open_device(name).status();
    EXPECT_EQ(status.code(), StatusCode::kNotFound) << name;
    EXPECT_THAT(status.message(), AllOf(HasSubstr("auto"), HasSubstr("cpu")));
  }
  const auto status = open_device("cpu:znver4").status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("x86-64-v3"));
}

TEST(Registry, ThreadCounts) {
  EXPECT_EQ(open_device("cpu", -1).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(open_device("cpu", 100000).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ((*open_device("cpu"))->info().target.num_units, usable_cpus());
}

TEST(Registry, ThreadCountOfTheEnvironmentIsTheDefault) {
  in_new_process("MOEJIT_NUM_THREADS", "5", [] {
    EXPECT_EQ((*open_device("cpu"))->info().target.num_units, 5);
    EXPECT_EQ((*open_device("cpu", 2))->info().target.num_units, 2);
  });
}

TEST(CpuInfo, LevelsIncludeTheLowerOnes) {
  const CpuInfo& info = cpu_info();
  EXPECT_FALSE(cpu_runs(""));
  EXPECT_FALSE(cpu_runs("x86-64-v2"));
  bool above = false;  // above the CPU's own level
  for (const char* arch : kCpuArchs) {
    EXPECT_EQ(cpu_runs(arch), !info.arch.empty() && !above) << arch;
    above |= info.arch == arch;
  }
#if defined(__x86_64__)
  // The compiler's own run-time check agrees.
  EXPECT_EQ(cpu_runs("x86-64-v3"), __builtin_cpu_supports("x86-64-v3") != 0);
  EXPECT_EQ(cpu_runs("x86-64-v4"), __builtin_cpu_supports("x86-64-v4") != 0);
#endif
  EXPECT_GT(info.l1_bytes, 0);
  EXPECT_GE(info.l2_bytes, info.l1_bytes);
  EXPECT_GT(info.memory_bytes, 0);
}

TEST(CpuInfo, IdentityIsCanonicalJsonWithoutNames) {
  const auto device = open_device("cpu", 2);
  ASSERT_TRUE(device.ok());
  const std::string& text = (*device)->info().identity;
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json.dump(), text);  // sorted keys, no white space
  EXPECT_EQ(json["threads"], 2);
  EXPECT_EQ(json["vendor"], cpu_info().vendor);
  char host[256] = {};
  ASSERT_EQ(gethostname(host, sizeof host - 1), 0);
  if (std::string(host).size() > 4) {
    EXPECT_EQ(text.find(host), std::string::npos);
  }
}

TEST(CpuInfo, WhatIsLeftOfTheMemory) {
  EXPECT_EQ(
      available_bytes("MemTotal: 9 kB\nMemFree:  1 kB\nMemAvailable:   5 kB\nSwapFree: 2 kB\n"),
      7 * 1024);
  EXPECT_EQ(available_bytes("MemAvailable: 5 kB\n"), 5 * 1024);
  EXPECT_EQ(available_bytes("MemFree: 5 kB\nSwapFree: 2 kB\n"), -1);
  EXPECT_GT(available_bytes(), 0);
  EXPECT_LT(available_bytes(), int64_t{1} << 50);
  EXPECT_GT(resident_bytes(), 0);
  EXPECT_LT(resident_bytes(), cpu_info().memory_bytes);
}

// Memory that nobody has touched yet is promised to somebody.
TEST(CpuInfo, WhatIsAllocatedIsNotLeft) {
  const auto device = open_device("cpu");
  ASSERT_TRUE(device.ok());
  const size_t most = static_cast<size_t>(available_bytes()) / 8 * 5;
  auto first = (*device)->allocate(most);
  if (!first.ok()) GTEST_SKIP() << first.status().message();
  const auto second = (*device)->allocate(most);
  ASSERT_EQ(second.status().code(), StatusCode::kOutOfMemory);
  EXPECT_NE(second.status().message().find(" are left"), std::string::npos);
  *first = nullptr;
  EXPECT_TRUE((*device)->allocate(most).ok());
}

TEST(CpuInfo, CgroupQuotaOfAnyAncestorCounts) {
  TemporaryFolder folder;
  const auto put = [&](const std::string& file, const std::string& text) {
    std::filesystem::create_directories((folder.path() / file).parent_path());
    std::ofstream(folder.path() / file) << text;
  };
  const std::string root = folder.path();
  EXPECT_EQ(cgroup_cpu_limit("0::/a/b\n", root), 0);
  put("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(cgroup_cpu_limit("0::/a/b\n", root), 0);
  put("a/cpu.max", "350000 100000\n");
  EXPECT_EQ(cgroup_cpu_limit("0::/a/b\n", root), 4);
  put("a/b/cpu.max", "150000 100000\n");
  EXPECT_EQ(cgroup_cpu_limit("0::/a/b\n", root), 2);
  put("cpu/docker/cpu.cfs_quota_us", "50000");
  put("cpu/docker/cpu.cfs_period_us", "100000");
  EXPECT_EQ(cgroup_cpu_limit("12:memory:/docker\n4:cpu,cpuacct:/docker\n", root), 1);
  put("cpu/docker/cpu.cfs_quota_us", "-1");
  EXPECT_EQ(cgroup_cpu_limit("4:cpu,cpuacct:/docker\n", root), 0);
  for (const char* odd : {"", "\n", "0", "0:", "0::", "::::", "nonsense\n\n4:cpu"}) {
    EXPECT_EQ(cgroup_cpu_limit(odd, root), 0) << odd;
  }
}

TEST(CpuDevice, MemoryIsAligned) {
  const auto device = open_device("cpu");
  ASSERT_TRUE(device.ok());
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{1000}, size_t{5} << 20}) {
    auto memory = (*device)->allocate(bytes);
    ASSERT_TRUE(memory.ok());
    const size_t alignment = bytes >= (size_t{4} << 20) ? size_t{2} << 20 : 256;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->get()) % alignment, 0u) << bytes;
    std::vector<char> in(bytes, 'x'), out(bytes);
    ASSERT_TRUE((*device)->copy_in(memory->get(), in.data(), bytes).ok());
    ASSERT_TRUE((*device)->copy_out(out.data(), memory->get(), bytes).ok());
    EXPECT_EQ(in, out);
  }
  for (size_t bytes : {SIZE_MAX, SIZE_MAX - 100, SIZE_MAX / 2}) {
    EXPECT_EQ((*device)->allocate(bytes).status().code(), StatusCode::kOutOfMemory) << bytes;
  }
}

TEST(CpuDevice, TimesEachRunAndPassesErrorsOn) {
  const auto device = open_device("cpu");
  ASSERT_TRUE(device.ok());
  std::vector<int> seen;
  const auto body = [&](int i, Stream stream) -> Status {
    EXPECT_EQ(stream, nullptr);
    seen.push_back(i);
    if (i == 3) return {StatusCode::kDeviceError, "third"};
    return {};
  };
  const auto seconds = (*device)->time(body, 3);
  ASSERT_TRUE(seconds.ok());
  EXPECT_EQ(seconds->size(), 3u);
  EXPECT_EQ(seen, (std::vector<int>{0, 1, 2}));
  for (double second : *seconds) EXPECT_GE(second, 0);
  EXPECT_EQ((*device)->time(body, 9).status().message(), "third");
  EXPECT_TRUE((*device)->time(body, 0)->empty());
  EXPECT_EQ((*device)->time(body, -1).status().code(), StatusCode::kInvalidArgument);
}

TEST(Dylib, OpensAndExplains) {
  const auto library = Dylib::open_first({"libnothing-of-that-name.so.9", "libm.so.6"});
  ASSERT_TRUE(library.ok()) << library.status().to_string();
  EXPECT_THAT(library->path(), HasSubstr("libm.so.6"));
  double (*cosine)(double) = nullptr;
  ASSERT_TRUE(library->find("cos", cosine));
  EXPECT_EQ(cosine(0), 1);
  EXPECT_FALSE(library->find("no_such_function", cosine));
  const auto missing = Dylib::open_first({"liba-missing.so", "libb-missing.so"});
  EXPECT_EQ(missing.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(missing.status().message(),
              AllOf(HasSubstr("liba-missing"), HasSubstr("libb-missing")));
  EXPECT_FALSE(Dylib());
  EXPECT_EQ(Dylib().symbol("cos"), nullptr);
}

}  // namespace
}  // namespace moejit::internal
