// Compiles and runs one schedule of a GPU family on a simulated device.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "generator/family.h"
#include "tests/generators/problem.h"

namespace moejit_test {

// Simulated archs that work here; empty without the compiler module.
const std::vector<std::string>& sim_archs();
const moejit::internal::Target& sim_target(const std::string& arch);

// GPU families that compute `config` there, and all legal schedules of them.
std::vector<const moejit::internal::Family*> gpu_families(const moejit::MoeConfig& config,
                                                          const std::string& arch);
std::vector<moejit::internal::Schedule> gpu_schedules(const moejit::MoeConfig& config,
                                                      const std::string& arch);

class SimKernel {
 public:
  // On failure error() says why and run() must not be called.
  SimKernel(const moejit::MoeConfig& config, const std::string& arch,
            const moejit::internal::Family& family, const moejit::internal::Schedule& schedule);
  SimKernel(const std::string& arch, const moejit::internal::KernelSource& source);

  const std::string& error() const { return error_; }
  const std::string& name() const { return name_; }  // arch, family and schedule
  // Returns what went wrong beside the values, with the simulator's report, or "". `left`: the
  // workspace as the launch left it.
  std::string run(Problem* problem, bool routed = false,
                  std::vector<unsigned char>* left = nullptr) const;

 private:
  void build(const std::string& arch);

  std::string name_;
  moejit::internal::KernelSource source_;
  std::shared_ptr<const moejit::internal::Module> module_;
  std::string error_;
};

}  // namespace moejit_test
