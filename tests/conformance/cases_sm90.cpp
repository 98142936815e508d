// Cases of what sm_90a adds.
#include "tests/conformance/cases.h"

namespace moejit_conformance {
namespace {

using moejit::internal::TensorMapSpec;

std::string number(int64_t v) {
  return std::to_string(v);
}

// 64 x N x 64 through 128B-swizzled operands that tensor copies fill: A from w13 rows, B from x.
Case wgmma_case(int n, bool f16, bool transposed, Fill fill, double relative) {
  const std::string type = f16 ? "f16" : "bf16";
  Case test;
  test.name = "wgmma_" + type + "_n" + number(n) + (transposed ? "_mn" : "") +
              (relative > 0 ? "_random" : "");
  test.arch = "sm_90a";
  test.threads = 128;
  test.fill = fill;
  test.out_words = 64 * n;
  test.max_relative = relative;
  const int groups = transposed ? (n + 63) / 64 : 1;  // boxes of B
  const int box_rows = transposed ? 64 : n;           // K, or N
  test.shared_bytes = 1024 + 8192 + groups * box_rows * 128 + 16;
  test.maps.push_back({.base = TensorMapSpec::Base::kW13, .dims = {64, 256}, .box = {64, 64}});
  const int columns = transposed ? groups * 64 : 64;
  test.maps.push_back({.base = TensorMapSpec::Base::kX,
                       .dims = {columns, kInputWords * 2 / columns},
                       .box = {64, box_rows}});
  test.body = "constexpr int kN = " + number(n) + ", kT = " + (transposed ? "1" : "0") +
              ", kGroups = " + number(groups) + ", kRows = " + number(box_rows) + ";\n" + R"(
MOEJIT_KERNEL_MAPS(k0, 128, 1)(MOEJIT_PARAM MoeArgs a, MOEJIT_PARAM TensorMaps maps) {
  const u32 tile = (shared_base() + 1023u) & ~1023u, b = tile + 8192, bar = b + kGroups * kRows * 128;
  if (thread_id() == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
  }
  block_sync();
  if (thread_id() == 0) {
    mbar_arrive_expect_tx(bar, 8192 + kGroups * kRows * 128);
    tma_load_2d(tile, &maps.map[0], 0, 64, bar, policy_evict_normal());
    for (int g = 0; g < kGroups; ++g) {
      tma_load_2d(b + g * kRows * 128, &maps.map[1], g * 64, 0, bar, policy_evict_normal());
    }
  }
  mbar_wait(bar, 0);
  const u64 high = static_cast<u64>(64) << 32 | static_cast<u64>(1) << 62;
  const u64 da = high | 1u << 16 | (tile & 0x3ffffu) >> 4;
  const u64 db = high | static_cast<u64>(kT ? 512 : 1) << 16 | (b & 0x3ffffu) >> 4;
  f32 acc[kN / 2];
  MOEJIT_UNROLL
  for (int i = 0; i < kN / 2; ++i) acc[i] = static_cast<f32>(i);
  wgmma_hold(acc);
  wgmma_fence();
  MOEJIT_UNROLL
  for (int j = 0; j < 4; ++j) wgmma_)" +
              type + R"(<kN, kT>(acc, da + j * 2, db + j * (kT ? 128 : 2), kN % 16 == 0 || j > 0);
  wgmma_commit();
  wgmma_wait<0>();
  wgmma_hold(acc);
  MOEJIT_UNROLL
  for (int i = 0; i < kN / 2; ++i) stg_f32(reinterpret_cast<f32*>(OUT) + thread_id() * (kN / 2) + i, acc[i]);
}
)";
  return test;
}

Case tensor_case(int c0, int c1, int c2) {
  Case test;
  test.name = "tma_load_3d_" + number(c0 + 100) + "_" + number(c1 + 100) + "_" + number(c2 + 100);
  test.arch = "sm_90a";
  test.shared_bytes = 1024 + 4096 + 16;
  test.maps.push_back(
      {.base = TensorMapSpec::Base::kW13, .dims = {104, 20, 3}, .box = {64, 32, 1}});
  test.body = "constexpr int kC0 = " + number(c0) + ", kC1 = " + number(c1) +
              ", kC2 = " + number(c2) + ";\n" + R"(
MOEJIT_KERNEL_MAPS(k0, 32, 1)(MOEJIT_PARAM MoeArgs a, MOEJIT_PARAM TensorMaps maps) {
  const u32 tile = (shared_base() + 1023u) & ~1023u, bar = tile + 4096;
  if (thread_id() == 0) {
    tma_prefetch_map(&maps.map[0]);
    tma_prefetch_3d(&maps.map[0], kC0, kC1, kC2);
    mbar_init(bar, 1);
    fence_mbar_init();
    mbar_arrive_expect_tx(bar, 4096);
    tma_load_3d(tile, &maps.map[0], kC0, kC1, kC2, bar, policy_evict_first());
  }
  warp_sync();
  mbar_wait(bar, 0);
  for (u32 i = thread_id(); i < 1024; i += 32) stg_u32(OUT + i, lds_u32(tile + i * 4));
}
)";
  return test;
}

}  // namespace

void add_sm90_cases(std::vector<Case>* cases) {
  for (int n : {8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 192, 256}) {
    cases->push_back(wgmma_case(n, false, false, Fill::kHalfInts, 0));
  }
  for (int n : {64, 128, 256}) cases->push_back(wgmma_case(n, false, true, Fill::kHalfInts, 0));
  cases->push_back(wgmma_case(128, true, false, Fill::kHalfIntsF16, 0));
  cases->push_back(wgmma_case(128, false, false, Fill::kHalfs, 4e-6));
  cases->push_back({.name = "stmatrix_x4_trans",
                    .arch = "sm_90a",
                    .body = R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 t = thread_id(), s = shared_base();
  u32 r[4];
  for (int i = 0; i < 4; ++i) r[i] = ldg_u32(IN + t * 4 + i);
  stmatrix_x4_trans(s + ((t * 5) % 32) * 16, r);
  warp_sync();
  stg_u32x4(OUT + t * 4, lds_u32x4(s + t * 16));
}
)",
                    .shared_bytes = 512,
                    .out_words = 128});
  cases->push_back(tensor_case(0, 0, 0));
  cases->push_back(tensor_case(64, 0, 1));
  cases->push_back(tensor_case(-8, -3, 2));
  cases->push_back(tensor_case(48, 12, 1));
  cases->push_back(tensor_case(0, 0, 3));
  Case rows = {.name = "tma_load_rows",
               .arch = "sm_90a",
               .body = R"(
MOEJIT_KERNEL_MAPS(k0, 32, 1)(MOEJIT_PARAM MoeArgs a, MOEJIT_PARAM TensorMaps maps) {
  const u32 tile = (shared_base() + 1023u) & ~1023u, bar = tile + 1024;
  if (thread_id() == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
    mbar_arrive_expect_tx(bar, 1024);
    tma_load_rows(tile, &maps.map[0], 0, 3, 5, bar, policy_evict_first());
  }
  warp_sync();
  mbar_wait(bar, 0);
  for (u32 i = thread_id(); i < 160; i += 32) stg_u32(OUT + i, lds_u32(tile + i * 4));
}
)",
               .shared_bytes = 1024 + 1024 + 16,
               .out_words = 160};
  rows.maps.push_back({.base = TensorMapSpec::Base::kW13, .dims = {64, 20}, .box = {64, 8}});
  cases->push_back(rows);
  cases->push_back({.name = "bulk_ring",
                    .arch = "sm_90a",
                    .body = R"(
MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 ring = (shared_base() + 127u) & ~127u, full = ring + 384, empty = full + 24;
  if (thread_id() == 0) {
    for (u32 s = 0; s < 3; ++s) { mbar_init(full + s * 8, 1); mbar_init(empty + s * 8, 1); }
    fence_mbar_init();
  }
  block_sync();
  u32 s = 0, phase = 0;
  for (u32 i = 0; i < 32; ++i) {
    if (warp_id() == 0 && lane_id() == 0) {
      mbar_wait(empty + s * 8, phase ^ 1);
      mbar_arrive_expect_tx(full + s * 8, 128);
      bulk_load(ring + s * 128, IN + i * 32, 128, full + s * 8, policy_evict_normal());
    }
    if (warp_id() == 1) {
      mbar_wait(full + s * 8, phase);
      stg_u32(OUT + i * 32 + lane_id(), lds_u32(ring + s * 128 + lane_id() * 4));
      warp_sync();
      if (lane_id() == 0) mbar_arrive(empty + s * 8);
    }
    if (++s == 3) { s = 0; phase ^= 1; }
  }
}
)",
                    .threads = 64,
                    .shared_bytes = 640});
  cases->push_back({.name = "cp_async_arrive",
                    .arch = "sm_90a",
                    .body = R"(
MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base() + 512;
  if (thread_id() == 0) { mbar_init(bar, 32); fence_mbar_init(); }
  block_sync();
  if (warp_id() == 0) {
    cp_async16(shared_base() + lane_id() * 16, IN + lane_id() * 4, lane_id() % 5 != 0);
    cp_async_arrive_noinc(bar);
  } else {
    mbar_wait(bar, 0);
    for (u32 i = 0; i < 4; ++i) stg_u32(OUT + i * 32 + lane_id(), lds_u32(shared_base() + (i * 32 + 31 - lane_id()) * 4));
  }
}
)",
                    .threads = 64,
                    .shared_bytes = 528,
                    .out_words = 128});
  cases->push_back({.name = "store_hints", .arch = "sm_90a", .body = R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  for (u32 i = lane_id(); i < 256; i += 32) {
    stg_u32x4_hint(OUT + i * 4, ldg_u32x4(IN + i * 4), i % 2 == 0 ? policy_evict_last() : policy_evict_normal());
  }
}
)"});
  cases->push_back({.name = "cluster",
                    .arch = "sm_90a",
                    .body = R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + lane_id() * 4, ldg_u32(IN + block_id() * 32 + lane_id()));
  cluster_sync();
  for (u32 r = 0; r < 2; ++r) {
    const u32 v = ld_cluster_u32(shared_base() + (31 - lane_id()) * 4, r);
    stg_u32(OUT + (block_id() * 2 + r) * 32 + lane_id(), v + cluster_rank());
  }
  cluster_sync();
}
)",
                    .blocks = 4,
                    .shared_bytes = 128,
                    .cluster = 2,
                    .out_words = 256});
  // Two rounds through one slot, so that the second waits for the consumers of both blocks.
  cases->push_back(
      {.name = "tma_multicast",
       .arch = "sm_90a",
       .body = R"(
MOEJIT_KERNEL_MAPS(k0, 64, 1)(MOEJIT_PARAM MoeArgs a, MOEJIT_PARAM TensorMaps maps) {
  const u32 tile = (shared_base() + 1023u) & ~1023u, full = tile + 2048, empty = full + 8;
  if (thread_id() == 0) { mbar_init(full, 1); mbar_init(empty, 2); fence_mbar_init(); }
  cluster_sync();
  const i32 first = static_cast<i32>(block_id() / 2 * 32);
  if (warp_id() == 0) {
    for (u32 i = 0; i < 2 && lane_id() == 0; ++i) {
      mbar_wait(empty, i % 2 ^ 1);
      mbar_arrive_expect_tx(full, 2048);
      tma_load_3d_multicast(tile + cluster_rank() * 1024, &maps.map[0], 0,
                            first + static_cast<i32>(i * 16 + cluster_rank() * 8), 0, full, 3,
                            policy_evict_normal());
    }
  } else {
    for (u32 i = 0; i < 2; ++i) {
      mbar_wait(full, i % 2);
      for (u32 w = lane_id(); w < 512; w += 32)
        stg_u32(OUT + (block_id() * 2 + i) * 512 + w, lds_u32(tile + w * 4));
      warp_sync();
      if (lane_id() < 2) mbar_arrive_cluster(empty, lane_id());
    }
  }
  cluster_sync();
}
)",
       .blocks = 4,
       .threads = 64,
       .shared_bytes = 3200,
       .cluster = 2,
       .out_words = 4096,
       .maps = {{.base = TensorMapSpec::Base::kW13, .dims = {64, 256, 1}, .box = {64, 8, 1}}}});
}

}  // namespace moejit_conformance
