// A large matrix product by cuBLAS, opened at run time: the reference rate of the prefill figures.
#pragma once

#include <memory>

#include "backends/backend.h"
#include "tuner/workload.h"

namespace moejit::gpu_bench {

// A bf16 product of two n x n matrices of random values. Its cuBLAS handle lives as long as the
// process.
class LibraryProduct {
 public:
  Status open(const internal::Device& device, int64_t n);
  Status launch(internal::Stream stream) const;
  double operations() const;
  // Median of a row of launches.
  Result<double> flops(const internal::Device& device) const;

 private:
  int (*set_stream_)(void*, void*) = nullptr;
  int (*set_workspace_)(void*, void*, size_t) = nullptr;
  int (*gemm_)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
               int, const void*, void*, int, int, int, int) = nullptr;
  void* handle_ = nullptr;
  internal::PatternTensor a_, b_;
  std::shared_ptr<void> c_, workspace_;
  int64_t n_ = 0;
};

}  // namespace moejit::gpu_bench
