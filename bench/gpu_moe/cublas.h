// A large matrix product by cuBLAS, opened at run time: the reference rate of the prefill figures.
#pragma once

#include <memory>

#include "backends/backend.h"

namespace moejit::gpu_bench {

// A bf16 product of two n x n matrices of random values.
class LibraryProduct {
 public:
  static Result<std::unique_ptr<LibraryProduct>> make(const internal::Device& device, int64_t n);
  virtual ~LibraryProduct() = default;
  virtual Status launch(internal::Stream stream) const = 0;
  virtual double operations() const = 0;
  // Median of a row of launches.
  Result<double> flops(const internal::Device& device) const;
};

}  // namespace moejit::gpu_bench
