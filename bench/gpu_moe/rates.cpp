#include "rates.h"

namespace moejit::gpu_bench {
namespace {

constexpr int64_t kLibrarySize = 8192;

}  // namespace

Result<double> library_flops(const Device& device, LibraryProduct* product) {
  MOEJIT_RETURN_IF_ERROR(product->open(device, kLibrarySize));
  return product->flops(device);
}

void report_rates(const DeviceLimits& limits, const Result<double>& cublas, std::FILE* json) {
  std::printf("read %.3f TB/s   wgmma/mma %.0f TFLOP/s   launch %.2f us\n",
              limits.read_bytes_per_s * 1e-12, limits.dot_flops_per_s * 1e-12,
              limits.launch_s * 1e6);
  if (cublas.ok()) {
    std::printf("cuBLAS bf16 8192^3: %.0f TFLOP/s\n", *cublas * 1e-12);
  } else {
    std::printf("cuBLAS bf16 8192^3: %s\n", cublas.status().to_string().c_str());
  }
  if (json == nullptr) return;
  std::fprintf(json, "{\"kind\":\"limits\",\"read\":%.4g,\"dot\":%.4g,\"launch\":%.4g",
               limits.read_bytes_per_s, limits.dot_flops_per_s, limits.launch_s);
  if (cublas.ok()) std::fprintf(json, ",\"cublas\":%.4g", *cublas);
  std::fprintf(json, "}\n");
}

int run_limits(const Device& device, std::FILE* json) {
  const auto limits = probe_limits(device, DType::kBF16);
  if (!limits.ok()) {
    std::printf("probe: %s\n", limits.status().to_string().c_str());
    return 1;
  }
  LibraryProduct product;
  report_rates(*limits, library_flops(device, &product), json);
  return 0;
}

}  // namespace moejit::gpu_bench
