// Primitives of primitives.md that sm_90 adds: mbarriers, bulk and tensor copies, clusters,
// setmaxnreg.
#pragma once

#include "device/cuda_sm80.h"

namespace dev {

struct alignas(64) TensorMap {
  u64 opaque[16];
};
constexpr int kMaxTensorMaps = 4;
struct TensorMaps {
  TensorMap map[kMaxTensorMaps];
};

MOEJIT_DEVICE void mbar_init(u32 bar, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}
MOEJIT_DEVICE void fence_mbar_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
MOEJIT_DEVICE void mbar_arrive(u32 bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
MOEJIT_DEVICE void mbar_arrive_expect_tx(u32 bar, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
               : "memory");
}
MOEJIT_DEVICE void mbar_wait(u32 bar, u32 parity) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\n"
      "bra again;\n"
      "done:\n"
      "}" ::"r"(bar),
      "r"(parity)
      : "memory");
}
MOEJIT_DEVICE void opaque(i32& v) {
  asm volatile("" : "+r"(v));
}
MOEJIT_DEVICE void opaque(const u8*& v) {
  asm volatile("" : "+l"(v));
}
// At the default scope: what arrives is that reads are complete, which a wait_group has made sure
// of; release and acquire of the cluster cost a third of a kernel's time.
MOEJIT_DEVICE void mbar_arrive_cluster(u32 bar, u32 rank) {
  asm volatile(
      "{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [r];\n}" ::"r"(bar),
      "r"(rank)
      : "memory");
}
MOEJIT_DEVICE void cp_async_arrive_noinc(u32 bar) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
}
MOEJIT_DEVICE void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
MOEJIT_DEVICE void fence_proxy_async_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
MOEJIT_DEVICE void bulk_load(u32 dst, const void* src, u32 bytes, u32 bar, u64 policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(dst),
      "l"(src), "r"(bytes), "r"(bar), "l"(policy)
      : "memory");
}
MOEJIT_DEVICE void tma_load_2d(u32 dst, const TensorMap* map, i32 c0, i32 c1, u32 bar, u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_"
      "hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
      "l"(map), "r"(bar), "r"(c0), "r"(c1), "l"(policy)
      : "memory");
}
// Of the box the first `rows` rows count; the copy is the whole box.
MOEJIT_DEVICE void tma_load_rows(u32 dst, const TensorMap* map, i32 c0, i32 c1, i32, u32 bar,
                                 u64 policy) {
  tma_load_2d(dst, map, c0, c1, bar, policy);
}
MOEJIT_DEVICE void tma_load_3d(u32 dst, const TensorMap* map, i32 c0, i32 c1, i32 c2, u32 bar,
                               u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_"
      "hint "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(dst),
      "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "l"(policy)
      : "memory");
}
MOEJIT_DEVICE void tma_load_3d_multicast(u32 dst, const TensorMap* map, i32 c0, i32 c1, i32 c2,
                                         u32 bar, u32 blocks, u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::"
      "cluster.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6, %7;" ::"r"(dst),
      "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "h"(static_cast<u16>(blocks)), "l"(policy)
      : "memory");
}
MOEJIT_DEVICE void tma_prefetch_3d(const TensorMap* map, i32 c0, i32 c1, i32 c2) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(map),
               "r"(c0), "r"(c1), "r"(c2)
               : "memory");
}
MOEJIT_DEVICE void tma_prefetch_map(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

MOEJIT_DEVICE u32 cluster_rank() {
  u32 r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
MOEJIT_DEVICE void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
}
MOEJIT_DEVICE u32 ld_cluster_u32(u32 a, u32 rank) {
  u32 v;
  asm volatile(
      "{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %1, %2;\nld.shared::cluster.u32 %0, [r];\n}"
      : "=r"(v)
      : "r"(a), "r"(rank)
      : "memory");
  return v;
}

MOEJIT_DEVICE void stmatrix_x4_trans(u32 a, const u32 (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(a),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

template <int N>
MOEJIT_DEVICE void reg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
MOEJIT_DEVICE void reg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

}  // namespace dev
