// wgmma (PTX ISA 9.7.15): operands through shared-memory descriptors, asynchronous accumulation.
//
// Address of element (r, k) of a 16-bit operand, from the descriptor's start, leading offset L and
// stride offset S (bytes; 9.7.15.5.1), before the swizzle is applied to the sum:
//   K-major, no swizzle   (r/8) S + (k/8) L + (r%8) 16 + (k%8) 2
//   K-major, W = 32/64/128 bytes   (r/8) S + (r%8) W + 2k
//   MN-major, no swizzle  (r/8) S + (k/8) L + (k%8) 16 + (r%8) 2
//   MN-major, W           (r/(W/2)) L + (k/8) S + (k%8) W + 2 (r%(W/2))
// The swizzle XORs address bits 4.. with bits 7.. : three bits for 128, two for 64, one for 32.
// D, with warp w, lane l, element i: row 16 w + l/4 + 8 ((i/2) % 2), column 8 (i/4) + 2 (l%4) +
// i%2.
#include <algorithm>
#include <bit>
#include <cstring>

#include "backends/sim/engine.h"
#include "backends/sim/small_float.h"

#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define MOEJIT_SIM_CLONES __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define MOEJIT_SIM_CLONES
#endif

namespace moejit::internal::sim {

using namespace moejit_sim;

namespace {

struct Descriptor {
  uint32_t start;
  uint32_t leading;
  uint32_t stride;
  uint32_t base_offset;
  uint32_t width;  // bytes of the swizzle, 0 for none
};

Descriptor decode(uint64_t bits) {
  static constexpr uint32_t kWidth[] = {0, 128, 64, 32};
  return {static_cast<uint32_t>(bits & 0x3fff) << 4,
          static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4,
          static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4, static_cast<uint32_t>(bits >> 49 & 7),
          kWidth[bits >> 62]};
}

// Address of the 16 bytes that start at element (r, k): eight k of a row (K-major) or eight rows of
// one k (MN-major).
uint32_t chunk_address(const Descriptor& d, uint32_t r, uint32_t k, bool mn_major) {
  if (d.width == 0) {
    const uint32_t inner = mn_major ? k % 8 : r % 8;
    return d.start + r / 8 * d.stride + k / 8 * d.leading + inner * 16;
  }
  uint32_t address;
  if (mn_major) {
    const uint32_t span = d.width / 2;
    address = d.start + r / span * d.leading + k / 8 * d.stride + k % 8 * d.width + r % span * 2;
  } else {
    address = d.start + r / 8 * d.stride + r % 8 * d.width + k * 2;
  }
  const uint32_t chunks = d.width / 16 - 1;
  return address ^ (((address >> 7) & chunks) << 4);
}

// acc[64][n] += a[64][16] * b[16][n].
MOEJIT_SIM_CLONES void multiply(float* acc, const float* a, const float* b, int n) {
  for (int row = 0; row < 64; ++row) {
    float* out = acc + row * n;
    float sum[256] = {};
    for (int k = 0; k < 16; ++k) {
      const float scale = a[row * 16 + k];
      const float* line = b + k * n;
      for (int column = 0; column < n; ++column) sum[column] += scale * line[column];
    }
    for (int column = 0; column < n; ++column) out[column] += sum[column];
  }
}

template <typename Visit>
void for_fragments(int n, Visit visit) {
  for (int thread = 0; thread < 128; ++thread) {
    const int lane = thread % 32;
    for (int i = 0; i < n / 2; ++i) {
      const int row = thread / 32 * 16 + lane / 4 + 8 * (i / 2 % 2);
      const int column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      visit(thread, i, row * n + column);
    }
  }
}

}  // namespace

void Engine::issue_wgmma(Meeting& meeting, Thread* first) {
  Block* block = first->block;
  const uint32_t index = first->self.thread / 128;
  Warpgroup& group = block->warpgroups[index];
  const auto* head = static_cast<WgmmaArgs*>(meeting.args[0]);
  const auto misuse = [&](const std::string& why) {
    fail(FindingKind::kMatrixMisuse, where(first, first->line) + "\n  " + why);
  };
  Wgmma op{head->type,   head->n, head->transposed_b, head->accumulate != 0, head->desc_a,
           head->desc_b, {},      first->line,        ++group.issued,        {}};
  for (uint32_t i = 0; i < 128; ++i) {
    const auto* args = static_cast<WgmmaArgs*>(meeting.args[i]);
    if (args->desc_a != head->desc_a || args->desc_b != head->desc_b || args->n != head->n ||
        args->type != head->type || args->accumulate != head->accumulate) {
      misuse("threads 0 and " + std::to_string(i) +
             " of the warpgroup disagree about shape, descriptors or accumulation");
    }
    op.d[i] = args->d;
  }
  if (!group.fenced) misuse("wgmma without a wgmma_fence after the registers were last free");
  for (uint32_t w = 0; w < 4; ++w) op.issued[w] = first[w * 32].observer;
  counters_.multiply_adds += int64_t{64} * op.n * 16;
  if (timing_ == Timing::kEarly) {
    perform_wgmma(block, index, op, false);
    return;
  }
  // Until the wait, the kernel sees NaN in its accumulators.
  if (group.accumulators.count(op.d[0]) == 0) {
    std::vector<float>& values = group.accumulators[op.d[0]];
    values.assign(static_cast<size_t>(64 * op.n), 0.0f);
    for_fragments(op.n, [&](int thread, int i, int at) {
      values[static_cast<size_t>(at)] = op.d[static_cast<size_t>(thread)][i];
      op.d[static_cast<size_t>(thread)][i] = std::bit_cast<float>(0x7fffdeadu);
    });
  }
  group.pending.push_back(op);
}

void Engine::perform_wgmma(Block* block, uint32_t group_index, const Wgmma& op, bool deferred) {
  Warpgroup& group = block->warpgroups[group_index];
  const Descriptor a = decode(op.desc_a);
  const Descriptor b = decode(op.desc_b);
  Thread* first = &block->threads[group_index * 128];
  for (const Descriptor* d : {&a, &b}) {
    const uint32_t period = d->width * 8;
    if (d->width != 0 && d->base_offset == 0 && d->start % period >= d->width) {
      fail(FindingKind::kMatrixMisuse,
           where(first, op.line) + "\n  operand at shared address " + std::to_string(d->start) +
               ": a " + std::to_string(d->width) + "-byte swizzle needs " + std::to_string(period) +
               "-aligned tiles, or a base offset");
    }
  }
  Access access;
  access.time = op.time;
  access.block = block->uid;
  access.line = op.line;
  access.flags = kAsyncAccess;
  const auto read = [&](const Descriptor& d, uint32_t r, uint32_t k, bool mn_major, uint32_t warp,
                        uint16_t* out) {
    access.observer = &op.issued[warp];
    access.agent = op.issued[warp].mma_agent;
    const char* at =
        shared_at(block, chunk_address(d, r, k, mn_major), 16, 16, access, first + warp * 32);
    std::memcpy(out, at, 16);
  };
  const auto n = static_cast<uint32_t>(op.n);
  static float a_values[64 * 16];
  static float b_values[16 * 256];
  uint16_t chunk[8];
  for (uint32_t r = 0; r < 64; ++r) {
    for (uint32_t k = 0; k < 16; k += 8) {
      read(a, r, k, false, r / 16, chunk);
      for (uint32_t i = 0; i < 8; ++i) a_values[r * 16 + k + i] = half_value(op.type, chunk[i]);
    }
  }
  // All four warps read all of B; each answers for a quarter of it in the race check.
  if (op.transposed_b) {
    for (uint32_t k = 0; k < 16; ++k) {
      for (uint32_t r = 0; r < n; r += 8) {
        read(b, r, k, true, k % 4, chunk);
        for (uint32_t i = 0; i < 8; ++i) b_values[k * n + r + i] = half_value(op.type, chunk[i]);
      }
    }
  } else {
    for (uint32_t r = 0; r < n; ++r) {
      for (uint32_t k = 0; k < 16; k += 8) {
        read(b, r, k, false, r % 4, chunk);
        for (uint32_t i = 0; i < 8; ++i) b_values[(k + i) * n + r] = half_value(op.type, chunk[i]);
      }
    }
  }
  static float scratch[64 * 256];
  float* values = scratch;
  if (deferred) {
    values = group.accumulators[op.d[0]].data();
    if (!op.accumulate) std::fill_n(values, 64 * n, 0.0f);
  } else if (op.accumulate) {
    for_fragments(op.n, [&](int thread, int i, int at) {
      values[at] = op.d[static_cast<size_t>(thread)][i];
    });
  } else {
    std::fill_n(values, 64 * n, 0.0f);
  }
  multiply(values, a_values, b_values, op.n);
  if (deferred) {
    for (const Wgmma& later : group.pending) {
      if (later.d[0] == op.d[0]) return;  // still in flight
    }
  }
  for_fragments(
      op.n, [&](int thread, int i, int at) { op.d[static_cast<size_t>(thread)][i] = values[at]; });
  if (deferred) group.accumulators.erase(op.d[0]);
}

void Engine::finish_wgmma(Block* block, uint32_t group_index, uint32_t up_to) {
  Warpgroup& group = block->warpgroups[group_index];
  while (!group.pending.empty() && group.pending.front().time <= up_to) {
    const Wgmma op = group.pending.front();
    group.pending.pop_front();
    perform_wgmma(block, group_index, op, true);
  }
}

}  // namespace moejit::internal::sim
