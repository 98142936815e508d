// Asynchronous copies, mbarriers, tensor maps, clusters, dependent launches.
#include "tests/sim/sim_kernel.h"

namespace moejit::internal::test {
namespace {

TEST(SimCopy, CpAsyncGroupsAndZeroFill) {
  const Device* device = sim_device("sm_80");
  Buffer<uint32_t> in(device, 256), out(device, 256);
  for (uint32_t i = 0; i < 256; ++i) in[i] = i + 1;
  MoeArgs args{};
  args.x = in.data();
  args.out = out.data();
  const Status status = run_sim("sm_80", R"(
MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 t = thread_id();
  const u32 mine = shared_base() + t * 16;
  cp_async16(mine, static_cast<const u32*>(a.x) + t * 4, t % 3 != 0);
  cp_async_commit();
  cp_async16(mine + 1024, static_cast<const u32*>(a.x) + t * 4, true);
  cp_async_commit();
  cp_async_wait<1>();
  const u32x4 own = lds_u32x4(mine);  // a thread's own copies need no barrier
  stg_u32x4(static_cast<u32*>(a.out) + t * 4, own);
  cp_async_wait<0>();
  block_sync();
  const u32 other = lds_u32(shared_base() + 1024 + (63 - t) * 16);
  if (t % 3 == 0) stg_u32(static_cast<u32*>(a.out) + t * 4, other);
})",
                                {.threads = 64, .shared_bytes = 2048}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t t = 0; t < 64; ++t) {
    EXPECT_EQ(out[t * 4], t % 3 == 0 ? (63 - t) * 4 + 1 : t * 4 + 1);
    EXPECT_EQ(out[t * 4 + 1], t % 3 == 0 ? 0 : t * 4 + 2);
  }
}

// A ring of two stages filled by bulk copies: full and empty barriers, phases across many rounds.
TEST(SimCopy, BulkRingWithMbarriers) {
  const Device* device = sim_device("sm_90a");
  Buffer<uint32_t> in(device, 9 * 32), out(device, 9 * 32);
  for (uint32_t i = 0; i < 9 * 32; ++i) in[i] = i * 7;
  MoeArgs args{};
  args.x = in.data();
  args.out = out.data();
  const Status status = run_sim("sm_90a", R"(
MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 ring = (shared_base() + 127u) & ~127u, full = ring + 256, empty = full + 16;
  if (thread_id() == 0) {
    for (u32 s = 0; s < 2; ++s) { mbar_init(full + s * 8, 1); mbar_init(empty + s * 8, 1); }
    fence_mbar_init();
  }
  block_sync();
  if (warp_id() == 0) {
    if (lane_id() == 0) {
      for (u32 i = 0; i < 9; ++i) {
        const u32 s = i % 2, phase = i / 2 % 2;
        mbar_wait(empty + s * 8, phase ^ 1);
        mbar_arrive_expect_tx(full + s * 8, 128);
        bulk_load(ring + s * 128, static_cast<const u32*>(a.x) + i * 32, 128, full + s * 8, 0);
      }
    }
  } else {
    for (u32 i = 0; i < 9; ++i) {
      const u32 s = i % 2, phase = i / 2 % 2;
      mbar_wait(full + s * 8, phase);
      stg_u32(static_cast<u32*>(a.out) + i * 32 + lane_id(), lds_u32(ring + s * 128 + lane_id() * 4));
      warp_sync();
      if (lane_id() == 0) mbar_arrive(empty + s * 8);
    }
  }
})",
                                {.threads = 64, .shared_bytes = 512}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t i = 0; i < 9 * 32; ++i) EXPECT_EQ(out[i], i * 7);
}

TEST(SimCopy, CpAsyncArrivesOnAnMbarrier) {
  const Device* device = sim_device("sm_90a");
  Buffer<uint32_t> in(device, 128), out(device, 32);
  for (uint32_t i = 0; i < 128; ++i) in[i] = i;
  MoeArgs args{};
  args.x = in.data();
  args.out = out.data();
  const Status status = run_sim("sm_90a", R"(
MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base() + 512;
  if (thread_id() == 0) mbar_init(bar, 32);
  block_sync();
  if (warp_id() == 0) {
    cp_async16(shared_base() + lane_id() * 16, static_cast<const u32*>(a.x) + lane_id() * 4, true);
    cp_async_arrive_noinc(bar);
  } else {
    mbar_wait(bar, 0);
    stg_u32(static_cast<u32*>(a.out) + lane_id(), lds_u32(shared_base() + (31 - lane_id()) * 16));
  }
})",
                                {.threads = 64, .shared_bytes = 528}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], (31 - i) * 4);
}

// PTX ISA 5.5: a box that hangs over every side of the tensor; outside is zero, inside swizzled.
TEST(SimCopy, TensorBoxWithEdgesAndSwizzle) {
  const Device* device = sim_device("sm_90a");
  constexpr int kColumns = 104, kRows = 10, kPlanes = 3;  // of 2 bytes
  Buffer<uint16_t> in(device, kColumns * kRows * kPlanes);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  Buffer<uint16_t> out(device, 16 * 64);
  MoeArgs args{};
  args.w13 = in.data();
  args.out = out.data();
  KernelSource source = sim_source("sm_90a", R"(
MOEJIT_KERNEL_MAPS(k0, 32, 1)(MOEJIT_PARAM MoeArgs a, MOEJIT_PARAM TensorMaps maps) {
  const u32 tile = (shared_base() + 1023u) & ~1023u, bar = tile + 2048;
  if (thread_id() == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
    mbar_arrive_expect_tx(bar, 2048);
    tma_load_3d(tile, &maps.map[0], 64, -2, 1, bar, policy_evict_first());
  }
  warp_sync();
  mbar_wait(bar, 0);
  for (u32 i = thread_id(); i < 1024; i += 32) {
    const u32 row = i / 64, chunk = i % 64 / 8;
    const u16 v = lds_u16(tile + row * 128 + ((chunk ^ (row % 8)) << 4) + i % 8 * 2);
    stg_u16(static_cast<u16*>(a.out) + i, v);
  }
})",
                                   {{.shared_bytes = 4096}});
  source.entries[0].tensor_maps = true;
  source.tensor_maps.push_back({.base = TensorMapSpec::Base::kW13,
                                .element_bytes = 2,
                                .dims = {kColumns, kRows, kPlanes},
                                .box = {64, 16, 1}});
  const Status status = run_sim(source, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (int r = 0; r < 16; ++r) {
    for (int c = 0; c < 64; ++c) {
      const int row = r - 2, column = c + 64;
      const bool inside = row >= 0 && row < kRows && column < kColumns;
      const int want = inside ? (kRows + row) * kColumns + column + 1 : 0;
      ASSERT_EQ(out[static_cast<size_t>(r * 64 + c)], want) << r << "," << c;
    }
  }
}

// Of rows that do not count nothing is read: not even what no one has written.
TEST(SimCopy, RowsThatDoNotCountAreNaN) {
  const Device* device = sim_device("sm_90a");
  constexpr int kColumns = 64, kRows = 8, kCount = 5;
  Buffer<uint16_t> out(device, kColumns * kRows), workspace(device, kColumns * kRows);
  MoeArgs args{};
  args.out = out.data();
  args.workspace = workspace.data();
  KernelSource source = sim_source("sm_90a", R"(
MOEJIT_KERNEL_MAPS(k0, 64, 1)(MOEJIT_PARAM MoeArgs a, MOEJIT_PARAM TensorMaps maps) {
  const u32 tile = (shared_base() + 1023u) & ~1023u, bar = tile + 1024, t = thread_id();
  for (u32 r = 0; r < 5; ++r) stg_u16(static_cast<u16*>(a.workspace) + r * 64 + t, r + 1);
  if (t == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
  }
  block_sync();
  fence_proxy_async_global();
  if (t == 0) {
    mbar_arrive_expect_tx(bar, 1024);
    tma_load_rows(tile, &maps.map[0], 0, 0, 5, bar, policy_evict_first());
  }
  mbar_wait(bar, 0);
  for (u32 r = 0; r < 8; ++r) {
    const u16 v = lds_u16(tile + r * 128 + ((t / 8 ^ r) << 4) + t % 8 * 2);
    stg_u16(static_cast<u16*>(a.out) + r * 64 + t, v);
  }
})",
                                   {{.threads = 64, .shared_bytes = 3072}});
  source.workspace = {{.name = "rows", .fixed_bytes = kColumns * kRows * 2}};
  source.entries[0].tensor_maps = true;
  source.tensor_maps.push_back({.base = TensorMapSpec::Base::kWorkspace,
                                .element_bytes = 2,
                                .dims = {kColumns, kRows},
                                .box = {kColumns, kRows}});
  const Status status = run_sim(source, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c)
      ASSERT_EQ(out[static_cast<size_t>(r * kColumns + c)], r < kCount ? r + 1 : 0xffff) << r;
  }
}

TEST(SimCopy, ClusterReadsItsNeighbour) {
  const Device* device = sim_device("sm_90a");
  Buffer<uint32_t> out(device, 4 * 32);
  MoeArgs args{};
  args.out = out.data();
  const Status status = run_sim("sm_90a", R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + lane_id() * 4, block_id() * 100 + lane_id());
  cluster_sync();
  const u32 v = ld_cluster_u32(shared_base() + lane_id() * 4, cluster_rank() ^ 1u);
  stg_u32(static_cast<u32*>(a.out) + block_id() * 32 + lane_id(), v);
  cluster_sync();
})",
                                {.blocks = 4, .shared_bytes = 128, .cluster = 2}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t i = 0; i < 128; ++i) EXPECT_EQ(out[i], (i / 32 ^ 1u) * 100 + i % 32);
}

TEST(SimCopy, DependentEntryWaits) {
  const Device* device = sim_device("sm_90a");
  Buffer<uint32_t> out(device, 32), workspace(device, 64);
  MoeArgs args{};
  args.out = out.data();
  args.workspace = workspace.data();
  KernelSource source = sim_source("sm_90a", R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  grid_launch_dependents();
  stg_u32(static_cast<u32*>(a.workspace) + thread_id(), thread_id() + 5);
}
MOEJIT_KERNEL(k1, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  grid_wait();
  stg_u32(static_cast<u32*>(a.out) + thread_id(), ldg_u32(static_cast<u32*>(a.workspace) + thread_id()));
})",
                                   {{}, {}});
  source.entries[1].dependent_launch = true;
  const Status status = run_sim(source, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(out[i], i + 5);
}

}  // namespace
}  // namespace moejit::internal::test
