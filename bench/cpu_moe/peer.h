// What cpu_moe asks of another implementation of the layer: bf16 weights, gated SiLU, no bias.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "moejit/config.h"

namespace moejit_bench {

// One thread at a time. x and out are bf16, ids and weights [tokens, top_k].
class Peer {
 public:
  virtual ~Peer() = default;
  virtual std::string version() const = 0;
  // Whatever depends on the sizes alone; never timed.
  virtual void prepare(int64_t tokens, const std::vector<int64_t>& rows_per_expert) = 0;
  // One layer; the seconds of what is this implementation's own work.
  virtual double run(int64_t tokens, const void* x, const int32_t* ids, const float* weights,
                     void* out) = 0;
};

// What a peer keeps of the weights in a layout of its own lies in huge pages, as moejit's do.
inline std::shared_ptr<void> huge_pages(size_t bytes) {
  constexpr size_t kPage = size_t{2} << 20;
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  void* memory = std::aligned_alloc(kPage, size);
  if (memory == nullptr) std::abort();
  madvise(memory, size, MADV_HUGEPAGE);
  return std::shared_ptr<void>(memory, std::free);
}

}  // namespace moejit_bench
