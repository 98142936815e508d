// A large matrix product by cuBLAS, opened at run time: the reference rate of the prefill figures.
#pragma once

#include "backends/backend.h"

namespace moejit::gpu_bench {

// Median FLOP/s of a bf16 product of three n x n matrices of random values.
Result<double> cublas_flops(const internal::Device& device, int64_t n);

}  // namespace moejit::gpu_bench
