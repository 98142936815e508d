// Kernels that measure the machine: how fast it reads, and how fast its dot units are.
#pragma once
#include "../abi.h"
#include "simd.h"

namespace moejit_cpu {

// Flops of one iteration of probe_dot: 24 (AVX2: 12) independent accumulators.
constexpr int kProbeAccumulators = kLanes == 16 ? 24 : 12;

}  // namespace moejit_cpu

// Reads the `num_tokens` bytes at x (a multiple of 64 per worker is used), each worker its own
// contiguous part, in one stream. Sums go to out[16 * worker], so that nothing is left out.
extern "C" __attribute__((visibility("default"))) void probe_read(const moejit_abi::MoeArgs* args,
                                                                  int worker, int workers) {
  using namespace moejit_cpu;
  const i64 lines = args->num_tokens / 64;
  const i64 begin = lines * worker / workers, end = lines * (worker + 1) / workers;
  const char* p = (const char*)args->x + begin * 64;
  constexpr int kPerLine = 64 / (4 * kLanes);
  U sum[8] = {};
  i64 line = begin;
  for (; line + 8 <= end; line += 8, p += 512) {
    MOEJIT_UNROLL for (int j = 0; j < 8; ++j) {
      __builtin_prefetch(p + 4096 + j * 64, 0, 3);
      MOEJIT_UNROLL for (int h = 0; h < kPerLine; ++h) {
        sum[j] ^= load<U>(p + j * 64 + h * 4 * kLanes);
      }
    }
  }
  for (; line < end; ++line, p += 64) {
    MOEJIT_UNROLL for (int h = 0; h < kPerLine; ++h) sum[0] ^= load<U>(p + h * 4 * kLanes);
  }
  u32 total = 0;
  for (int j = 0; j < 8; ++j) {
    for (int l = 0; l < kLanes; ++l) total ^= sum[j][l];
  }
  ((u32*)args->out)[16 * worker] = total;
}

// `num_tokens` iterations of kProbeAccumulators dot products (or FMAs) on registers, by every
// worker.
extern "C" __attribute__((visibility("default"))) void probe_dot(const moejit_abi::MoeArgs* args,
                                                                 int worker, int) {
  using namespace moejit_cpu;
  F acc[kProbeAccumulators];
  MOEJIT_UNROLL for (int a = 0; a < kProbeAccumulators; ++a) acc[a] = F{} + (float)a;
  alignas(64) XElem zeros[64] = {};
  auto w = Op::x(zeros);
  auto x = Op::x(zeros);
  for (i64 i = 0; i < args->num_tokens; ++i) {
    // Opaque to the optimiser: the operands may change in every iteration.
    __asm__ volatile("" : "+v"(w), "+v"(x));
    MOEJIT_UNROLL for (int a = 0; a < kProbeAccumulators; ++a) acc[a] = Op::dot(acc[a], w, x);
  }
  F sum = {};
  MOEJIT_UNROLL for (int a = 0; a < kProbeAccumulators; ++a) sum += acc[a];
  float total = 0;
  for (int l = 0; l < kLanes; ++l) total += sum[l];
  ((float*)args->out)[16 * worker] = total;
}
