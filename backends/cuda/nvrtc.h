// NVRTC, opened at run time: CUDA C++ text to a cubin for one exact architecture.
#pragma once

#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal::cuda {

struct CompileOutput {
  std::vector<uint8_t> cubin;
  std::string ptx;
  std::string log;  // warnings and ptxas' report
  double milliseconds = 0;
};

// What ptxas said, the worst of all kernels; -1 where the log does not say.
struct PtxasReport {
  int registers = -1;
  int spill_bytes = -1;             // spill stores + loads
  int shared_bytes = -1;            // static
  bool serialized_wgmma = false;    // warning C7510
  bool ignored_setmaxnreg = false;  // warning C7508
};
PtxasReport parse_ptxas_report(const std::string& log);

class Nvrtc {
 public:
  // Opened on the first call: MOEJIT_NVRTC_PATH, else the loader's search for versions 13 and 12,
  // else the places where toolkits and pip packages put it. kUnavailable names what to install.
  static const Result<const Nvrtc*>& get();

  int version() const { return major_ * 1000 + minor_ * 10; }
  const std::string& path() const { return path_; }
  const std::string& identity() const { return identity_; }  // "nvrtc 13.0 1f2e3d4c5b6a7988"

  // "" or why this NVRTC cannot compile for `arch` ("sm_90a").
  std::string why_not(const std::string& arch) const;
  // Thread-safe. kCompileError carries the log.
  Result<CompileOutput> compile(const std::string& name, const std::string& text,
                                const std::string& arch, const std::vector<std::string>& options,
                                bool want_ptx) const;

 private:
  static Result<const Nvrtc*> open();
  struct Functions;
  Functions* api_ = nullptr;
  int major_ = 0, minor_ = 0;
  std::vector<int> archs_;
  std::string path_, identity_;
};

}  // namespace moejit::internal::cuda
