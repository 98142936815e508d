#include "backends/hip/hiprtc.h"

#include <unistd.h>

#include <chrono>
#include <cstring>

#include "backends/hip/child.h"
#include "backends/hip/runtime.h"
#include "base/dylib.h"

namespace moejit::internal::hip {
namespace {

constexpr const char* kHelper = "moejit_hiprtc";
constexpr int kCompileSeconds = 180;
constexpr int kIdentifySeconds = 30;

std::string find_helper() {
  static const char kHere = 0;
  const std::string here = directory_of_code(&kHere);
  if (here.empty()) return "";
  std::vector<std::string> paths;
  for (const char* relative : {"/", "/moejit/", "/../lib/moejit/", "/../lib64/moejit/",
                               "/../lib/x86_64-linux-gnu/moejit/"}) {
    paths.push_back(here + relative + kHelper);
  }
  // A build tree: the library is at its top, tools and tests are one or two folders down.
  std::string up = here;
  for (int i = 0; i < 4 && !up.empty(); ++i) {
    paths.push_back(up + "/backends/hip/helper/" + kHelper);
    up.resize(up.rfind('/'));
  }
  for (const std::string& path : paths) {
    if (access(path.c_str(), X_OK) == 0) return path;
  }
  return "";
}

// The helper's answer to `compile`: "MOEJ", status, sizes, log, code.
struct AnswerHead {
  char magic[4];
  uint32_t refused;
  uint64_t log_bytes;
  uint64_t code_bytes;
};

}  // namespace

Result<std::unique_ptr<const Hiprtc>> Hiprtc::open(const std::string& helper,
                                                   const std::vector<std::string>& libraries) {
  auto rtc = std::make_unique<Hiprtc>();
  rtc->helper_ = helper.empty() ? find_helper() : helper;
  if (rtc->helper_.empty()) {
    return Status(StatusCode::kUnavailable, std::string("hiprtc: the helper program ") + kHelper +
                                                " is not beside the library; install it again");
  }
  rtc->libraries_ =
      libraries.empty()
          ? rocm_candidates({"libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so.5", "libhiprtc.so",
                             "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"})
          : libraries;
  std::vector<std::string> command = {rtc->helper_, "identify"};
  command.insert(command.end(), rtc->libraries_.begin(), rtc->libraries_.end());
  Result<ChildResult> child = run_child(command, "", kIdentifySeconds);
  if (!child.ok()) return child.status();
  const size_t line = child->out.find('\n');
  if (!child->death.empty() || line == std::string::npos) {
    return Status(StatusCode::kUnavailable,
                  "hiprtc not found" +
                      (child->errors.empty() ? std::string() : " (" + child->errors + ")") +
                      ": install ROCm, or set ROCM_PATH to its directory");
  }
  rtc->path_ = child->out.substr(0, line);
  rtc->identity_ =
      "hiprtc " + child->out.substr(line + 1, child->out.find('\n', line + 1) - line - 1);
  return std::unique_ptr<const Hiprtc>(std::move(rtc));
}

const Result<const Hiprtc*>& Hiprtc::get() {
  static const auto* const kHiprtc = [] {
    auto opened = open("", {});
    return opened.ok() ? new Result<const Hiprtc*>(opened->release())
                       : new Result<const Hiprtc*>(opened.status());
  }();
  return *kHiprtc;
}

Result<RtcOutput> Hiprtc::compile(const std::string& name, const std::string& text,
                                  const std::string& arch,
                                  const std::vector<std::string>& options) const {
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::string> command = {helper_, "compile", path_, name, "--offload-arch=" + arch};
  command.insert(command.end(), options.begin(), options.end());
  Result<ChildResult> child = run_child(command, text, kCompileSeconds);
  if (!child.ok()) return child.status();
  AnswerHead head{};
  if (child->out.size() >= sizeof head) std::memcpy(&head, child->out.data(), sizeof head);
  const bool whole = child->death.empty() && std::memcmp(head.magic, "MOEJ", 4) == 0 &&
                     head.log_bytes <= child->out.size() &&
                     head.code_bytes <= child->out.size() - head.log_bytes &&
                     child->out.size() == sizeof head + head.log_bytes + head.code_bytes;
  if (!whole) {
    return Status(StatusCode::kCompileError,
                  name + ": the hiprtc process for " + arch + " " +
                      (child->death.empty() ? "gave no whole answer" : child->death) +
                      "; this ROCm (" + path_ +
                      ") may not know the architecture: install a newer one",
                  child->errors);
  }
  RtcOutput output;
  output.log = child->out.substr(sizeof head, head.log_bytes) + child->errors;
  if (head.refused != 0) {
    return Status(StatusCode::kCompileError, name + ": hiprtc refused the source for " + arch,
                  output.log);
  }
  const auto* code =
      reinterpret_cast<const uint8_t*>(child->out.data()) + sizeof head + head.log_bytes;
  output.code.assign(code, code + head.code_bytes);
  output.milliseconds =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  return output;
}

}  // namespace moejit::internal::hip
