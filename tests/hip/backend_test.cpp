// The backend over a runtime that is missing, incomplete, without a device, or a stand-in.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "backends/cpu/compiler_module.h"
#include "backends/hip/child.h"
#include "backends/hip/code_object.h"
#include "backends/hip/hip_device.h"
#include "backends/hip/hiprtc.h"
#include "base/dylib.h"
#include "tests/generators/gpu_configs.h"

namespace moejit::internal::hip {
namespace {

const Runtime* fake() {
  static const auto runtime = open_runtime({FAKE_WHOLE});
  EXPECT_TRUE(runtime.ok()) << runtime.status().to_string();
  return runtime.ok() ? runtime->get() : nullptr;
}

TEST(HipRuntime, MissingLibraryNamesWhatToInstall) {
  const auto runtime = open_runtime({"libno_such_amdhip64.so.7"});
  ASSERT_FALSE(runtime.ok());
  EXPECT_EQ(runtime.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(runtime.status().message().find("install ROCm"), std::string::npos);
  EXPECT_NE(runtime.status().message().find("ROCM_PATH"), std::string::npos);
}

TEST(HipRuntime, MissingFunctionIsNamed) {
  const auto runtime = open_runtime({FAKE_INCOMPLETE});
  ASSERT_FALSE(runtime.ok());
  EXPECT_EQ(runtime.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(runtime.status().message().find("hipGraphLaunch"), std::string::npos)
      << runtime.status().message();
}

TEST(HipRuntime, NoDeviceSaysWhatToCheck) {
  const auto runtime = open_runtime({FAKE_NO_DEVICE});
  ASSERT_FALSE(runtime.ok());
  EXPECT_NE(runtime.status().message().find("/dev/kfd"), std::string::npos)
      << runtime.status().message();
}

// A framework's own runtime, under the name that it has there: the streams are that one's.
TEST(HipRuntime, OneThatTheProcessHasComesFirst) {
  std::string folder = testing::TempDir() + "moejit-test-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/libamdhip64.so";
  std::filesystem::copy_file(FAKE_WHOLE, path);
  EXPECT_NE(runtime_candidates().front(), path);
  ASSERT_TRUE(Dylib::open(path).ok());
  EXPECT_EQ(runtime_candidates().front(), path);
  const auto runtime = open_runtime(runtime_candidates());
  ASSERT_TRUE(runtime.ok()) << runtime.status().to_string();
  EXPECT_EQ((*runtime)->path, path);
  EXPECT_EQ(rocm_candidates({"libhiprtc.so.7"}).front(), folder + "/libhiprtc.so.7");
  std::filesystem::remove_all(folder);
}

TEST(HipDeviceTest, ArchWithFeatures) {
  const auto device = HipDevice::open(*fake(), 0);
  ASSERT_TRUE(device.ok()) << device.status().to_string();
  const DeviceInfo& info = (*device)->info();
  EXPECT_EQ(info.name, "hip:0");
  EXPECT_EQ(info.product, "AMD Instinct MI300X");
  EXPECT_EQ(info.target.arch, "gfx942");
  EXPECT_EQ(info.target.num_units, 304);
  EXPECT_EQ(info.target.shared_bytes, 65536);
  EXPECT_EQ(info.target.l3_bytes, int64_t{256} << 20) << "or a tune would measure warm weights";
  // The features change what the silicon does, so measurements are kept apart by them.
  EXPECT_NE(info.identity.find("gfx942:sramecc+:xnack-"), std::string::npos);
  EXPECT_EQ(base_arch("gfx90a:xnack+"), "gfx90a");
  const auto compile_only = HipDevice::compile_only("gfx942:sramecc+:xnack-");
  ASSERT_TRUE(compile_only.ok());
  EXPECT_EQ((*compile_only)->info().name, "hip:gfx942");
}

TEST(HipDeviceTest, UnsupportedGpuIsNamed) {
  const auto device = HipDevice::open(*fake(), 1);
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(device.status().message().find("gfx1030"), std::string::npos);
  EXPECT_NE(device.status().message().find("gfx942"), std::string::npos);
  for (const char* arch : {"gfx9999", "gfx9999:sramecc+:xnack-", "gfx", "gfx942 ", "gfx94"}) {
    const auto unknown = HipDevice::compile_only(arch);
    ASSERT_FALSE(unknown.ok()) << arch;
    EXPECT_EQ(unknown.status().code(), StatusCode::kNotFound);
    EXPECT_NE(unknown.status().message().find("must be one of gfx90a, gfx942, gfx1100"),
              std::string::npos)
        << unknown.status().message();
  }
}

TEST(HipDeviceTest, CompileOnlyRefusesToRun) {
  const auto device = HipDevice::compile_only("gfx90a");
  ASSERT_TRUE(device.ok());
  EXPECT_EQ((*device)->allocate(16).status().code(), StatusCode::kUnsupported);
  EXPECT_EQ((*device)->synchronize().code(), StatusCode::kUnsupported);
}

TEST(HipDeviceTest, MemoryGoesThrough) {
  const auto device = HipDevice::open(*fake(), 0);
  ASSERT_TRUE(device.ok());
  const auto memory = (*device)->allocate(1000);
  ASSERT_TRUE(memory.ok());
  const char text[] = "through the device";
  char back[sizeof text] = {};
  EXPECT_TRUE((*device)->copy_in(memory->get(), text, sizeof text).ok());
  EXPECT_TRUE((*device)->copy_out(back, memory->get(), sizeof text).ok());
  EXPECT_STREQ(back, text);
  EXPECT_EQ((*device)->allocate(size_t{1} << 41).status().code(), StatusCode::kOutOfMemory);
}

// A compiled kernel, for the tests that need one.
struct Compiled {
  KernelSource source;
  Binary binary;
};
Result<Compiled> compile_for(const std::string& arch) {
  const auto device = HipDevice::compile_only(arch);
  const Family* family = find_family("hip_stream");
  const MoeConfig config = gpu_configs().front().config;
  const Target& target = (*device)->info().target;
  Compiled compiled;
  compiled.source = family->emit(config, target, family->default_schedule(config, target, 1));
  auto binary = (*device)->compile(compiled.source);
  if (!binary.ok()) return binary.status();
  compiled.binary = *std::move(binary);
  return compiled;
}

TEST(HipModuleTest, LoadsLaunchesAndTimes) {
  if (!CompilerModule::get().ok()) GTEST_SKIP() << "no compiler module";
  const auto compiled = compile_for("gfx942");
  ASSERT_TRUE(compiled.ok()) << compiled.status().to_string();
  const auto device = HipDevice::open(*fake(), 0);
  ASSERT_TRUE(device.ok());
  const auto count = [](int what) {
    int value = 0;
    fake()->hipDeviceGetAttribute(&value, what, 0);
    return value;
  };
  {
    const auto module = (*device)->load(compiled->binary, compiled->source);
    ASSERT_TRUE(module.ok()) << module.status().to_string();
    EXPECT_EQ(count(1001), 1);
    MoeArgs args{};
    args.num_tokens = 3;
    const int before = count(1000);
    EXPECT_TRUE((*module)->launch(args, nullptr).ok());
    EXPECT_EQ(count(1000) - before, 4) << "plan, gate_up, down, combine";
    args.routed = 1;
    EXPECT_TRUE((*module)->launch(args, nullptr).ok());
    EXPECT_EQ(count(1000) - before, 9);
    args.num_tokens = 0;
    EXPECT_TRUE((*module)->launch(args, nullptr).ok());
    EXPECT_EQ(count(1000) - before, 9) << "no token, no launch";
    args.num_tokens = 3;
    const auto seconds =
        (*device)->time([&](int, Stream stream) { return (*module)->launch(args, stream); }, 3);
    ASSERT_TRUE(seconds.ok()) << seconds.status().to_string();
    EXPECT_EQ(*seconds, std::vector<double>(3, 0.25e-3));
  }
  EXPECT_EQ(count(1001), 0) << "unloaded with its last owner";
}

TEST(HipModuleTest, ForeignCodeIsRefused) {
  if (!CompilerModule::get().ok()) GTEST_SKIP() << "no compiler module";
  auto compiled = compile_for("gfx90a");
  ASSERT_TRUE(compiled.ok()) << compiled.status().to_string();
  const auto device = HipDevice::open(*fake(), 0);
  ASSERT_TRUE(device.ok());
  const auto why = [&] {
    const auto module = (*device)->load(compiled->binary, compiled->source);
    EXPECT_FALSE(module.ok());
    EXPECT_EQ(module.status().code(), StatusCode::kDataError);
    return module.status().message();
  };
  EXPECT_NE(why().find("hsaco for gfx90a"), std::string::npos) << why();
  compiled->binary.arch = "gfx942";  // as a mixed-up cache would say
  EXPECT_NE(why().find("made for gfx90a, not for gfx942"), std::string::npos) << why();
  compiled->binary.format = "cubin";
  EXPECT_NE(why().find("needed is hsaco"), std::string::npos) << why();
  compiled->binary.format = "hsaco";
  compiled->binary.bytes = {1, 2, 3};
  EXPECT_NE(why().find("cannot be read"), std::string::npos) << why();
}

TEST(HipModuleTest, MissingEntryIsNamed) {
  if (!CompilerModule::get().ok()) GTEST_SKIP() << "no compiler module";
  auto compiled = compile_for("gfx942");
  ASSERT_TRUE(compiled.ok());
  compiled->source.entries.front().name = "no_such_entry";
  const Status status = check_binary(compiled->binary, compiled->source, "gfx942");
  EXPECT_NE(status.message().find("no_such_entry"), std::string::npos) << status.message();
}

// Any prefix and any damaged byte is refused or read, never followed out of bounds (the sanitizers
// watch).
TEST(CodeObjectTest, DamageIsNoCrash) {
  if (!CompilerModule::get().ok()) GTEST_SKIP() << "no compiler module";
  const auto compiled = compile_for("gfx942");
  ASSERT_TRUE(compiled.ok());
  const std::vector<uint8_t>& bytes = compiled->binary.bytes;
  ASSERT_TRUE(read_code_object(bytes).ok());
  for (size_t size = 0; size < 2000; size += 7) {
    EXPECT_FALSE(read_code_object({bytes.begin(), bytes.begin() + static_cast<long>(size)}).ok());
  }
  int refused = 0;
  for (size_t at = 0; at < 2600; ++at) {
    std::vector<uint8_t> damaged = bytes;
    damaged[at] ^= 0xff;
    refused += read_code_object(damaged).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 100);
}

TEST(HiprtcTest, CompilesInAChild) {
  const auto hiprtc = Hiprtc::open(HIPRTC_HELPER, {"libno_such_hiprtc.so", FAKE_HIPRTC});
  ASSERT_TRUE(hiprtc.ok()) << hiprtc.status().to_string();
  EXPECT_NE((*hiprtc)->identity().find("hiprtc "), std::string::npos);
  EXPECT_NE((*hiprtc)->path().find("fake_hiprtc"), std::string::npos);
  const std::string text(200000, 'x');  // more than a pipe holds
  const auto output = (*hiprtc)->compile("k.hip", text, "gfx90a", {"-O3"});
  ASSERT_TRUE(output.ok()) << output.status().to_string();
  EXPECT_EQ(std::string(output->code.begin(), output->code.end()), text);
  EXPECT_NE(output->log.find("a log"), std::string::npos);
}

TEST(HiprtcTest, RefusalCarriesTheLog) {
  const auto hiprtc = Hiprtc::open(HIPRTC_HELPER, {FAKE_HIPRTC});
  ASSERT_TRUE(hiprtc.ok());
  const auto output = (*hiprtc)->compile("k.hip", "#error no", "gfx90a", {});
  ASSERT_FALSE(output.ok());
  EXPECT_EQ(output.status().code(), StatusCode::kCompileError);
  EXPECT_NE(output.status().log().find("a log"), std::string::npos);
}

TEST(HiprtcTest, DeathOfTheChildIsAStatus) {
  const auto hiprtc = Hiprtc::open(HIPRTC_HELPER, {FAKE_HIPRTC});
  ASSERT_TRUE(hiprtc.ok());
  const auto output = (*hiprtc)->compile("k.hip", "text", "gfx942", {});
  ASSERT_FALSE(output.ok());
  EXPECT_EQ(output.status().code(), StatusCode::kCompileError);
  EXPECT_NE(output.status().message().find("signal 6"), std::string::npos)
      << output.status().message();
  EXPECT_NE(output.status().message().find("install a newer one"), std::string::npos);
}

TEST(HiprtcTest, MissingLibraryNamesWhatToInstall) {
  const auto hiprtc = Hiprtc::open(HIPRTC_HELPER, {"libno_such_hiprtc.so"});
  ASSERT_FALSE(hiprtc.ok());
  EXPECT_EQ(hiprtc.status().code(), StatusCode::kUnavailable);
  EXPECT_NE(hiprtc.status().message().find("install ROCm"), std::string::npos);
}

TEST(ChildTest, EndsAreReported) {
  const auto late = run_child({"/bin/sleep", "30"}, "", 1);
  ASSERT_TRUE(late.ok());
  EXPECT_NE(late->death.find("took longer"), std::string::npos);
  const auto failed = run_child({"/bin/sh", "-c", "echo out; echo err >&2; exit 3"}, "", 30);
  ASSERT_TRUE(failed.ok());
  EXPECT_EQ(failed->out, "out\n");
  EXPECT_EQ(failed->errors, "err\n");
  EXPECT_NE(failed->death.find("status 3"), std::string::npos);
  EXPECT_EQ(run_child({"/no/such/program"}, "", 1).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace moejit::internal::hip
