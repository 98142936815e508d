// The machine's limits, measured in the same minute as the layers.
#pragma once

#include <memory>

#include "backends/backend.h"
#include "generator/probe.h"

namespace moejit_bench {

struct Rates {
  double bytes_per_s = 0;
  double flops_per_s = 0;
};

class Limits {
 public:
  // Compiles the probes of the device.
  static moejit::Result<std::shared_ptr<const Limits>> make(const moejit::internal::Device& device,
                                                            moejit::DType dtype);
  // Medians of seven: a read of `bytes` bytes at `data` (cold: more than the caches hold), and the
  // dot units on registers. About 0.2 s.
  moejit::Result<Rates> measure(const void* data, int64_t bytes) const;

 private:
  const moejit::internal::Device* device_ = nullptr;
  moejit::internal::Probe probe_;
  std::shared_ptr<const moejit::internal::Module> read_, dot_;
  std::shared_ptr<void> out_;
};

}  // namespace moejit_bench
