// Primitives of primitives.md that sm_90 adds, on the simulator.
#pragma once

#include "device/sim/sm80.h"

namespace dev {

struct alignas(64) TensorMap { u64 opaque[16]; };
constexpr int kMaxTensorMaps = 4;
struct TensorMaps { TensorMap map[kMaxTensorMaps]; };

MOEJIT_SIM_CALL void mbar_init(u32 bar, u32 count) {
  moejit_sim_runtime->mbar_init(bar, count, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void fence_mbar_init() {
  moejit_sim_runtime->fence(moejit_sim::kFenceMbarInit, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void mbar_arrive(u32 bar) { moejit_sim_runtime->mbar_arrive(bar, 0, MOEJIT_SIM_PC); }
MOEJIT_SIM_CALL void mbar_arrive_expect_tx(u32 bar, u32 bytes) {
  moejit_sim_runtime->mbar_arrive(bar, bytes, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void mbar_wait(u32 bar, u32 parity) {
  moejit_sim_runtime->mbar_wait(bar, parity, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void cp_async_arrive_noinc(u32 bar) {
  moejit_sim_runtime->cp_async_arrive(bar, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void fence_proxy_async() {
  moejit_sim_runtime->fence(moejit_sim::kFenceProxyShared, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void fence_proxy_async_global() {
  moejit_sim_runtime->fence(moejit_sim::kFenceProxyGlobal, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void bulk_load(u32 dst, const void* src, u32 bytes, u32 bar, u64) {
  moejit_sim_runtime->bulk_load(dst, src, bytes, bar, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void tma_load_2d(u32 dst, const TensorMap* map, i32 c0, i32 c1, u32 bar, u64) {
  const i32 coordinates[2] = {c0, c1};
  moejit_sim_runtime->tensor_load(dst, map, 2, coordinates, bar, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void tma_load_3d(u32 dst, const TensorMap* map, i32 c0, i32 c1, i32 c2, u32 bar,
                                 u64) {
  const i32 coordinates[3] = {c0, c1, c2};
  moejit_sim_runtime->tensor_load(dst, map, 3, coordinates, bar, MOEJIT_SIM_PC);
}
MOEJIT_DEVICE void tma_prefetch_map(const TensorMap*) {}

MOEJIT_DEVICE u32 cluster_rank() { return moejit_sim_self->cluster_rank; }
MOEJIT_SIM_CALL void cluster_sync() { moejit_sim_runtime->cluster_sync(MOEJIT_SIM_PC); }
MOEJIT_SIM_CALL u32 ld_cluster_u32(u32 a, u32 rank) {
  return moejit_sim_runtime->load_cluster(a, rank, MOEJIT_SIM_PC);
}

template <int N>
MOEJIT_SIM_CALL void reg_inc() {
  moejit_sim::CountArgs args{N};
  moejit_sim_runtime->collective(moejit_sim::kSetMaxRegisters, &args, MOEJIT_SIM_PC);
}
template <int N>
MOEJIT_SIM_CALL void reg_dec() {
  moejit_sim::CountArgs args{-N};
  moejit_sim_runtime->collective(moejit_sim::kSetMaxRegisters, &args, MOEJIT_SIM_PC);
}

// --- wgmma -------------------------------------------------------------------------------------
MOEJIT_SIM_CALL void wgmma_fence() {
  moejit_sim_runtime->collective(moejit_sim::kWgmmaFence, nullptr, MOEJIT_SIM_PC);
}
MOEJIT_SIM_CALL void wgmma_commit() {
  moejit_sim_runtime->collective(moejit_sim::kWgmmaCommit, nullptr, MOEJIT_SIM_PC);
}
template <int N>
MOEJIT_SIM_CALL void wgmma_wait() {
  moejit_sim::CountArgs args{N};
  moejit_sim_runtime->collective(moejit_sim::kWgmmaWait, &args, MOEJIT_SIM_PC);
}
template <int N>
MOEJIT_DEVICE void wgmma_hold(f32 (&d)[N]) {
  asm volatile("" ::"r"(&d) : "memory");
}
template <int N, int TransB>
MOEJIT_SIM_CALL void wgmma_bf16(f32 (&d)[N / 2], u64 desc_a, u64 desc_b, bool accumulate) {
  moejit_sim::WgmmaArgs args{moejit_sim::kBf16, N, TransB, accumulate, desc_a, desc_b, d};
  moejit_sim_runtime->collective(moejit_sim::kWgmma, &args, MOEJIT_SIM_PC);
}
template <int N, int TransB>
MOEJIT_SIM_CALL void wgmma_f16(f32 (&d)[N / 2], u64 desc_a, u64 desc_b, bool accumulate) {
  moejit_sim::WgmmaArgs args{moejit_sim::kF16, N, TransB, accumulate, desc_a, desc_b, d};
  moejit_sim_runtime->collective(moejit_sim::kWgmma, &args, MOEJIT_SIM_PC);
}

}  // namespace dev
