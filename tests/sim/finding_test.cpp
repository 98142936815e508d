// Deliberately broken kernels: each kind of finding is reported, with the line at fault. Beside each
// stands its repaired twin, which passes.
#include <gmock/gmock.h>

#include "tests/sim/sim_kernel.h"

namespace moejit::internal::test {
namespace {

using ::testing::HasSubstr;

struct Case {
  const char* name;
  const char* kind;     // of the finding
  const char* at;       // text of a source line in the report
  const char* body;     // BAD(x) stays only in the broken kernel, GOOD(x) only in the repaired one
  KernelShape shape;
  bool needs_sm90 = false;
  bool dependent = false;  // a second entry k1 depends on k0
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

const Case kCases[] = {
    {"SharedOutOfBounds", "out-of-bounds access", "byte 128 of shared memory, which has 128",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + 4 * (lane_id() BAD(+ 1)), 1);
  stg_u32(OUT + lane_id(), 0);
})", {.shared_bytes = 128}},
    {"GlobalOutOfBounds", "out-of-bounds access", "byte 4096 of x, which has 4096",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32(OUT + lane_id(), ldg_u32(static_cast<const u32*>(a.x) + 1024 GOOD(- 1)));
})", {.threads = 32}},
    {"Misaligned", "misaligned access", "ldg_u32x4",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32x4 v = ldg_u32x4(static_cast<const u32*>(a.x) + 4 BAD(+ 1));
  stg_u32(OUT + lane_id(), v.x);
})", {}},
    {"WriteToAnInput", "write to an input", "stg_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  BAD(stg_u32(const_cast<void*>(a.x), 5);)
  stg_u32(OUT + lane_id(), 5);
})", {}},
    {"UnwrittenShared", "read of memory that nothing wrote", "lds_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  GOOD(sts_u32(shared_base() + lane_id() * 4, 0);)
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + lane_id() * 4));
})", {.shared_bytes = 128}},
    {"UnwrittenWorkspace", "read of memory that nothing wrote", "atomic_add_global",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  GOOD(if (thread_id() == 0) stg_u32(WORK, 0); block_sync();)
  stg_u32(OUT + lane_id(), atomic_add_global(WORK, 1) * 0);
})", {}},
    {"RaceBetweenWarps", "race", "lds_u32(shared_base() + (63 - thread_id()) * 4)",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + thread_id() * 4, 0);
  block_sync();
  sts_u32(shared_base() + thread_id() * 4, thread_id());
  GOOD(block_sync();)
  BAD(warp_sync();)
  const u32 v = lds_u32(shared_base() + (63 - thread_id()) * 4);
  stg_u32(OUT + thread_id(), v);
})", {.threads = 64, .shared_bytes = 256}},
    {"RaceWithinAWarp", "race", "lds_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + lane_id() * 4, lane_id());
  GOOD(warp_sync();)
  BAD(warp_ballot(true);)
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + (31 - lane_id()) * 4));
})", {.shared_bytes = 128}},
    {"RaceWriteAfterRead", "race", "sts_u32(shared_base(), 2)",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) sts_u32(shared_base(), 1);
  block_sync();
  const u32 v = lds_u32(shared_base());
  GOOD(block_sync();)
  if (thread_id() == 0) sts_u32(shared_base(), 2);
  stg_u32(OUT + thread_id(), v);
})", {.threads = 64, .shared_bytes = 16}},
    {"RaceOfHalfWords", "race", "sts_u16",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u16(shared_base() + (thread_id() GOOD(* 2) BAD(/ 2 * 2)), 1);
  stg_u32(OUT + thread_id(), 0);
})", {.threads = 64, .shared_bytes = 128}},
    {"RaceOnAtomicResult", "race", "lds_u32",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) sts_u32(shared_base(), 0);
  block_sync();
  atomic_add_shared(shared_base(), 1);
  GOOD(block_sync();)
  stg_u32(OUT + thread_id(), lds_u32(shared_base()));
})", {.threads = 64, .shared_bytes = 16}},
    {"RaceBetweenBlocks", "race", "stg_u32(OUT + block_id()",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() == 0) stg_u32(OUT + block_id() BAD(/ 2), 1);
})", {.blocks = 4}},
    {"FlagWithoutRelease", "race", "ldg_u32(WORK + 1)",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) stg_u32(WORK, 0);
}
MOEJIT_KERNEL(k1, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() != 0) return;
  if (block_id() == 0) {
    while (ld_acquire(WORK) == 0) {}
    stg_u32(OUT, ldg_u32(WORK + 1));
  } else {
    stg_u32(WORK + 1, 7);
    GOOD(fence_gpu();)
    atomic_add_global(WORK, 1);
  }
})", {.blocks = 2}},
    {"NoWaitForCpAsync", "race", "meets a cp.async write",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  cp_async16(shared_base() + lane_id() * 16, static_cast<const u8*>(a.x) + lane_id() * 16, true);
  cp_async_commit();
  cp_async_wait<GOOD(0) BAD(1)>();
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + lane_id() * 16));
})", {.shared_bytes = 512}},
    {"CpAsyncOfAnotherThread", "read of memory that nothing wrote", "lds_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  cp_async16(shared_base() + lane_id() * 16, static_cast<const u8*>(a.x) + lane_id() * 16, true);
  cp_async_commit();
  cp_async_wait<0>();
  GOOD(warp_sync();)
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + (31 - lane_id()) * 16));
})", {.shared_bytes = 512}},
    {"MissingLane", "divergent collective", "warp_sync",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  BAD(if (lane_id() == 7) return;)
  warp_sync();
  stg_u32(OUT + lane_id(), 1);
})", {}},
    {"LanesInDifferentCalls", "divergent collective", "shfl_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() < 16 BAD(&& false)) warp_sync();
  else BAD(if (lane_id() < 16) warp_sync(); else) GOOD(warp_sync();) BAD(shfl_u32(1, 0);)
  stg_u32(OUT + lane_id(), 1);
})", {}},
    {"PartOfAWarpAtABarrier", "divergent collective", "bar_sync",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() < GOOD(32) BAD(16)) bar_sync(1, GOOD(64) BAD(32));
  stg_u32(OUT + thread_id(), 1);
})", {.threads = 64}},
    {"Deadlock", "deadlock", "named barrier 1: 32 of 64",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  bar_sync(1, 64);
  BAD(if (warp_id() == 1)) bar_sync(1, 64);
  stg_u32(OUT + thread_id(), 1);
})", {.threads = 64}},
    {"PollingForever", "deadlock", "polling global memory",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() == 0) {
    stg_u32(WORK, 0 GOOD(+ 1));
    while (ld_acquire(WORK) == 0) {}
  }
  stg_u32(OUT + lane_id(), 1);
})", {}},
    {"MoreBlocksThanFit", "deadlock", "blocks have not started",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) stg_u32(WORK, 0);
}
MOEJIT_KERNEL(k1, 1024, 1)(MOEJIT_PARAM MoeArgs a) {  // two blocks of a unit, eight in all
  if (thread_id() == 0) {
    atomic_add_acq_rel(WORK, 1);
    while (ld_acquire(WORK) < block_count() GOOD(- 12)) {}
    stg_u32(OUT + block_id(), 1);
  }
})", {.blocks = 20, .threads = 1024}},
    {"BarrierCountsDisagree", "barrier misuse", "bar_sync(1,",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  bar_sync(1, BAD(warp_id() == 0 ? 32 * 2 : 32) GOOD(64));
  stg_u32(OUT + thread_id(), 1);
})", {.threads = 64}},
    {"UncoveredOutput", "uncovered output", "byte 124 of the 128 of out",
     R"(extern "C" __attribute__((visibility("default"))) long long moejit_sim_extent(int which, long long, int) {
  return which == 9 ? 128 : which == 0 ? 4096 : -1;
}
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  BAD(if (lane_id() < 31)) stg_u32(OUT + lane_id(), 1);
})", {}},
    {"OrderOfAtomics", "result depends on timing", "differs between early and late",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) sts_u32(shared_base(), 0);
  block_sync();
  const u32 place = atomic_add_shared(shared_base(), 1);
  stg_u32(OUT + GOOD(thread_id()) BAD(place), thread_id());
})", {.threads = 64, .shared_bytes = 16}},
    {"StackTooDeep", "stack overflow", "local memory",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  volatile u8 big[GOOD(1000) BAD(131072 - 512)];
  for (u32 i = 0; i < sizeof big; ++i) big[i] = 1;
  stg_u32(OUT + lane_id(), big[5]);
})", {}},

    // Hopper.
    {"NoProxyFence", "missing proxy fence", "wgmma_bf16",
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
})", {.threads = 128, .shared_bytes = 2432}, true},
    {"ResultBeforeWgmmaWait", "result depends on timing", "differs",
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
})", {.threads = 128, .shared_bytes = 2432}, true},
    {"NoWgmmaFence", "matrix instruction misuse", "wgmma_bf16",
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
})", {.threads = 128, .shared_bytes = 2432}, true},
    {"OperandOverwrittenUnderWgmma", "race", "sts_u32(base + thread_id() * 4, 1)",
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
})", {.threads = 128, .shared_bytes = 2432}, true},
    {"TilesOffTheSwizzle", "matrix instruction misuse", "128-byte swizzle needs 1024-aligned",
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
})", {.threads = 128, .shared_bytes = 11520}, true},
    {"WrongParity", "deadlock", "parity 1: phase 1 lacks 1 of 1 arrivals",
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
})", {.shared_bytes = 272}, true},
    {"TooFewExpectedBytes", "race", "bulk_load(tile + 128",
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
})", {.shared_bytes = 400}, true},
    {"TooManyExpectedBytes", "deadlock", "0 of 1 arrivals and 128 bytes",
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
})", {.shared_bytes = 400}, true},
    {"SlotRefilledBeforeRelease", "race", "bulk_load(tile, a.x, 128",
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
})", {.threads = 64, .shared_bytes = 272}, true},
    {"ReleaseWithoutTheWarp", "race", "bulk_load(tile, a.x, 128",
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
})", {.threads = 64, .shared_bytes = 272}, true},
    {"MbarrierUsedWithoutBarrier", "race", "mbar_arrive",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base();
  if (thread_id() == 0) { mbar_init(bar, 64); fence_mbar_init(); }
  GOOD(block_sync();)
  mbar_arrive(bar);
  mbar_wait(bar, 0);
  stg_u32(OUT + thread_id(), 1);
})", {.threads = 64, .shared_bytes = 16}, true},
    {"OneArrivalTooMany", "barrier misuse", "already has all 1 arrivals",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base(), other = bar + 8;
  if (thread_id() == 0) { mbar_init(bar, 1); mbar_init(other, 1); mbar_arrive_expect_tx(bar, 16); }
  BAD(if (thread_id() == 0) mbar_arrive(bar);)
  if (thread_id() == 0) { bulk_load(bar + 16, a.x, 16, bar, 0); mbar_wait(bar, 0); }
  stg_u32(OUT + thread_id(), 1);
})", {.shared_bytes = 32}, true},
    {"OrdinaryAccessToAnMbarrier", "barrier misuse", "lds_u32(bar)",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 bar = shared_base();
  if (thread_id() == 0) { mbar_init(bar, 1); BAD(lds_u32(bar);) }
  stg_u32(OUT + thread_id(), 1);
})", {.shared_bytes = 16}, true},
    {"CopyInFlightAtTheEnd", "copy misuse", "bulk_load",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 tile = (shared_base() + 127u) & ~127u, bar = tile + 128;
  if (lane_id() == 0) {
    mbar_init(bar, 1);
    mbar_arrive_expect_tx(bar, 128);
    bulk_load(tile, a.x, 128, bar, 0);
    GOOD(mbar_wait(bar, 0);)
  }
  stg_u32(OUT + lane_id(), 1);
})", {.shared_bytes = 272}, true},
    {"TooManyRegisters", "resources exceeded", "setmaxnreg gives the block",
     R"(MOEJIT_KERNEL(k0, 384, 1)(MOEJIT_PARAM MoeArgs a) {
  if (warp_id() < 4) GOOD(reg_dec<40>()) BAD(reg_inc<232>());
  else reg_inc<232>();
  stg_u32(OUT + thread_id(), 1);
})", {.threads = 384}, true},
    {"DependentReadsTooEarly", "race", "ldg_u32(WORK",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32(WORK + lane_id(), 3);
  grid_launch_dependents();
}
MOEJIT_KERNEL(k1, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  GOOD(grid_wait();)
  stg_u32(OUT + lane_id(), ldg_u32(WORK + lane_id()));
})", {}, true, true},
    {"StreamLoadOfWorkspace", "race", "ldg_stream",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32x4(WORK + lane_id() * 4, {1, 2, 3, 4});
  const u32x4 v = BAD(ldg_stream(WORK + lane_id() * 4, 0)) GOOD(ldg_u32x4(WORK + lane_id() * 4));
  stg_u32(OUT + lane_id(), v.x);
})", {}},
};

class SimFinding : public ::testing::TestWithParam<Case> {
 protected:
  Status run(bool broken) const {
    const Case& c = GetParam();
    const std::string arch = c.needs_sm90 ? "sm_90a" : "sm_80";
    const Device* device = sim_device(arch);
    Buffer<uint32_t> x(device, 1024), out(device, 1024), workspace(device, 1024);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint32_t>(i);
    MoeArgs args{};
    args.x = x.data();
    args.out = out.data();
    args.workspace = workspace.data();
    const std::string head = std::string("#define OUT static_cast<u32*>(a.out)\n") +
                             "#define WORK static_cast<u32*>(a.workspace)\n" +
                             (broken ? "#define BAD(...) __VA_ARGS__\n#define GOOD(...)\n"
                                     : "#define BAD(...)\n#define GOOD(...) __VA_ARGS__\n");
    std::vector<KernelShape> shapes = {c.shape};
    if (std::string(c.body).find("(k1,") != std::string::npos) {
      shapes = {{.shared_bytes = c.shape.shared_bytes}, c.shape};
    }
    KernelSource source = sim_source(arch, head + c.body, shapes);
    if (c.dependent) source.entries[1].dependent_launch = true;
    return run_sim(source, args);
  }
};

TEST_P(SimFinding, IsReported) {
  const Case& c = GetParam();
  const Status status = run(true);
  EXPECT_EQ(status.code(), StatusCode::kVerificationFailed) << status.to_string();
  EXPECT_THAT(status.message(), HasSubstr(c.kind)) << status.log();
  EXPECT_THAT(status.to_string() + status.log(), HasSubstr(c.at));
}

TEST_P(SimFinding, RepairedKernelPasses) {
  const Status status = run(false);
  EXPECT_TRUE(status.ok()) << status.to_string() << "\n" << status.log();
}

INSTANTIATE_TEST_SUITE_P(Kinds, SimFinding, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit::internal::test
