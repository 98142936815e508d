// Source to running code: what compiles, what is refused, and what the refusal says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "backends/backend.h"
#include "tests/cpu_backend/sources.h"

namespace moejit::internal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CompileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    MOEJIT_NEED_COMPILER();
    auto device = open_device("cpu:x86-64-v3", 2);
    if (!device.ok()) GTEST_SKIP() << device.status().to_string();
    device_ = *device;
  }

  std::shared_ptr<const Module> build(const KernelSource& source) {
    auto binary = device_->compile(source);
    EXPECT_TRUE(binary.ok()) << binary.status().to_string() << "\n" << binary.status().log();
    if (!binary.ok()) return nullptr;
    auto module = device_->load(*binary, source);
    EXPECT_TRUE(module.ok()) << module.status().to_string();
    return module.ok() ? *module : nullptr;
  }

  // What the kernel writes to the ints at args.out.
  std::vector<int> run(const KernelSource& source, int64_t tokens = 1, int routed = 0) {
    std::vector<int> out(16, -1);
    auto module = build(source);
    if (module == nullptr) return {};
    MoeArgs args{};
    args.out = out.data();
    args.num_tokens = tokens;
    args.routed = routed;
    EXPECT_TRUE(module->launch(args, nullptr).ok());
    return out;
  }

  TemporaryFolder temporary_;
  ScopedEnv env_{"TMPDIR", temporary_.path()};  // failed sources are written there
  const Device* device_ = nullptr;
};

TEST_F(CompileTest, EveryWorkerRunsOnce) {
  const auto out = run(kernel(
      "extern \"C\" void go(const MoeArgs* a, int w, int n) { ((int*)a->out)[w] = 10 * n + w; }"));
  ASSERT_FALSE(out.empty());
  EXPECT_EQ(out[0], 20);
  EXPECT_EQ(out[1], 21);
  EXPECT_EQ(out[2], -1);
}

TEST_F(CompileTest, EntriesRunInOrderAndOnlyThoseThatApply) {
  KernelSource source = kernel(
      "extern \"C\" void route(const MoeArgs* a, int w, int) { if (w == 0) ((int*)a->out)[0] = 1; "
      "}\n"
      "extern \"C\" void sort(const MoeArgs* a, int w, int) { if (w == 0) ((int*)a->out)[1] = 2; "
      "}\n"
      "extern \"C\" void last(const MoeArgs* a, int w, int n) {"
      "  int* o = (int*)a->out; o[4 + w] = 100 * n + 10 * o[0] + o[1]; }\n",
      {"route", "sort", "last"});
  source.entries[0].when = When::kRouted;
  source.entries[1].when = When::kUnrouted;
  auto out = run(source, 1, 1);
  ASSERT_FALSE(out.empty());
  EXPECT_EQ(out[4], 200 + 10 - 1);
  EXPECT_EQ(out[5], 200 + 10 - 1);
  out = run(source, 1, 0);
  EXPECT_EQ(out[4], 200 - 10 + 2);
}

TEST_F(CompileTest, SmallWorkIsSerialUpToTheGivenNumberOfRows) {
  KernelSource source =
      kernel("extern \"C\" void go(const MoeArgs* a, int w, int n) { ((int*)a->out)[w] = n; }");
  source.rows_per_token = 8;
  source.entries[0].serial_up_to = 32;
  EXPECT_EQ(run(source, 4)[0], 1);
  EXPECT_EQ(run(source, 4)[1], -1);
  EXPECT_EQ(run(source, 5)[0], 2);
  EXPECT_EQ(run(source, 5)[1], 2);
  source.entries[0].serial_up_to = 0;
  EXPECT_EQ(run(source, 1)[0], 2);
}

// Each kind of section and relocation that the linker handles.
TEST_F(CompileTest, DataTablesJumpTablesAndImports) {
  const auto out = run(kernel(R"(
    static int add(int x) { return x + 1; }
    static int twice(int x) { return 2 * x; }
    typedef int (*Function)(int);
    struct Item { const char* name; Function f; };
    __attribute__((used)) static const Item items[] = {{"add", add}, {"twice", twice}};
    volatile int which = 1;                                   // .data
    volatile int zeroed[1000];                                // .bss
    __attribute__((visibility("default"))) int shown = 7;     // through the address table
    extern "C" __attribute__((visibility("default"))) int* through() { return &shown; }
    __attribute__((noinline)) static int choose(int i, int x) {
      switch (i) {                                            // a jump table
        case 0: return x * 3; case 1: return x - 9; case 2: return x ^ 77; case 3: return x << 3;
        case 4: return x / 7; case 5: return ~x; case 6: return x % 11; default: return -5;
      }
    }
    struct Big { char bytes[4096]; };
    static Big from, to;
    extern "C" void go(const MoeArgs* a, int w, int) {
      if (w != 0) return;
      int* o = (int*)a->out;
      const volatile Item* item = items;
      o[0] = ((Function)item[which].f)(21);
      o[1] = ((const char*)item[0].name)[1];
      int sum = 0;
      for (int i = 0; i < 1000; ++i) sum += zeroed[i];
      o[2] = sum;
      o[3] = *through();
      for (int i = 0; i < 8; ++i) o[4 + i] = choose(which - 1 + i, 100);
      from.bytes[4095] = 33;
      __builtin_memcpy(&to, &from, sizeof to);
      o[12] = to.bytes[4095];
    })"));
  ASSERT_FALSE(out.empty());
  EXPECT_EQ(out[0], 42);
  EXPECT_EQ(out[1], 'd');
  EXPECT_EQ(out[2], 0);
  EXPECT_EQ(out[3], 7);
  const int chosen[] = {300, 91, 100 ^ 77, 800, 14, ~100, 1, -5};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(out[4 + i], chosen[i]) << i;
  EXPECT_EQ(out[12], 33);
}

TEST_F(CompileTest, SameSourceGivesSameBytes) {
  const auto first = device_->compile(constant_kernel(5));
  const auto second = device_->compile(constant_kernel(5));
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->bytes, second->bytes);
  EXPECT_EQ(first->format, "elf-so");
  EXPECT_EQ(first->arch, "x86-64-v3");
  EXPECT_GT(first->compile_ms, 0);
  EXPECT_EQ(first->compiler, *device_->compiler());
  EXPECT_THAT(first->compiler, AllOf(HasSubstr("clang version 19"), HasSubstr("module:")));
}

TEST_F(CompileTest, ErrorCarriesLogAndSource) {
  const KernelSource source = kernel("int broken = nonsense;\n", {"go"}, "broken.cc");
  const auto binary = device_->compile(source);
  ASSERT_EQ(binary.status().code(), StatusCode::kCompileError);
  EXPECT_THAT(binary.status().log(), HasSubstr("use of undeclared identifier 'nonsense'"));
  EXPECT_THAT(binary.status().log(), HasSubstr("broken.cc"));
  const std::string message = binary.status().message();
  const size_t at = message.find("source: ");
  ASSERT_NE(at, std::string::npos) << message;
  const std::string path = message.substr(at + 8);
  EXPECT_EQ(read_text(path), source.text);
  EXPECT_EQ(path.find(temporary_.path().string()), 0u) << path;
}

TEST_F(CompileTest, DumpDirectoryReceivesEverySource) {
  const std::string made = temporary_.path() / "made";
  in_new_process("MOEJIT_DUMP_DIR", made, [this] {
    const std::string folder = getenv("MOEJIT_DUMP_DIR");
    ASSERT_TRUE(device_->compile(constant_kernel(1)).ok());
    ASSERT_TRUE(device_->compile(constant_kernel(2)).ok());
    ASSERT_TRUE(device_->compile(constant_kernel(2)).ok());
    const auto failed = device_->compile(kernel("error here", {"go"}, "../../evil/name.cc"));
    EXPECT_EQ(failed.status().code(), StatusCode::kCompileError);
    EXPECT_THAT(failed.status().message(), HasSubstr(folder));
    int files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      ++files;
      EXPECT_EQ(entry.path().extension(), ".cc");
    }
    EXPECT_EQ(files, 3);  // equal sources share one
  });
}

TEST_F(CompileTest, UndefinedSymbolsAreNamed) {
  const auto binary = device_->compile(
      kernel("extern \"C\" float expf(float); int helper(int);\n"
             "extern \"C\" void go(const MoeArgs* a, int w, int) {"
             "  *(float*)a->out = expf((float)w); ((int*)a->out)[1] = helper(w); }"));
  ASSERT_EQ(binary.status().code(), StatusCode::kCompileError);
  EXPECT_THAT(binary.status().message(), AllOf(HasSubstr("expf"), HasSubstr("helper(int)")));
}

TEST_F(CompileTest, AMissingOrStaticEntryIsNamed) {
  KernelSource source = constant_kernel(1);
  source.entries.push_back(Entry{.name = "absent"});
  auto binary = device_->compile(source);
  ASSERT_EQ(binary.status().code(), StatusCode::kCompileError);
  EXPECT_THAT(binary.status().message(), HasSubstr("absent"));
}

TEST_F(CompileTest, ConstructorsThreadLocalsAndHeadersAreRefused) {
  const std::string go =
      "extern \"C\" void go(const MoeArgs* a, int w, int) { *(int*)a->out = use(w); }";
  auto status = device_
                    ->compile(kernel(
                        "int seed(); int s = seed(); int seed() { return __builtin_ia32_rdtsc(); }"
                        "int use(int) { return s; }" +
                        go))
                    .status();
  EXPECT_EQ(status.code(), StatusCode::kCompileError);
  EXPECT_THAT(status.message(), HasSubstr("constructor"));
  status =
      device_->compile(kernel("thread_local int s = 3; int use(int x) { return s += x; }" + go))
          .status();
  EXPECT_EQ(status.code(), StatusCode::kCompileError);
  EXPECT_THAT(status.message(), HasSubstr("thread"));
  status =
      device_->compile(kernel("#include <math.h>\nint use(int x) { return x; }" + go)).status();
  EXPECT_EQ(status.code(), StatusCode::kCompileError);
  EXPECT_THAT(status.log(), HasSubstr("'math.h' file not found"));
}

TEST_F(CompileTest, OptionsActOnOneCompileOnly) {
  KernelSource source = kernel(
      "extern \"C\" void go(const MoeArgs* a, int w, int) { if (w == 0) *(int*)a->out = VALUE; }");
  source.options = {"-DVALUE=77"};
  EXPECT_EQ(run(source)[0], 77);
  for (const char* option :
       {"-mllvm", "-load", "-fplugin=x.so", "-o", "-I/usr/include", "name.cc", ""}) {
    source.options = {option};
    const auto status = device_->compile(source).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << option;
    EXPECT_THAT(status.message(), HasSubstr(std::string("\"") + option + "\""));
  }
  source.options = {"-std=nonsense"};
  EXPECT_FALSE(device_->compile(source).ok());
}

TEST_F(CompileTest, UnknownArchIsRefused) {
  KernelSource source = constant_kernel(1);
  source.arch = "x86-64-v9";
  const auto status = device_->compile(source).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("x86-64-v9"));
}

// Compiling for a level needs no CPU of that level.
TEST_F(CompileTest, AssemblyShowsTheLevel) {
  KernelSource source = kernel(
      "typedef float V __attribute__((vector_size(64)));\n"
      "extern \"C\" void go(const MoeArgs* a, int, int) {"
      "  V* v = (V*)a->out; v[0] = v[0] * v[1] + v[2]; }");
  for (const auto& [arch, zmm] : {std::pair("x86-64-v3", false), std::pair("x86-64-v4", true)}) {
    source.arch = arch;
    const auto text = device_->assembly(source);
    ASSERT_TRUE(text.ok()) << text.status().to_string();
    EXPECT_THAT(*text, HasSubstr("go:"));
    if (zmm) {
      EXPECT_THAT(*text, HasSubstr("%zmm"));
    } else {
      EXPECT_THAT(*text, AllOf(HasSubstr("%ymm"), Not(HasSubstr("%zmm"))));
    }
  }
  source = kernel(
      "typedef float V __attribute__((vector_size(64))); typedef __bf16 B "
      "__attribute__((vector_size(64)));\n"
      "extern \"C\" void go(const MoeArgs* a, int, int) { V* v = (V*)a->out; const B* b = (const "
      "B*)a->x;"
      "  v[0] = __builtin_ia32_dpbf16ps_512(v[0], b[0], b[1]); }");
  source.arch = "x86-64-v4+bf16";
  const auto text = device_->assembly(source);
  ASSERT_TRUE(text.ok()) << text.status().log();
  EXPECT_THAT(*text, HasSubstr("vdpbf16ps"));
  source.arch = "x86-64-v4";
  EXPECT_EQ(device_->assembly(source).status().code(), StatusCode::kCompileError);
}

TEST_F(CompileTest, ACrashOfTheCompilerIsAnError) {
  for (const char* how : {"crash", "llvm_fatal_error"}) {
    const auto status =
        device_->compile(kernel("#pragma clang __debug " + std::string(how) + "\n")).status();
    EXPECT_EQ(status.code(), StatusCode::kCompileError) << how;
    EXPECT_THAT(status.message(), HasSubstr("crashed")) << how;
    EXPECT_EQ(run(constant_kernel(11))[0], 11) << how;
  }
}

TEST_F(CompileTest, ParallelCompilesGiveTheirOwnResults) {
  constexpr int kThreads = 8, kEach = 4;
  std::vector<int> results(kThreads * kEach, -1);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        const int value = 1000 * t + i;
        // Every other one fails, as errors must not leak into neighbours either.
        const auto failed =
            device_->compile(kernel("int x = missing_" + std::to_string(value) + ";"));
        if (failed.status().log().find("missing_" + std::to_string(value)) == std::string::npos)
          continue;
        const KernelSource source = constant_kernel(value);
        const auto binary = device_->compile(source);
        if (!binary.ok()) continue;
        const auto module = device_->load(*binary, source);
        if (!module.ok()) continue;
        MoeArgs args{};
        args.out = &results[static_cast<size_t>(t * kEach + i)];
        (void)(*module)->launch(args, nullptr);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < kThreads; ++t) {
    for (int i = 0; i < kEach; ++i)
      EXPECT_EQ(results[static_cast<size_t>(t * kEach + i)], 1000 * t + i);
  }
}

TEST(CompilerModule, AMissingOrForeignModuleIsExplained) {
  auto status = CompilerModule::get("/nowhere/libmoejit_cpu.so").status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("/nowhere/libmoejit_cpu.so"), HasSubstr("libclang-cpp19")));
  TemporaryFolder folder;
  const std::string path = folder.path() / "libmoejit_cpu.so";
  std::ofstream(path) << "no library";
  EXPECT_EQ(CompilerModule::get(path).status().code(), StatusCode::kUnavailable);
  const auto other = Dylib::open("libm.so.6");
  ASSERT_TRUE(other.ok());
  status = CompilerModule::get(other->path()).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr("not the compiler module"));
}

TEST(CompilerModule, TheDeviceSaysSoWhereItIsMissing) {
  in_new_process("MOEJIT_CPU_MODULE", "/nowhere.so", [] {
    const auto device = open_device("cpu");
    ASSERT_TRUE(device.ok());
    for (const Status& status :
         {(*device)->compiler().status(), (*device)->compile(constant_kernel(1)).status(),
          (*device)->assembly(constant_kernel(1)).status()}) {
      EXPECT_EQ(status.code(), StatusCode::kUnavailable);
      EXPECT_THAT(status.message(), HasSubstr("MOEJIT_CPU_MODULE = \"/nowhere.so\""));
    }
    bool found = false;
    for (const auto& [what, value] : cpu_backend()->facts()) {
      if (what == "compiler") found = value.find("/nowhere.so") != std::string::npos;
    }
    EXPECT_TRUE(found);
  });
}

}  // namespace
}  // namespace moejit::internal
