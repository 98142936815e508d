#include "backends/hip/hip_compile.h"

#include <algorithm>

#include "backends/cpu/compiler_module.h"
#include "backends/dump.h"
#include "backends/hip/code_object.h"
#include "backends/hip/hiprtc.h"
#include "base/log.h"

namespace moejit::internal::hip {
namespace {

HostSource host_source(const KernelSource& source) {
  HostSource host;
  host.name = source.name;
  host.text = &source.text;
  host.arch = source.arch;
  host.options = source.options;
  return host;
}

Result<Binary> with_facts(Binary binary, const KernelSource& source) {
  const Result<CodeObject> object = read_code_object(binary.bytes);
  if (!object.ok()) return object.status();
  for (const KernelFacts& kernel : object->kernels) {
    binary.registers = std::max(binary.registers, kernel.vgprs);
    // Kernels keep nothing in private memory on purpose, so all of it counts.
    binary.spill_bytes = std::max({binary.spill_bytes, kernel.spills * 4, kernel.scratch_bytes, 0});
    for (const Entry& entry : source.entries) {
      if (entry.name != kernel.name) continue;
      binary.shared_bytes = std::max(binary.shared_bytes, entry.shared_bytes + kernel.lds_bytes);
    }
  }
  return binary;
}

Result<Binary> by_clang(const CompilerModule& clang, const KernelSource& source) {
  Result<HostObject> object = clang.compile_amdgpu(host_source(source));
  if (!object.ok()) return object.status();
  Binary binary;
  binary.format = "hsaco";
  binary.arch = source.arch;
  binary.compiler = clang.identity();
  binary.bytes = std::move(object->bytes);
  binary.compile_ms = object->compile_ms + object->link_ms;
  binary.log = std::move(object->log);
  return with_facts(std::move(binary), source);
}

Result<Binary> by_hiprtc(const Hiprtc& hiprtc, const KernelSource& source, bool* died) {
  std::vector<std::string> options = {"-O3", "-std=c++17", "-ffp-contract=on"};
  options.insert(options.end(), source.options.begin(), source.options.end());
  Result<RtcOutput> output = hiprtc.compile(source.name, source.text, source.arch, options);
  if (!output.ok()) {
    *died = output.status().message().find("hiprtc refused") == std::string::npos;
    return output.status();
  }
  Binary binary;
  binary.format = "hsaco";
  binary.arch = source.arch;
  binary.compiler = hiprtc.identity();
  binary.bytes = std::move(output->code);
  binary.compile_ms = output->milliseconds;
  binary.log = std::move(output->log);
  return with_facts(std::move(binary), source);
}

Status with_source(const Status& status, const KernelSource& source) {
  if (status.code() != StatusCode::kCompileError || dump_requested()) return status;
  const std::string path = dump_source(source);
  return {status.code(), status.message() + (path.empty() ? "" : "; source: " + path),
          status.log()};
}

Status no_compiler() {
  const auto clang = CompilerModule::get();
  return {StatusCode::kUnavailable,
          "no compiler for AMD GPUs: " + Hiprtc::get().status().message() + "; " +
              clang.status().message()};
}

}  // namespace

Result<std::string> compiler_identity(Prefer prefer) {
  const auto clang = CompilerModule::get();
  if (prefer == Prefer::kClang && clang.ok()) return (*clang)->identity();
  if (const auto& hiprtc = Hiprtc::get(); hiprtc.ok()) return (*hiprtc)->identity();
  if (clang.ok()) return (*clang)->identity();
  return no_compiler();
}

Result<Binary> compile_source(const KernelSource& source, Prefer prefer) {
  if (dump_requested()) dump_source(source);
  const auto clang = CompilerModule::get();
  if (prefer == Prefer::kHiprtc || !clang.ok()) {
    if (const auto& hiprtc = Hiprtc::get(); hiprtc.ok()) {
      bool died = false;
      Result<Binary> binary = by_hiprtc(**hiprtc, source, &died);
      if (binary.ok()) return binary;
      if (!died || !clang.ok()) return with_source(binary.status(), source);
      log(LogLevel::kWarning, "hip", binary.status().message() + "; Clang compiles instead");
    }
  }
  if (!clang.ok()) return no_compiler();
  Result<Binary> binary = by_clang(**clang, source);
  if (!binary.ok()) return with_source(binary.status(), source);
  return binary;
}

Result<std::string> clang_assembly(const KernelSource& source) {
  const auto clang = CompilerModule::get();
  if (!clang.ok()) return clang.status();
  Result<std::string> text = (*clang)->assembly(host_source(source));
  if (!text.ok()) return with_source(text.status(), source);
  return text;
}

}  // namespace moejit::internal::hip
