// On a GPU, through the public API: routing, the caller's streams, graphs, contexts and mistakes.
// Skipped, with the driver's reason, where there is none.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>
#include <tuple>
#include <vector>

#include "backends/cuda/driver.h"
#include "moejit/moejit.h"
#include "tests/generators/on_all_cores.h"
#include "tests/generators/problem.h"

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::get_kernel;
using moejit::Kernel;
using moejit::MoeConfig;
using moejit::Options;
using moejit::StatusCode;
using moejit::internal::cuda::CUcontext;
using moejit::internal::cuda::CUdeviceptr;
using moejit::internal::cuda::CUgraph;
using moejit::internal::cuda::CUgraphExec;
using moejit::internal::cuda::CUstream;
using moejit::internal::cuda::Driver;

MoeConfig small_layer() {
  return {.num_experts = 8,
          .top_k = 2,
          .hidden_size = 256,
          .intermediate_size = 192,
          .dtype = DType::kBF16,
          .router = {}};
}

// A device buffer of the current context.
class DeviceBuffer {
 public:
  DeviceBuffer(const Driver& api, const GuardedBuffer& host) : api_(api), size_(host.size()) {
    if (size_ == 0) return;
    EXPECT_EQ(api_.cuMemAlloc(&pointer_, size_), 0);
    EXPECT_EQ(api_.cuMemcpyHtoD(pointer_, host.data(), size_), 0);
  }
  ~DeviceBuffer() {
    if (pointer_ != 0) api_.cuMemFree(pointer_);
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  void* get() const { return reinterpret_cast<void*>(pointer_); }
  void read(GuardedBuffer* host) const {
    EXPECT_EQ(api_.cuMemcpyDtoH(host->data(), pointer_, size_), 0);
  }

 private:
  const Driver& api_;
  size_t size_ = 0;
  CUdeviceptr pointer_ = 0;
};

// A problem's tensors on the device.
struct OnDevice {
  DeviceBuffer x, w13, w2, b13, b2, ids, weights, logits, bias, out;
  GuardedBuffer workspace_host;
  DeviceBuffer workspace;

  OnDevice(const Driver& api, const Problem& p, size_t workspace_bytes)
      : x(api, p.x),
        w13(api, p.w13),
        w2(api, p.w2),
        b13(api, p.b13),
        b2(api, p.b2),
        ids(api, p.ids),
        weights(api, p.weights),
        logits(api, p.logits),
        bias(api, p.correction_bias),
        out(api, p.out),
        workspace_host(workspace_bytes, 256),
        workspace(api, workspace_host) {}

  moejit::LaunchArgs args(const Problem& p) const {
    moejit::LaunchArgs a;
    a.num_tokens = p.options.tokens;
    a.x = x.get();
    a.w13 = w13.get();
    a.w2 = w2.get();
    a.b13 = b13.get();
    a.b2 = b2.get();
    a.topk_ids = static_cast<int32_t*>(ids.get());
    a.topk_weights = static_cast<float*>(weights.get());
    a.out = out.get();
    a.workspace = workspace.get();
    return a;
  }
  moejit::RoutedLaunchArgs routed_args(const Problem& p) const {
    moejit::RoutedLaunchArgs a;
    a.num_tokens = p.options.tokens;
    a.x = x.get();
    a.w13 = w13.get();
    a.w2 = w2.get();
    a.b13 = b13.get();
    a.b2 = b2.get();
    a.router_logits = logits.get();
    a.logits_dtype = p.options.logits_dtype;
    a.correction_bias = static_cast<float*>(bias.get());
    a.topk_ids = static_cast<int32_t*>(ids.get());
    a.topk_weights = static_cast<float*>(weights.get());
    a.out = out.get();
    a.workspace = workspace.get();
    return a;
  }
};

class CudaLaunch : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto& opened = moejit::internal::cuda::driver();
    if (!opened.ok()) GTEST_SKIP() << opened.status().message();
    api_ = *opened;
    int count = 0;
    if (api_->cuDeviceGetCount(&count) != 0 || count == 0) GTEST_SKIP() << "no CUDA device";
    char dir[] = "/tmp/moejit-gpu-test-XXXXXX";
    ASSERT_NE(::mkdtemp(dir), nullptr);
    options_.cache_path = dir;
    options_.device = "cuda:0";
    options_.max_tokens = 64;
    options_.tokens = {1, 64};
    EXPECT_EQ(api_->cuDevicePrimaryCtxRetain(&primary_, 0), 0);
    EXPECT_EQ(api_->cuCtxPushCurrent(primary_), 0);
  }
  void TearDown() override {
    if (primary_ == nullptr) return;
    CUcontext popped = nullptr;
    api_->cuCtxPopCurrent(&popped);
    std::error_code ignored;
    std::filesystem::remove_all(options_.cache_path, ignored);
  }
  void expect_right(const Problem& problem, const OnDevice& device, const std::string& what) const {
    GuardedBuffer result(problem.out.size());
    device.out.read(&result);
    Problem copy = make_problem(problem.config, problem.options);
    std::memcpy(copy.out.data(), result.data(), result.size());
    EXPECT_LE(worst_row_error(copy.result(), problem.expected(), problem.config.hidden_size),
              tolerance(problem.config.dtype))
        << what;
  }

  const Driver* api_ = nullptr;
  CUcontext primary_ = nullptr;
  Options options_;
};

// Routers' ids against the float64 reference, and their weights: by the launch of few tokens, which
// routes for itself, and by the router's own. At level 1 every fifth router, and those of more and
// of fewer experts at the end of the list; compiling is what takes time, so all cores do.
TEST_F(CudaLaunch, RoutersMatchTheReference) {
  std::vector<const NamedConfig*> chosen;
  const std::vector<NamedConfig>& all = router_configs();
  for (size_t i = 0; i < all.size(); ++i) {
    if (test_level() > 1 || i % 5 == 0 || i + 4 >= all.size()) chosen.push_back(&all[i]);
  }
  on_all_cores(chosen.size(),
               [&](size_t i) { std::ignore = get_kernel(chosen[i]->config, options_); });
  for (const NamedConfig* named : chosen) {
    const auto kernel = get_kernel(named->config, options_);
    ASSERT_TRUE(kernel.ok()) << named->name << ": " << kernel.status().to_string();
    for (int64_t tokens : {1, 4, 37}) {
      for (DType logits : {DType::kF32, DType::kBF16}) {
        const std::string what = named->name + ", T = " + std::to_string(tokens);
        Problem problem = make_problem(named->config, {.tokens = tokens,
                                                       .seed = 5,
                                                       .routing = RoutingKind::kFromLogits,
                                                       .logits_dtype = logits});
        GuardedBuffer none(problem.ids.size());
        OnDevice device(*api_, problem, kernel->workspace_size(tokens));
        EXPECT_EQ(api_->cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(device.ids.get()), none.data(),
                                     none.size()),
                  0);
        ASSERT_TRUE(kernel->launch_routed(device.routed_args(problem)).ok());
        ASSERT_EQ(api_->cuCtxSynchronize(), 0) << what;
        GuardedBuffer ids(problem.ids.size()), weights(problem.weights.size());
        device.ids.read(&ids);
        device.weights.read(&weights);
        for (size_t i = 0; i < problem.reference_ids.size(); ++i) {
          ASSERT_EQ(ids.as<int32_t>()[i], problem.reference_ids[i]) << what << " slot " << i;
          ASSERT_NEAR(weights.as<float>()[i], problem.reference_weights[i],
                      1e-5 * std::fabs(problem.reference_weights[i]) + 1e-7)
              << what << " slot " << i;
        }
        expect_right(problem, device, what);
      }
    }
  }
}

// A caller's stream and graph: nothing in a launch may end a capture, and a replay reads what the
// tensors hold then.
TEST_F(CudaLaunch, IsCapturedAndReplayed) {
  const auto kernel = get_kernel(small_layer(), options_);
  ASSERT_TRUE(kernel.ok()) << kernel.status().to_string();
  for (int64_t tokens : {1, 3, 64}) {
    const Problem first = make_problem(small_layer(), {.tokens = tokens, .seed = 1});
    const Problem second = make_problem(small_layer(), {.tokens = tokens, .seed = 2});
    OnDevice device(*api_, first, kernel->workspace_size(tokens));
    CUstream stream = nullptr;
    ASSERT_EQ(api_->cuStreamCreate(&stream, moejit::internal::cuda::kStreamNonBlocking), 0);
    CUgraph graph = nullptr;
    CUgraphExec replay = nullptr;
    constexpr int kGlobal = 0;
    ASSERT_EQ(api_->cuStreamBeginCapture(stream, kGlobal), 0);
    EXPECT_TRUE(kernel->launch(device.args(first), stream).ok());
    EXPECT_TRUE(kernel->launch(device.args(first), stream).ok());
    ASSERT_EQ(api_->cuStreamEndCapture(stream, &graph), 0) << "a launch ended the capture";
    ASSERT_EQ(api_->cuGraphInstantiate(&replay, graph, 0), 0);
    for (const Problem* problem : {&first, &second, &first}) {
      for (const auto& [to, from] :
           {std::pair{&device.x, &problem->x}, std::pair{&device.w13, &problem->w13},
            std::pair{&device.w2, &problem->w2}, std::pair{&device.ids, &problem->ids},
            std::pair{&device.weights, &problem->weights}}) {
        ASSERT_EQ(api_->cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(to->get()), from->data(),
                                     from->size()),
                  0);
      }
      ASSERT_EQ(api_->cuGraphLaunch(replay, stream), 0);
      ASSERT_EQ(api_->cuStreamSynchronize(stream), 0);
      expect_right(*problem, device, "T = " + std::to_string(tokens));
    }
    api_->cuGraphExecDestroy(replay);
    api_->cuGraphDestroy(graph);
    api_->cuStreamDestroy(stream);
  }
}

TEST_F(CudaLaunch, GetKernelDuringACaptureIsNotReady) {
  const auto warm = get_kernel(small_layer(), options_);
  ASSERT_TRUE(warm.ok()) << warm.status().to_string();
  MoeConfig other = small_layer();
  other.hidden_size = 320;
  constexpr int kGlobal = 0;
  for (unsigned flags : {0U, moejit::internal::cuda::kStreamNonBlocking}) {
    CUstream stream = nullptr;
    ASSERT_EQ(api_->cuStreamCreate(&stream, flags), 0);
    ASSERT_EQ(api_->cuStreamBeginCapture(stream, kGlobal), 0);
    Options options = options_;
    options.stream = flags == 0 ? nullptr : stream;
    const auto cold = get_kernel(other, options);
    ASSERT_FALSE(cold.ok());
    EXPECT_EQ(cold.status().code(), StatusCode::kNotReady) << cold.status().to_string();
    // What is there is given at once, capture or not.
    EXPECT_TRUE(get_kernel(small_layer(), options).ok());
    CUgraph graph = nullptr;
    EXPECT_EQ(api_->cuStreamEndCapture(stream, &graph), 0) << "get_kernel ended the capture";
    if (graph != nullptr) api_->cuGraphDestroy(graph);
    api_->cuStreamDestroy(stream);
  }
  EXPECT_TRUE(get_kernel(other, options_).ok()) << "after the capture";
}

// Compiling and loading on another thread while this one captures in the strictest mode.
TEST_F(CudaLaunch, AnotherThreadMayCompileDuringACapture) {
  CUstream stream = nullptr;
  ASSERT_EQ(api_->cuStreamCreate(&stream, moejit::internal::cuda::kStreamNonBlocking), 0);
  const auto warm = get_kernel(small_layer(), options_);
  ASSERT_TRUE(warm.ok());
  const Problem problem = make_problem(small_layer(), {.tokens = 4, .seed = 1});
  OnDevice device(*api_, problem, warm->workspace_size(4));
  constexpr int kGlobal = 0;
  ASSERT_EQ(api_->cuStreamBeginCapture(stream, kGlobal), 0);
  moejit::Status status;
  std::thread([&] {
    MoeConfig other = small_layer();
    other.intermediate_size = 256;
    const auto kernel = get_kernel(other, options_);
    status = kernel.ok() ? moejit::Status() : kernel.status();
  }).join();
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_TRUE(warm->launch(device.args(problem), stream).ok());
  CUgraph graph = nullptr;
  EXPECT_EQ(api_->cuStreamEndCapture(stream, &graph), 0) << "the other thread ended the capture";
  if (graph != nullptr) api_->cuGraphDestroy(graph);
  api_->cuStreamDestroy(stream);
}

TEST_F(CudaLaunch, HostPointersAreNamed) {
  const auto kernel = get_kernel(small_layer(), options_);
  ASSERT_TRUE(kernel.ok());
  Problem problem = make_problem(small_layer(), {.tokens = 4, .seed = 1});
  OnDevice device(*api_, problem, kernel->workspace_size(4));
  moejit::LaunchArgs args = device.args(problem);
  int pageable = 0;
  api_->cuDeviceGetAttribute(&pageable, moejit::internal::cuda::kAttrPageableMemoryAccess, 0);
  if (pageable != 0) GTEST_SKIP() << "this GPU reads host memory";
  args.w2 = problem.w2.data();
  const moejit::Status status = kernel->launch(args);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("w2 = 0x"), std::string::npos) << status.message();
  args = device.args(problem);
  EXPECT_TRUE(kernel->launch(args).ok());
  ASSERT_EQ(api_->cuCtxSynchronize(), 0);
  expect_right(problem, device, "after the refusal");
}

// A context of the caller's own, not the primary one.
TEST_F(CudaLaunch, WorksInTheCallersContext) {
  using CtxCreate = int (*)(CUcontext*, void*, unsigned, int);
  using CtxDestroy = int (*)(CUcontext);
  void* library = ::dlopen("libcuda.so.1", RTLD_NOW);
  ASSERT_NE(library, nullptr);
  const auto create = reinterpret_cast<CtxCreate>(::dlsym(library, "cuCtxCreate_v4"));
  const auto destroy = reinterpret_cast<CtxDestroy>(::dlsym(library, "cuCtxDestroy_v2"));
  if (create == nullptr || destroy == nullptr) GTEST_SKIP() << "an older driver";
  CUcontext own = nullptr;
  ASSERT_EQ(create(&own, nullptr, 0, 0), 0);
  {
    const auto kernel = get_kernel(small_layer(), options_);
    ASSERT_TRUE(kernel.ok()) << kernel.status().to_string();
    const Problem problem = make_problem(small_layer(), {.tokens = 33, .seed = 4});
    OnDevice device(*api_, problem, kernel->workspace_size(33));
    CUcontext current = nullptr;
    ASSERT_TRUE(kernel->launch(device.args(problem)).ok());
    EXPECT_EQ(api_->cuCtxGetCurrent(&current), 0);
    EXPECT_EQ(current, own) << "the launch left another context current";
    ASSERT_EQ(api_->cuCtxSynchronize(), 0);
    expect_right(problem, device, "own context");
  }
  EXPECT_EQ(destroy(own), 0);
}

// What another kernel of the process broke is told as such, with the remedy; no crash, no hang.
TEST_F(CudaLaunch, ALostContextIsAStatus) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        const auto kernel = get_kernel(small_layer(), options_);
        if (!kernel.ok()) std::exit(10);
        const Problem problem = make_problem(small_layer(), {.tokens = 4, .seed = 1});
        OnDevice device(*api_, problem, kernel->workspace_size(4));
        moejit::LaunchArgs args = device.args(problem);
        if (!kernel->launch(args).ok() || api_->cuCtxSynchronize() != 0) std::exit(11);
        args.x = reinterpret_cast<const void*>(uintptr_t{1} << 46);  // mapped nowhere
        (void)kernel->launch(args);
        if (api_->cuCtxSynchronize() == 0) std::exit(12);
        args = device.args(problem);
        const moejit::Status after = kernel->launch(args);
        std::fprintf(stderr, "%s\n", after.to_string().c_str());
        std::_Exit(after.code() == StatusCode::kDeviceError ? 0 : 13);
      },
      testing::ExitedWithCode(0), "failed earlier.*restart");
}

}  // namespace
}  // namespace moejit_test
