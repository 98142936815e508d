#include "cublas.h"

#include <cstdlib>

#include "base/dylib.h"
#include "tuner/estimator.h"

namespace moejit::gpu_bench {
namespace {

using namespace moejit::internal;

constexpr int kBf16 = 14;        // cudaDataType_t CUDA_R_16BF
constexpr int kCompute32F = 68;  // cublasComputeType_t
constexpr int kTransposed = 1;
constexpr int kPlain = 0;
constexpr size_t kWorkspace = 64 << 20;

}  // namespace

Status LibraryProduct::open(const Device& device, int64_t n) {
  std::vector<std::string> paths = {"libcublas.so.13", "libcublas.so.12"};
  if (const char* path = std::getenv("MOEJIT_CUBLAS")) paths.insert(paths.begin(), path);
  auto library = Dylib::open_first(paths);
  if (!library.ok()) return library.status();
  int (*create)(void**);
  if (!library->find("cublasCreate_v2", create) ||
      !library->find("cublasSetStream_v2", set_stream_) ||
      !library->find("cublasSetWorkspace_v2", set_workspace_) ||
      !library->find("cublasGemmEx", gemm_)) {
    return Status(StatusCode::kUnavailable, library->path() + ": has no cublasGemmEx");
  }
  const auto pattern = std::make_shared<Pattern>(DType::kBF16, 1.0, 7);
  for (PatternTensor* t : {&a_, &b_}) {
    *t = {.pattern = pattern, .seed = t == &a_ ? 1u : 2u, .rows = n, .cols = n};
    MOEJIT_RETURN_IF_ERROR(t->fill(device));
  }
  for (auto [buffer, bytes] :
       {std::pair{&c_, static_cast<size_t>(n * n * 2)}, std::pair{&workspace_, kWorkspace}}) {
    auto made = device.allocate(bytes);
    if (!made.ok()) return made.status();
    *buffer = *made;
  }
  if (create(&handle_) != 0) return Status(StatusCode::kDeviceError, "cublasCreate failed");
  n_ = n;
  return Status();
}

Status LibraryProduct::launch(Stream stream) const {
  const float one = 1, zero = 0;
  const int n = static_cast<int>(n_);
  set_stream_(handle_, stream);
  set_workspace_(handle_, workspace_.get(), kWorkspace);
  const int result = gemm_(handle_, kTransposed, kPlain, n, n, n, &one, a_.device.get(), kBf16, n,
                           b_.device.get(), kBf16, n, &zero, c_.get(), kBf16, n, kCompute32F, -1);
  if (result == 0) return Status();
  return Status(StatusCode::kDeviceError, "cublasGemmEx: " + std::to_string(result));
}
double LibraryProduct::operations() const {
  const double n = static_cast<double>(n_);
  return 2 * n * n * n;
}

Result<double> LibraryProduct::flops(const Device& device) const {
  const auto times = device.time([&](int, Stream stream) { return launch(stream); }, 30);
  if (!times.ok()) return times.status();
  return operations() / summarize(*times).median_s;
}

}  // namespace moejit::gpu_bench
