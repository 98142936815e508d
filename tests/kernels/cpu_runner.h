// Compiles and runs one schedule of the CPU family on a problem, below the public API, so that
// every target and schedule can be reached.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "generator/family.h"
#include "tests/generators/problem.h"

namespace moejit_test {

// The targets of the family that this machine runs, best last; empty without the compiler module.
const std::vector<std::string>& cpu_archs();

// A device of that target with so many workers.
const moejit::internal::Device& cpu_device(const std::string& arch, int threads);

class CpuKernel {
 public:
  // Compiles; on failure error() says why and run() must not be called.
  CpuKernel(const moejit::MoeConfig& config, const std::string& arch, int threads,
            const moejit::internal::Schedule& schedule);

  const std::string& error() const { return error_; }
  // Launches with outputs and workspace full of NaN, the workspace in guarded memory. `routed`:
  // from the problem's logits, with the ids and weights written to the problem's own buffers.
  // Returns what went wrong beside the values, or "".
  std::string run(Problem* problem, bool routed = false) const;

 private:
  // The problem's weights as the kernel reads them; false where they cannot be packed.
  bool pack(const Problem& problem, GuardedBuffer* w13, GuardedBuffer* w2) const;

  std::string arch_;
  moejit::internal::KernelSource source_;
  std::shared_ptr<const moejit::internal::Module> module_;
  std::string error_;
};

// The schedule that the family picks for the problem's token count.
moejit::internal::Schedule default_cpu_schedule(const moejit::MoeConfig& config,
                                                const std::string& arch, int threads,
                                                int64_t tokens);

}  // namespace moejit_test
