// One small kernel per primitive, with the kind of input that it gets.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generator/kernel_source.h"

namespace moejit_conformance {

enum class Fill {
  kBits,      // every 32-bit pattern
  kFloats,    // f32 of a few hundred magnitudes, both signs
  kHalfInts,  // pairs of small integers as bf16
  kHalfIntsF16,
  kFloatInts,  // small integers as f32, low bits dirty: tf32 must ignore them
  kHalfs,      // pairs of bf16 in [-2, 2)
  kUnit,       // f32 in (-0.9, 8)
};

struct Case {
  std::string name;
  std::string arch;  // "sm_80" for all, "sm_90a" where the primitive needs it
  std::string body;  // defines kernel k0; IN, IN2 and OUT are u32 pointers
  int blocks = 1;
  int threads = 32;
  int shared_bytes = 0;
  int cluster = 1;
  Fill fill = Fill::kBits;
  int out_words = 1024;
  int max_ulp = 0;          // of f32 results; 0: the same bits
  double max_relative = 0;  // of f32 results, against the largest of the case, beside max_ulp
  std::vector<moejit::internal::TensorMapSpec> maps;
};

constexpr int kInputWords = 16384;  // of x, and of w13

std::vector<Case> all_cases();
void add_sm90_cases(std::vector<Case>* cases);

// Source of a case for a simulated or a CUDA target of `arch`.
moejit::internal::KernelSource make_source(const Case& test, const std::string& arch,
                                           bool simulated);

// Deterministic input words; `which` 0 is x, 1 is w13.
std::vector<uint32_t> make_input(const Case& test, int which);

}  // namespace moejit_conformance
