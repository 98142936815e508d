// Inside the module: what its files share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/cpu/module/module_abi.h"

namespace moejit_cpu {

struct Output {
  int32_t code = MOEJIT_CPU_OK;
  std::vector<char> bytes;
  std::string message;
  std::string log;
  double compile_ms = 0;
  double link_ms = 0;

  void fail(int32_t why, std::string sentence) {
    code = why;
    message = std::move(sentence);
  }
};

// Clang: source text to an ELF relocatable object or to assembly in out.bytes.
void compile(const MoejitCpuRequest& request, Output& out);

// Relocatable object in `object` to a shared object in out.bytes. Deterministic; no global state.
void link(const MoejitCpuRequest& request, const std::vector<char>& object, Output& out);

// The same for an AMD GPU: a code object that ROCm loads.
void link_amdgpu(const MoejitCpuRequest& request, const std::vector<char>& object, Output& out);

std::string make_identity();

}  // namespace moejit_cpu
