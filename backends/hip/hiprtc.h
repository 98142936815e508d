// hiprtc, in child processes: it compiles one program at a time, and some versions abort the
// process on an architecture that they do not know.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal::hip {

struct RtcOutput {
  std::vector<uint8_t> code;
  std::string log;
  double milliseconds = 0;
};

class Hiprtc {
 public:
  // The helper program and the library that it opens, asked for their identity once. `libraries`
  // empty: those of rocm_candidates(). kUnavailable names what is missing.
  static Result<std::unique_ptr<const Hiprtc>> open(const std::string& helper,
                                                    const std::vector<std::string>& libraries);
  static const Result<const Hiprtc*>& get();

  const std::string& identity() const { return identity_; }  // "hiprtc 1f2e... comgr 99aa..."
  const std::string& path() const { return path_; }

  // Thread-safe; a process each. kCompileError carries the compiler's log, or how its process died.
  Result<RtcOutput> compile(const std::string& name, const std::string& text,
                            const std::string& arch, const std::vector<std::string>& options) const;

 private:
  std::string helper_, path_, identity_;
  std::vector<std::string> libraries_;
};

}  // namespace moejit::internal::hip
