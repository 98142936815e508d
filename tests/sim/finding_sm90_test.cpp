// Deliberately broken kernels of what sm_90 adds: mbarriers, bulk copies, wgmma, dependent
// launches.
#include "tests/sim/finding_case.h"

namespace moejit::internal::test {
namespace {

const Case kCases[] = {
    {"NoProxyFence",
     "missing proxy fence",
     "wgmma_bf16",
     R"(MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 base = (shared_base() + 127u) & ~127u;
  for (u32 i = thread_id(); i < 144; i += 128) sts_u32x4(base + i * 16, {0, 0, 0, 0});
  GOOD(fence_proxy_async();)
  block_sync();
  const u64 d = static_cast<u64>(16) << 32 | 8u << 16 | base >> 4;
  f32 acc[4];
  wgmma_fence();
  wgmma_bf16<8, 0>(acc, d, d + 128, false);
  wgmma_commit();
  wgmma_wait<0>();
  stg_f32(static_cast<f32*>(a.out) + thread_id(), acc[0]);
})",
     {.threads = 128, .shared_bytes = 2432},
     true},
    {"ResultBeforeWgmmaWait",
     "result depends on timing",
     "differs",
     R"(MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 base = (shared_base() + 127u) & ~127u;
  for (u32 i = thread_id(); i < 144; i += 128) sts_u32x4(base + i * 16, {0, 0, 0, 0});
  fence_proxy_async();
  block_sync();
  const u64 d = static_cast<u64>(16) << 32 | 8u << 16 | base >> 4;
  f32 acc[4];
  wgmma_fence();
  wgmma_bf16<8, 0>(acc, d, d + 128, false);
  wgmma_commit();
  GOOD(wgmma_wait<0>();)
  stg_f32(static_cast<f32*>(a.out) + thread_id(), acc[0]);
  BAD(wgmma_wait<0>();)
})",
     {.threads = 128, .shared_bytes = 2432},
     true},
    {"NoWgmmaFence",
     "matrix instruction misuse",
     "wgmma_bf16",
     R"(MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 base = (shared_base() + 127u) & ~127u;
  for (u32 i = thread_id(); i < 144; i += 128) sts_u32x4(base + i * 16, {0, 0, 0, 0});
  fence_proxy_async();
  block_sync();
  const u64 d = static_cast<u64>(16) << 32 | 8u << 16 | base >> 4;
  f32 acc[4];
  GOOD(wgmma_fence();)
  wgmma_bf16<8, 0>(acc, d, d + 128, false);
  wgmma_commit();
  wgmma_wait<0>();
  stg_f32(static_cast<f32*>(a.out) + thread_id(), acc[0]);
})",
     {.threads = 128, .shared_bytes = 2432},
     true},
    {"OperandOverwrittenUnderWgmma",
     "race",
     "sts_u32(base + thread_id() * 4, 1)",
     R"(MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 base = (shared_base() + 127u) & ~127u;
  for (u32 i = thread_id(); i < 144; i += 128) sts_u32x4(base + i * 16, {0, 0, 0, 0});
  fence_proxy_async();
  block_sync();
  const u64 d = static_cast<u64>(16) << 32 | 8u << 16 | base >> 4;
  f32 acc[4];
  wgmma_fence();
  wgmma_bf16<8, 0>(acc, d, d + 128, false);
  wgmma_commit();
  GOOD(wgmma_wait<0>();)
  block_sync();
  sts_u32(base + thread_id() * 4, 1);
  wgmma_wait<0>();
  stg_f32(static_cast<f32*>(a.out) + thread_id(), acc[0]);
})",
     {.threads = 128, .shared_bytes = 2432},
     true},
    {"TilesOffTheSwizzle",
     "matrix instruction misuse",
     "128-byte swizzle needs 1024-aligned",
     R"(MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 base = ((shared_base() + 1023u) & ~1023u) BAD(+ 128);
  for (u32 i = thread_id(); i < 640; i += 128) sts_u32x4(base + i * 16, {0, 0, 0, 0});
  fence_proxy_async();
  block_sync();
  const u64 d = static_cast<u64>(64) << 32 | static_cast<u64>(1) << 62 | base >> 4;
  f32 acc[4];
  wgmma_fence();
  wgmma_bf16<8, 0>(acc, d, d, false);
  wgmma_commit();
  wgmma_wait<0>();
  stg_f32(static_cast<f32*>(a.out) + thread_id(), acc[0]);
})",
     {.threads = 128, .shared_bytes = 11520},
     true},
    {"WrongParity",
     "deadlock",
     "parity 1: phase 1 lacks 1 of 1 arrivals",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, bar = tile + 128;
  if (lane_id() == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
    mbar_arrive_expect_tx(bar, 128);
    bulk_load(tile, a.x, 128, bar, 0);
  }
  warp_sync();
  mbar_wait(bar, GOOD(0) BAD(1));
  stg_u32(OUT + lane_id(), lds_u32(tile + lane_id() * 4));
})",
     {.shared_bytes = 272},
     true},
    {"TooFewExpectedBytes",
     "race",
     "bulk_load(tile + 128",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, bar = tile + 256;
  if (lane_id() == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
    mbar_arrive_expect_tx(bar, GOOD(256) BAD(128));
    bulk_load(tile, a.x, 128, bar, 0);
    bulk_load(tile + 128, a.x, 128, bar, 0);
  }
  warp_sync();
  mbar_wait(bar, 0);
  stg_u32(OUT + lane_id(), lds_u32(tile + 128 + lane_id() * 4));
})",
     {.shared_bytes = 400},
     true},
    {"TooManyExpectedBytes",
     "deadlock",
     "0 of 1 arrivals and 128 bytes",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, bar = tile + 256;
  if (lane_id() == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
    mbar_arrive_expect_tx(bar, GOOD(128) BAD(256));
    bulk_load(tile, a.x, 128, bar, 0);
  }
  warp_sync();
  mbar_wait(bar, 0);
  stg_u32(OUT + lane_id(), lds_u32(tile + lane_id() * 4));
})",
     {.shared_bytes = 400},
     true},
    {"SlotRefilledBeforeRelease",
     "race",
     "bulk_load(tile, a.x, 128",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, full = tile + 128, empty = full + 8;
  if (thread_id() == 0) { mbar_init(full, 1); mbar_init(empty, 1); fence_mbar_init(); }
  block_sync();
  if (warp_id() == 0) {
    if (lane_id() == 0) {
      for (u32 i = 0; i < 3; ++i) {
        GOOD(mbar_wait(empty, i % 2 ^ 1);) BAD(mbar_wait(empty, 1);)
        mbar_arrive_expect_tx(full, 128);
        bulk_load(tile, a.x, 128, full, 0);
        BAD(mbar_wait(full, i % 2);)
      }
    }
  } else {
    for (u32 i = 0; i < BAD(1) GOOD(3); ++i) {
      mbar_wait(full, i % 2);
      stg_u32(OUT + i * 32 + lane_id(), lds_u32(tile + lane_id() * 4));
      warp_sync();
      GOOD(if (lane_id() == 0) mbar_arrive(empty);)
    }
  }
})",
     {.threads = 64, .shared_bytes = 272},
     true},
    {"ReleaseWithoutTheWarp",
     "race",
     "bulk_load(tile, a.x, 128",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, full = tile + 128, empty = full + 8;
  if (thread_id() == 0) { mbar_init(full, 1); mbar_init(empty, 1); fence_mbar_init(); }
  block_sync();
  for (u32 i = 0; i < 3; ++i) {
    if (thread_id() == 0) {
      mbar_wait(empty, i % 2 ^ 1);
      mbar_arrive_expect_tx(full, 128);
      bulk_load(tile, a.x, 128, full, 0);
    }
    if (warp_id() == 1) {
      mbar_wait(full, i % 2);
      stg_u32(OUT + i * 32 + lane_id(), lds_u32(tile + lane_id() * 4));
      GOOD(warp_sync();)
      if (lane_id() == 0) mbar_arrive(empty);
    }
  }
})",
     {.threads = 64, .shared_bytes = 272},
     true},
    {"MbarrierUsedWithoutBarrier",
     "race",
     "mbar_arrive",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base();
  if (thread_id() == 0) { mbar_init(bar, 64); fence_mbar_init(); }
  GOOD(block_sync();)
  mbar_arrive(bar);
  mbar_wait(bar, 0);
  stg_u32(OUT + thread_id(), 1);
})",
     {.threads = 64, .shared_bytes = 16},
     true},
    {"OneArrivalTooMany",
     "barrier misuse",
     "already has all 1 arrivals",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base(), other = bar + 8;
  if (thread_id() == 0) { mbar_init(bar, 1); mbar_init(other, 1); fence_mbar_init(); mbar_arrive_expect_tx(bar, 16); }
  BAD(if (thread_id() == 0) mbar_arrive(bar);)
  if (thread_id() == 0) { bulk_load(bar + 16, a.x, 16, bar, 0); mbar_wait(bar, 0); }
  stg_u32(OUT + thread_id(), 1);
})",
     {.shared_bytes = 32},
     true},
    {"OrdinaryAccessToAnMbarrier",
     "barrier misuse",
     "lds_u32(bar)",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base();
  if (thread_id() == 0) { mbar_init(bar, 1); BAD(lds_u32(bar);) }
  stg_u32(OUT + thread_id(), 1);
})",
     {.shared_bytes = 16},
     true},
    {"CopyInFlightAtTheEnd",
     "copy misuse",
     "bulk_load",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, bar = tile + 128;
  if (lane_id() == 0) {
    mbar_init(bar, 1);
    fence_mbar_init();
    mbar_arrive_expect_tx(bar, 128);
    bulk_load(tile, a.x, 128, bar, 0);
    GOOD(mbar_wait(bar, 0);)
  }
  stg_u32(OUT + lane_id(), 1);
})",
     {.shared_bytes = 272},
     true},
    {"MbarrierWithoutItsFence",
     "missing proxy fence",
     "no fence_mbar_init",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, bar = tile + 128;
  if (lane_id() == 0) {
    mbar_init(bar, 1);
    GOOD(fence_mbar_init();)
    mbar_arrive_expect_tx(bar, 128);
    bulk_load(tile, a.x, 128, bar, 0);
    mbar_wait(bar, 0);
  }
  stg_u32(OUT + lane_id(), 1);
})",
     {.shared_bytes = 272},
     true},
    {"TooManyRegisters",
     "resources exceeded",
     "setmaxnreg gives the block",
     R"(MOEJIT_KERNEL(k0, 384, 1)(MOEJIT_PARAM MoeArgs a) {
  if (warp_id() < 4) GOOD(reg_dec<40>()) BAD(reg_inc<232>());
  else reg_inc<232>();
  stg_u32(OUT + thread_id(), 1);
})",
     {.threads = 384},
     true},
    {"DependentReadsTooEarly",
     "race",
     "ldg_u32(WORK",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32(WORK + lane_id(), 3);
  grid_launch_dependents();
}
MOEJIT_KERNEL(k1, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  GOOD(grid_wait();)
  stg_u32(OUT + lane_id(), ldg_u32(WORK + lane_id()));
})",
     {},
     true,
     true},
    {"StreamLoadOfWorkspace",
     "race",
     "ldg_stream",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32x4(WORK + lane_id() * 4, {1, 2, 3, 4});
  const u32x4 v = BAD(ldg_stream(WORK + lane_id() * 4, 0)) GOOD(ldg_u32x4(WORK + lane_id() * 4));
  stg_u32(OUT + lane_id(), v.x);
})",
     {}},
};

class SimFindingSm90 : public ::testing::TestWithParam<Case> {};

TEST_P(SimFindingSm90, IsReported) {
  expect_reported(GetParam());
}

TEST_P(SimFindingSm90, RepairedKernelPasses) {
  expect_passes(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Kinds, SimFindingSm90, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit::internal::test
