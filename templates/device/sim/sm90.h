// Primitives of primitives.md that sm_90 adds, on the simulator.
#pragma once

#include "device/sim/sm80.h"

namespace dev {

struct alignas(64) TensorMap {
  u64 opaque[16];
};
constexpr int kMaxTensorMaps = 4;
struct TensorMaps {
  TensorMap map[kMaxTensorMaps];
};

MOEJIT_DEVICE void mbar_init(u32 bar, u32 count, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->mbar_init(bar, count, line);
}
MOEJIT_DEVICE void fence_mbar_init(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->fence(moejit_sim::kFenceMbarInit, line);
}
MOEJIT_DEVICE void mbar_arrive(u32 bar, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->mbar_arrive(bar, 0, line);
}
MOEJIT_DEVICE void mbar_arrive_expect_tx(u32 bar, u32 bytes, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->mbar_arrive(bar, bytes, line);
}
MOEJIT_DEVICE void mbar_wait(u32 bar, u32 parity, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->mbar_wait(bar, parity, line);
}
MOEJIT_DEVICE void mbar_arrive_cluster(u32 bar, u32 rank, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->mbar_arrive_cluster(bar, rank, line);
}
MOEJIT_DEVICE void cp_async_arrive_noinc(u32 bar, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->cp_async_arrive(bar, line);
}
MOEJIT_DEVICE void fence_proxy_async(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->fence(moejit_sim::kFenceProxyShared, line);
}
MOEJIT_DEVICE void fence_proxy_async_global(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->fence(moejit_sim::kFenceProxyGlobal, line);
}
MOEJIT_DEVICE void bulk_load(u32 dst, const void* src, u32 bytes, u32 bar, u64, MOEJIT_SIM_LINE) {
  moejit_sim_runtime->bulk_load(dst, src, bytes, bar, line);
}
MOEJIT_DEVICE void tma_load_2d(u32 dst, const TensorMap* map, i32 c0, i32 c1, u32 bar, u64,
                               MOEJIT_SIM_LINE) {
  const i32 coordinates[2] = {c0, c1};
  moejit_sim_runtime->tensor_load(dst, map, 2, coordinates, ~0u, bar, 0, line);
}
MOEJIT_DEVICE void tma_load_rows(u32 dst, const TensorMap* map, i32 c0, i32 c1, i32 rows, u32 bar,
                                 u64, MOEJIT_SIM_LINE) {
  const i32 coordinates[2] = {c0, c1};
  moejit_sim_runtime->tensor_load(dst, map, 2, coordinates, static_cast<u32>(rows), bar, 0, line);
}
MOEJIT_DEVICE void tma_load_3d(u32 dst, const TensorMap* map, i32 c0, i32 c1, i32 c2, u32 bar, u64,
                               MOEJIT_SIM_LINE) {
  const i32 coordinates[3] = {c0, c1, c2};
  moejit_sim_runtime->tensor_load(dst, map, 3, coordinates, ~0u, bar, 0, line);
}
MOEJIT_DEVICE void tma_load_3d_multicast(u32 dst, const TensorMap* map, i32 c0, i32 c1, i32 c2,
                                         u32 bar, u32 blocks, u64, MOEJIT_SIM_LINE) {
  const i32 coordinates[3] = {c0, c1, c2};
  moejit_sim_runtime->tensor_load(dst, map, 3, coordinates, ~0u, bar, blocks, line);
}
MOEJIT_DEVICE void tma_prefetch_3d(const TensorMap* map, i32 c0, i32 c1, i32 c2, MOEJIT_SIM_LINE) {
  const int coordinates[3] = {c0, c1, c2};
  moejit_sim_runtime->tensor_prefetch(map, 3, coordinates, line);
}
MOEJIT_DEVICE void tma_prefetch_map(const TensorMap*) {}

MOEJIT_DEVICE void opaque(i32&) {}
MOEJIT_DEVICE void opaque(const u8*&) {}
MOEJIT_DEVICE u32 cluster_rank() {
  return moejit_sim_self->cluster_rank;
}
MOEJIT_DEVICE void cluster_sync(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->cluster_sync(line);
}
MOEJIT_DEVICE u32 ld_cluster_u32(u32 a, u32 rank, MOEJIT_SIM_LINE) {
  return moejit_sim_runtime->load_cluster(a, rank, line);
}

template <int N>
MOEJIT_DEVICE void reg_inc(MOEJIT_SIM_LINE) {
  moejit_sim::CountArgs args{N};
  moejit_sim_runtime->collective(moejit_sim::kSetMaxRegisters, &args, line);
}
template <int N>
MOEJIT_DEVICE void reg_dec(MOEJIT_SIM_LINE) {
  moejit_sim::CountArgs args{-N};
  moejit_sim_runtime->collective(moejit_sim::kSetMaxRegisters, &args, line);
}

MOEJIT_DEVICE void stmatrix_x4_trans(u32 a, const u32 (&r)[4], MOEJIT_SIM_LINE) {
  u32 values[4] = {r[0], r[1], r[2], r[3]};
  moejit_sim::LdmatrixArgs args{a, 4, 1, values, 1};
  moejit_sim_runtime->collective(moejit_sim::kLdmatrix, &args, line);
}

// --- wgmma -------------------------------------------------------------------------------------
MOEJIT_DEVICE void wgmma_fence(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->collective(moejit_sim::kWgmmaFence, nullptr, line);
}
MOEJIT_DEVICE void wgmma_commit(MOEJIT_SIM_LINE) {
  moejit_sim_runtime->collective(moejit_sim::kWgmmaCommit, nullptr, line);
}
template <int N>
MOEJIT_DEVICE void wgmma_wait(MOEJIT_SIM_LINE) {
  moejit_sim::CountArgs args{N};
  moejit_sim_runtime->collective(moejit_sim::kWgmmaWait, &args, line);
}
template <int N>
MOEJIT_DEVICE void wgmma_hold(f32 (&d)[N]) {
  asm volatile("" ::"r"(&d) : "memory");
}
template <int N, int TransB, int M>
MOEJIT_DEVICE void wgmma_bf16(f32 (&d)[M], u64 desc_a, u64 desc_b, bool accumulate,
                              MOEJIT_SIM_LINE) {
  static_assert(M >= N / 2);
  moejit_sim::WgmmaArgs args{moejit_sim::kBf16, N, TransB, accumulate, desc_a, desc_b, d};
  moejit_sim_runtime->collective(moejit_sim::kWgmma, &args, line);
}
template <int N, int TransB, int M>
MOEJIT_DEVICE void wgmma_f16(f32 (&d)[M], u64 desc_a, u64 desc_b, bool accumulate,
                             MOEJIT_SIM_LINE) {
  static_assert(M >= N / 2);
  moejit_sim::WgmmaArgs args{moejit_sim::kF16, N, TransB, accumulate, desc_a, desc_b, d};
  moejit_sim_runtime->collective(moejit_sim::kWgmma, &args, line);
}

}  // namespace dev
