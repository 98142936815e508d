// The compiler of host code: finds and opens libmoejit_cpu.so and speaks its C interface.
#pragma once

#include <string>
#include <vector>

#include "base/dylib.h"
#include "moejit/status.h"

struct MoejitCpuModule;

namespace moejit::internal {

struct HostSource {
  std::string name;  // file name in messages
  const std::string* text = nullptr;
  std::string arch;                  // of kCpuArchs
  std::vector<std::string> options;  // cc1 options after the module's own
  std::vector<std::string> exports;  // extern "C" functions to export
  std::vector<std::string> imports;  // undefined symbols that the process provides
};

struct HostObject {
  std::vector<uint8_t> bytes;  // sealed image (elf_image.h)
  std::string log;             // warnings
  double compile_ms = 0;
  double link_ms = 0;
};

class CompilerModule {
 public:
  // Opens the module on first use: MOEJIT_CPU_MODULE (a path) where set, else beside the library,
  // else
  // ../lib/moejit, else where a build tree has it. kUnavailable names what is missing. Thread-safe.
  static Result<const CompilerModule*> get();
  // The module at that path; "" looks for it as above.
  static Result<const CompilerModule*> get(const std::string& path);

  // Compiler name, version, build ids.
  std::string identity() const;
  std::string path() const { return library_.path(); }

  // Thread-safe, any number at a time, about 20-40 ms each. kCompileError carries the log.
  Result<HostObject> compile(const HostSource& source) const;
  Result<std::string> assembly(const HostSource& source) const;
  // As compile(), for an AMD GPU (arch "gfx942", HIP text): a code object, not sealed.
  Result<HostObject> compile_amdgpu(const HostSource& source) const;

 private:
  CompilerModule(Dylib library, const MoejitCpuModule* module)
      : library_(library), module_(module) {}
  static Result<const CompilerModule*> open(const std::string& path);

  Dylib library_;
  const MoejitCpuModule* module_;
};

}  // namespace moejit::internal
