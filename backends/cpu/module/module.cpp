// The C entry points. Compiles run on a thread of their own, under LLVM's crash recovery: a caller
// may have a small stack, and a crash in the compiler must not take the process along.
#include "backends/cpu/module/module.h"

#include <exception>
#include <mutex>
#include <new>
#include <string_view>

#include "llvm/Support/CrashRecoveryContext.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/Process.h"

namespace moejit_cpu {
namespace {

constexpr unsigned kStackBytes = 16u << 20;

thread_local std::string* t_fatal_message = nullptr;

// LLVM's report_fatal_error. Process::Exit leaves through the crash recovery context of the thread.
void on_fatal_error(void*, const char* reason, bool) {
  if (t_fatal_message != nullptr) *t_fatal_message = reason;
  llvm::sys::Process::Exit(70);
}

// Crash recovery installs signal handlers for the whole process, so it is on only while something
// compiles; the host's own handlers are back afterwards.
class CrashRecovery {
 public:
  CrashRecovery() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (users_++ == 0) {
      llvm::install_fatal_error_handler(on_fatal_error);
      llvm::CrashRecoveryContext::Enable();
    }
  }
  ~CrashRecovery() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (--users_ == 0) {
      llvm::CrashRecoveryContext::Disable();
      llvm::remove_fatal_error_handler();
    }
  }
  CrashRecovery(const CrashRecovery&) = delete;
  CrashRecovery& operator=(const CrashRecovery&) = delete;

 private:
  static inline std::mutex mutex_;
  static inline int users_ = 0;
};

void run(const MoejitCpuRequest& request, Output& out) {
  try {
    compile(request, out);
    if (out.code != MOEJIT_CPU_OK || request.output != MOEJIT_CPU_SHARED_OBJECT) return;
    const std::vector<char> object = std::move(out.bytes);
    out.bytes.clear();
    if (std::string_view(request.arch).substr(0, 3) == "gfx") {
      link_amdgpu(request, object, out);
    } else {
      link(request, object, out);
    }
  } catch (const std::exception& error) {
    out.fail(MOEJIT_CPU_INTERNAL, error.what());
  }
}

void run_guarded(const MoejitCpuRequest& request, Output& out) {
  std::string fatal;
  CrashRecovery recovery;
  llvm::CrashRecoveryContext context;
  const bool finished = context.RunSafelyOnThread(
      [&] {
        t_fatal_message = &fatal;
        run(request, out);
        t_fatal_message = nullptr;
      },
      kStackBytes);
  if (!finished) {
    out.bytes.clear();
    out.fail(MOEJIT_CPU_CRASHED, "the compiler crashed (code " + std::to_string(context.RetCode) +
                                     ")" + (fatal.empty() ? "" : ": " + fatal));
  }
}

void compile_entry(const MoejitCpuRequest* request, MoejitCpuResult* result) {
  *result = MoejitCpuResult{};
  result->message = result->log = "";
  try {
    auto* out = new Output;
    result->owner = out;
    try {
      run_guarded(*request, *out);
    } catch (const std::exception& error) {
      out->fail(MOEJIT_CPU_INTERNAL, error.what());
    } catch (...) {
      out->fail(MOEJIT_CPU_INTERNAL, "unknown exception in the compiler");
    }
    result->code = out->code;
    result->bytes = reinterpret_cast<const uint8_t*>(out->bytes.data());
    result->size = out->bytes.size();
    result->message = out->message.c_str();
    result->log = out->log.c_str();
    result->compile_ms = out->compile_ms;
    result->link_ms = out->link_ms;
  } catch (const std::bad_alloc&) {
    result->code = MOEJIT_CPU_INTERNAL;
    result->message = "out of memory";
  }
}

void release_entry(MoejitCpuResult* result) {
  delete static_cast<Output*>(result->owner);
  *result = MoejitCpuResult{};
}

const char* identity_entry() {
  try {
    static const std::string identity = make_identity();
    return identity.c_str();
  } catch (...) {
    return "";
  }
}

constexpr MoejitCpuModule kModule = {MOEJIT_CPU_MODULE_ABI, identity_entry, compile_entry,
                                     release_entry};

}  // namespace
}  // namespace moejit_cpu

extern "C" __attribute__((visibility("default"))) const MoejitCpuModule* moejit_cpu_module(
    uint32_t abi) {
  return abi == MOEJIT_CPU_MODULE_ABI ? &moejit_cpu::kModule : nullptr;
}
