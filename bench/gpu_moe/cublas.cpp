#include "cublas.h"

#include <algorithm>
#include <cstdlib>

#include "base/dylib.h"
#include "tuner/workload.h"

namespace moejit::gpu_bench {
namespace {

using namespace moejit::internal;

constexpr int kBf16 = 14;        // cudaDataType_t CUDA_R_16BF
constexpr int kCompute32F = 68;  // cublasComputeType_t
constexpr int kTransposed = 1;
constexpr int kPlain = 0;

}  // namespace

Result<double> cublas_flops(const Device& device, int64_t n) {
  std::vector<std::string> paths = {"libcublas.so.13", "libcublas.so.12"};
  if (const char* path = std::getenv("MOEJIT_CUBLAS")) paths.insert(paths.begin(), path);
  auto library = Dylib::open_first(paths);
  if (!library.ok()) return library.status();
  using Handle = void*;
  int (*create)(Handle*);
  int (*set_stream)(Handle, void*);
  int (*set_workspace)(Handle, void*, size_t);
  int (*gemm)(Handle, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
              int, const void*, void*, int, int, int, int);
  if (!library->find("cublasCreate_v2", create) ||
      !library->find("cublasSetStream_v2", set_stream) ||
      !library->find("cublasSetWorkspace_v2", set_workspace) ||
      !library->find("cublasGemmEx", gemm)) {
    return Status(StatusCode::kUnavailable, library->path() + ": has no cublasGemmEx");
  }
  const auto pattern = std::make_shared<Pattern>(DType::kBF16, 1.0, 7);
  PatternTensor a{.pattern = pattern, .seed = 1, .rows = n, .cols = n, .device = nullptr};
  PatternTensor b{.pattern = pattern, .seed = 2, .rows = n, .cols = n, .device = nullptr};
  MOEJIT_RETURN_IF_ERROR(a.fill(device));
  MOEJIT_RETURN_IF_ERROR(b.fill(device));
  auto c = device.allocate(static_cast<size_t>(n * n * 2));
  if (!c.ok()) return c.status();
  constexpr size_t kWorkspace = 64 << 20;
  auto workspace = device.allocate(kWorkspace);
  if (!workspace.ok()) return workspace.status();
  Handle handle = nullptr;
  if (create(&handle) != 0) return Status(StatusCode::kDeviceError, "cublasCreate failed");
  const float one = 1, zero = 0;
  const int size = static_cast<int>(n);
  const auto times = device.time(
      [&](int, Stream stream) -> Status {
        set_stream(handle, stream);
        set_workspace(handle, workspace->get(), kWorkspace);
        const int result =
            gemm(handle, kTransposed, kPlain, size, size, size, &one, a.device.get(), kBf16, size,
                 b.device.get(), kBf16, size, &zero, c->get(), kBf16, size, kCompute32F, -1);
        return result == 0
                   ? Status()
                   : Status(StatusCode::kDeviceError, "cublasGemmEx: " + std::to_string(result));
      },
      30);
  if (!times.ok()) return times.status();
  std::vector<double> sorted = *times;
  std::sort(sorted.begin(), sorted.end());
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) /
         sorted[sorted.size() / 2];
}

}  // namespace moejit::gpu_bench
