// get_kernel and launch, as a program uses them, on the CPU: every core layer against the
// reference, and every rule of a launch.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <thread>

#include "moejit/moejit.h"
#include "tests/generators/problem.h"

namespace {

using moejit::Kernel;
using moejit::LaunchArgs;
using moejit::MoeConfig;
using moejit::Status;
using moejit::StatusCode;
using moejit_test::GuardedBuffer;
using moejit_test::make_problem;
using moejit_test::NamedConfig;
using moejit_test::Problem;
using moejit_test::RoutingKind;
using moejit_test::worst_row_error;

constexpr int64_t kMaxTokens = 33;

const std::string& cache_directory() {
  static const std::string directory = [] {
    std::string path = testing::TempDir() + "moejit_layer_XXXXXX";
    return std::string(mkdtemp(path.data()));
  }();
  return directory;
}

// An empty handle where this machine has no compiler.
Kernel kernel_for(const MoeConfig& config) {
  const moejit::Options options{.device = "cpu",
                                .max_tokens = kMaxTokens,
                                .tokens = {2, kMaxTokens},
                                .cache_path = cache_directory(),
                                .num_threads = 2};
  const moejit::Result<Kernel> kernel = moejit::get_kernel(config, options);
  if (kernel.ok()) return *kernel;
  EXPECT_EQ(kernel.status().code(), StatusCode::kUnavailable) << kernel.status().to_string();
  return Kernel();
}

#define REQUIRE_KERNEL(kernel) \
  if (!(kernel)) GTEST_SKIP() << "no compiler of CPU kernels here"

class Layer : public testing::TestWithParam<NamedConfig> {};

TEST_P(Layer, AgreesWithTheReference) {
  const MoeConfig& config = GetParam().config;
  const Kernel kernel = kernel_for(config);
  REQUIRE_KERNEL(kernel);
  for (const int64_t tokens : {int64_t{0}, int64_t{1}, int64_t{3}, kMaxTokens}) {
    for (const RoutingKind kind :
         {RoutingKind::kUniform, RoutingKind::kSentinels, RoutingKind::kFromLogits}) {
      SCOPED_TRACE(std::string(to_string(kind)) + ", T = " + std::to_string(tokens));
      Problem p = make_problem(config, {.tokens = tokens, .routing = kind});
      GuardedBuffer workspace(kernel.workspace_size(tokens), 256);
      LaunchArgs args = p.launch_args();
      args.workspace = workspace.data();
      args.workspace_size = workspace.size();
      const Status status = kernel.launch(args);
      ASSERT_TRUE(status.ok()) << status.to_string();
      const auto want = p.expected();
      const double limit = moejit_test::tolerance(config.dtype);
      EXPECT_LT(worst_row_error(p.result(), want, config.hidden_size), limit);
      EXPECT_TRUE(p.intact() && workspace.intact());
      if (kind != RoutingKind::kFromLogits) continue;
      p.out.fill_nan();
      moejit::RoutedLaunchArgs routed = p.routed_args();
      routed.workspace = workspace.data();
      routed.workspace_size = workspace.size();
      const Status routed_status = kernel.launch_routed(routed);
      ASSERT_TRUE(routed_status.ok()) << routed_status.to_string();
      EXPECT_LT(worst_row_error(p.result(), want, config.hidden_size), limit);
      EXPECT_TRUE(p.intact() && workspace.intact());
    }
  }
}

// tests/kernels runs all of them below get_kernel; here a third does, from level 2 on all.
std::vector<NamedConfig> layers() {
  const std::vector<NamedConfig>& all = moejit_test::core_configs();
  if (moejit_test::test_level() >= 2) return all;
  std::vector<NamedConfig> some;
  for (size_t i = 0; i < all.size(); i += 3) some.push_back(all[i]);
  return some;
}

std::string config_name(const testing::TestParamInfo<NamedConfig>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(Core, Layer, testing::ValuesIn(layers()), config_name);

MoeConfig plain() {
  return {.num_experts = 8, .top_k = 2, .hidden_size = 128, .intermediate_size = 64};
}

TEST(Launch, GivesTheSameBitsWhateverTheWorkspaceHeld) {
  const Kernel kernel = kernel_for(plain());
  REQUIRE_KERNEL(kernel);
  Problem p = make_problem(plain(), {.tokens = 19, .routing = RoutingKind::kDuplicates});
  GuardedBuffer workspace(kernel.workspace_size(19), 256);
  LaunchArgs args = p.launch_args();
  args.workspace = workspace.data();
  std::string first;
  for (const int fill : {0xFF, 0x00, 0x5A, 0x3C}) {
    memset(workspace.data(), fill, workspace.size());
    p.out.fill_nan();
    ASSERT_TRUE(kernel.launch(args).ok());
    const std::string bits(p.out.as<char>(), p.out.size());
    if (first.empty()) first = bits;
    EXPECT_EQ(bits, first) << fill;
  }
}

TEST(Launch, WorkspaceOfTheMostTokensServesAll) {
  const Kernel kernel = kernel_for(plain());
  REQUIRE_KERNEL(kernel);
  size_t last = 256;
  for (int64_t tokens = 0; tokens <= kMaxTokens; ++tokens) {
    const size_t size = kernel.workspace_size(tokens);
    EXPECT_GE(size, last) << tokens;
    last = size;
  }
  EXPECT_EQ(kernel.workspace_size(-1), 256u);
}

TEST(Launch, SeveralThreadsMayUseOneKernel) {
  const Kernel kernel = kernel_for(plain());
  REQUIRE_KERNEL(kernel);
  std::vector<std::thread> threads;
  std::vector<double> errors(4, INFINITY);
  for (size_t i = 0; i < errors.size(); ++i) {
    threads.emplace_back([&, i] {
      Problem p = make_problem(plain(), {.tokens = 3 + static_cast<int64_t>(i), .seed = i + 1});
      const auto want = p.expected();
      double worst = 0;
      for (int repeat = 0; repeat < 20; ++repeat) {
        GuardedBuffer workspace(kernel.workspace_size(p.options.tokens), 256);
        p.out.fill_nan();
        LaunchArgs args = p.launch_args();
        args.workspace = workspace.data();
        if (!kernel.launch(args).ok()) return;
        worst = std::max(worst, worst_row_error(p.result(), want, plain().hidden_size));
      }
      errors[i] = worst;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (double error : errors) EXPECT_LT(error, moejit_test::tolerance(plain().dtype));
}

// One changed argument each, and the words that the message must have.
struct BadLaunch {
  const char* name;
  void (*change)(LaunchArgs&);
  const char* words;
};
void PrintTo(const BadLaunch& bad, std::ostream* out) {
  *out << bad.name;
}

template <typename T>
T* shifted(T* pointer, int bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(pointer) + static_cast<uintptr_t>(bytes));
}

class LaunchRule : public testing::TestWithParam<BadLaunch> {};

TEST_P(LaunchRule, IsChecked) {
  const Kernel kernel = kernel_for(plain());
  REQUIRE_KERNEL(kernel);
  Problem p = make_problem(plain(), {.tokens = 3, .routing = RoutingKind::kSentinels});
  GuardedBuffer workspace(kernel.workspace_size(3), 256);
  LaunchArgs args = p.launch_args();
  args.workspace = workspace.data();
  args.workspace_size = workspace.size();
  GetParam().change(args);
  const Status status = kernel.launch(args);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find(GetParam().words), std::string::npos) << status.message();
  for (double value : p.result()) ASSERT_TRUE(std::isnan(value));  // nothing ran
}

const BadLaunch kBadLaunches[] = {
    {"negative_tokens", [](LaunchArgs& a) { a.num_tokens = -1; }, "num_tokens = -1"},
    {"many_tokens", [](LaunchArgs& a) { a.num_tokens = 34; }, "num_tokens = 34"},
    {"most_tokens", [](LaunchArgs& a) { a.num_tokens = std::numeric_limits<int64_t>::max(); },
     "num_tokens = 9223372036854775807"},
    {"no_x", [](LaunchArgs& a) { a.x = nullptr; }, "x = null"},
    {"no_w13", [](LaunchArgs& a) { a.w13 = nullptr; }, "w13 = null"},
    {"no_w2", [](LaunchArgs& a) { a.w2 = nullptr; }, "w2 = null"},
    {"no_ids", [](LaunchArgs& a) { a.topk_ids = nullptr; }, "topk_ids = null"},
    {"no_weights", [](LaunchArgs& a) { a.topk_weights = nullptr; }, "topk_weights = null"},
    {"no_out", [](LaunchArgs& a) { a.out = nullptr; }, "out = null"},
    {"no_workspace", [](LaunchArgs& a) { a.workspace = nullptr; }, "workspace = null"},
    {"x_alignment", [](LaunchArgs& a) { a.x = shifted(a.x, 8); }, "aligned to 16 bytes"},
    {"w13_alignment", [](LaunchArgs& a) { a.w13 = shifted(a.w13, 2); }, "w13"},
    {"out_alignment", [](LaunchArgs& a) { a.out = shifted(a.out, 4); }, "out"},
    {"ids_alignment", [](LaunchArgs& a) { a.topk_ids = shifted(a.topk_ids, 2); }, "topk_ids"},
    {"workspace_alignment", [](LaunchArgs& a) { a.workspace = shifted(a.workspace, 64); },
     "aligned to 256 bytes"},
    {"workspace_size", [](LaunchArgs& a) { a.workspace_size = 255; }, "workspace_size = 255"},
    {"bias", [](LaunchArgs& a) { a.b13 = a.x; }, "b13"},
    {"strict", [](LaunchArgs& a) { a.strict = true; }, "topk_ids["},
};
std::string bad_name(const testing::TestParamInfo<BadLaunch>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(All, LaunchRule, testing::ValuesIn(kBadLaunches), bad_name);

TEST(Launch, AnEmptyHandleRefuses) {
  EXPECT_EQ(Kernel().launch({}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Kernel().launch_routed({}).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Kernel().workspace_size(5), 256u);
  EXPECT_TRUE(Kernel().buckets().empty());
}

TEST(GetKernelArguments, RefusesAnInvalidConfigAndUnknownDevices) {
  MoeConfig config = plain();
  config.top_k = 9;
  EXPECT_EQ(moejit::get_kernel(config).status().message(),
            "top_k = 9: must be between 1 and num_experts (8)");
  EXPECT_EQ(moejit::get_kernel(plain(), {.device = "tpu"}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(moejit::get_kernel(plain(), {.device = "cpu", .max_tokens = -1}).status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
