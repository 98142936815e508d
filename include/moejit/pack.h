// Packed weights: a copy of an MoE layer's weights in the order in which the CPU's kernels read
// them, for callers that own the weights and can afford to arrange them once, when a model is
// loaded. From 3 to 12 tokens of an expert on one stream of memory is read faster than rows that
// lie apart, and above that a kernel has nothing to arrange itself. Measured on Zen 4: bf16 with
// AVX512_BF16 level to 1.6 times as fast; f32 up to 18 % faster; f16, and bf16 without those
// instructions on 512 bits, level, and 5 to 9 % slower from 32 tokens on (docs/performance_cpu.md).
#pragma once

#include <cstdint>
#include <string>

#include "moejit/config.h"
#include "moejit/status.h"

// The shared library exports what is declared from here to the pop.
#pragma GCC visibility push(default)
namespace moejit {
inline namespace v1 {

// Bytes of the packed w13 and w2 of all experts. Rows are filled up with zeros to whole blocks of
// 32 (16 without AVX-512): longer than w13 and w2 where I is no multiple of 16 or H of 32.
struct PackedBytes {
  int64_t w13 = 0;
  int64_t w2 = 0;
};

// Of the layer on that device, as Options::device: give both the same, or Kernel::device().
// kUnsupported where its kernels read no packed weights, which is every device but the CPU.
// `config.packed` may be either.
Result<PackedBytes> packed_bytes(const MoeConfig& config, const std::string& device = "auto");

// Writes to `packed_w13` and `packed_w2` (packed_bytes of memory each, 16-byte aligned, best 64)
// the weights w13 and w2, which lie as config.transposed, interleaved and up_first say. A layer
// whose config is the same but for packed = true then takes them as its w13 and w2. Either pair may
// be null, to pack one tensor alone. What is written must not overlap anything else.
//
// The order depends on the processor's vectors and on the dtype: pack on the machine that runs the
// layer, do not keep packed weights in files. Today: blocks of 2 L rows, L = 16 with AVX-512, else
// 8; a gated w13 has L rows of gate and then the same L of up in a block, everything else rows in
// order; within a block [K / D][2 L][D], D = 2 for bf16 with AVX512_BF16, else 1.
//
// Thread-safe; uses as many threads as launches on the device. Costs a read of the weights and a
// write of the copy: 2.8 GB took 1 to 4 s on two cores, the first touch of the copy's pages above
// all; more where the weights are transposed.
Status pack_weights(const MoeConfig& config, const void* w13, const void* w2, void* packed_w13,
                    void* packed_w2, const std::string& device = "auto");

}  // namespace v1
}  // namespace moejit
#pragma GCC visibility pop
