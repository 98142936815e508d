// Deliberately broken kernels: each kind of finding is reported, with the line at fault. Beside
// each stands its repaired twin, which passes.
#include "tests/sim/finding_case.h"

namespace moejit::internal::test {
namespace {

const Case kCases[] = {
    {"SharedOutOfBounds",
     "out-of-bounds access",
     "byte 128 of shared memory, which has 128",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + 4 * (lane_id() BAD(+ 1)), 1);
  stg_u32(OUT + lane_id(), 0);
})",
     {.shared_bytes = 128}},
    {"GlobalOutOfBounds",
     "out-of-bounds access",
     "byte 4096 of x, which has 4096",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32(OUT + lane_id(), ldg_u32(static_cast<const u32*>(a.x) + 1024 GOOD(- 1)));
})",
     {.threads = 32}},
    {"Misaligned",
     "misaligned access",
     "ldg_u32x4",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32x4 v = ldg_u32x4(static_cast<const u32*>(a.x) + 4 BAD(+ 1));
  stg_u32(OUT + lane_id(), v.x);
})",
     {}},
    {"WriteToAnInput",
     "write to an input",
     "stg_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  BAD(stg_u32(const_cast<void*>(a.x), 5);)
  stg_u32(OUT + lane_id(), 5);
})",
     {}},
    {"UnwrittenShared",
     "read of memory that nothing wrote",
     "lds_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  GOOD(sts_u32(shared_base() + lane_id() * 4, 0);)
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + lane_id() * 4));
})",
     {.shared_bytes = 128}},
    {"UnwrittenWorkspace",
     "read of memory that nothing wrote",
     "atomic_add_global",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  GOOD(if (thread_id() == 0) stg_u32(WORK, 0); block_sync();)
  stg_u32(OUT + lane_id(), atomic_add_global(WORK, 1) * 0);
})",
     {}},
    {"DiscardedLine",
     "read of memory that nothing wrote",
     "ldg_u32(WORK + lane_id())",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32(WORK + lane_id(), 1);
  warp_sync();
  if (lane_id() == 0) discard_line(WORK);
  warp_sync();
  GOOD(stg_u32(WORK + lane_id(), 2);)
  stg_u32(OUT + lane_id(), ldg_u32(WORK + lane_id()));
})",
     {}},
    {"DiscardOfHalfALine",
     "misaligned access",
     "discard_line",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() == 0) discard_line(WORK + 32 BAD(+ 16));
  stg_u32(OUT + lane_id(), 0);
})",
     {}},
    {"RaceOfADiscard",
     "race",
     "discard_line(WORK)",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  stg_u32(WORK + lane_id(), 1);
  const u32 v = ldg_u32(WORK + lane_id());
  GOOD(warp_sync();)
  if (lane_id() == 0) discard_line(WORK);
  stg_u32(OUT + lane_id(), v);
})",
     {}},
    {"RaceBetweenWarps",
     "race",
     "lds_u32(shared_base() + (63 - thread_id()) * 4)",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + thread_id() * 4, 0);
  block_sync();
  sts_u32(shared_base() + thread_id() * 4, thread_id());
  GOOD(block_sync();)
  BAD(warp_sync();)
  const u32 v = lds_u32(shared_base() + (63 - thread_id()) * 4);
  stg_u32(OUT + thread_id(), v);
})",
     {.threads = 64, .shared_bytes = 256}},
    {"RaceWithinAWarp",
     "race",
     "lds_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u32(shared_base() + lane_id() * 4, lane_id());
  GOOD(warp_sync();)
  BAD(warp_ballot(true);)
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + (31 - lane_id()) * 4));
})",
     {.shared_bytes = 128}},
    {"RaceWriteAfterRead",
     "race",
     "sts_u32(shared_base(), 2)",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) sts_u32(shared_base(), 1);
  block_sync();
  const u32 v = lds_u32(shared_base());
  GOOD(block_sync();)
  if (thread_id() == 0) sts_u32(shared_base(), 2);
  stg_u32(OUT + thread_id(), v);
})",
     {.threads = 64, .shared_bytes = 16}},
    {"RaceOfHalfWords",
     "race",
     "sts_u16",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  sts_u16(shared_base() + (thread_id() GOOD(* 2) BAD(/ 2 * 2)), 1);
  stg_u32(OUT + thread_id(), 0);
})",
     {.threads = 64, .shared_bytes = 128}},
    {"RaceOnAtomicResult",
     "race",
     "lds_u32",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) sts_u32(shared_base(), 0);
  block_sync();
  atomic_add_shared(shared_base(), 1);
  GOOD(block_sync();)
  stg_u32(OUT + thread_id(), lds_u32(shared_base()));
})",
     {.threads = 64, .shared_bytes = 16}},
    {"RaceBetweenBlocks",
     "race",
     "stg_u32(OUT + block_id()",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() == 0) stg_u32(OUT + block_id() BAD(/ 2), 1);
})",
     {.blocks = 4}},
    {"FlagWithoutRelease",
     "race",
     "ldg_u32(WORK + 1)",
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
})",
     {.blocks = 2}},
    {"NoWaitForCpAsync",
     "race",
     "meets a cp.async write",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  cp_async16(shared_base() + lane_id() * 16, static_cast<const u8*>(a.x) + lane_id() * 16, true);
  cp_async_commit();
  cp_async_wait<GOOD(0) BAD(1)>();
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + lane_id() * 16));
})",
     {.shared_bytes = 512}},
    {"CpAsyncOfAnotherThread",
     "read of memory that nothing wrote",
     "lds_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  cp_async16(shared_base() + lane_id() * 16, static_cast<const u8*>(a.x) + lane_id() * 16, true);
  cp_async_commit();
  cp_async_wait<0>();
  GOOD(warp_sync();)
  stg_u32(OUT + lane_id(), lds_u32(shared_base() + (31 - lane_id()) * 16));
})",
     {.shared_bytes = 512}},
    {"MissingLane",
     "divergent collective",
     "warp_sync",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  BAD(if (lane_id() == 7) return;)
  warp_sync();
  stg_u32(OUT + lane_id(), 1);
})",
     {}},
    {"LanesInDifferentCalls",
     "divergent collective",
     "shfl_u32",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() < 16 BAD(&& false)) warp_sync();
  else BAD(if (lane_id() < 16) warp_sync(); else) GOOD(warp_sync();) BAD(shfl_u32(1, 0);)
  stg_u32(OUT + lane_id(), 1);
})",
     {}},
    {"PartOfAWarpAtABarrier",
     "divergent collective",
     "bar_sync",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() < GOOD(32) BAD(16)) bar_sync(1, GOOD(64) BAD(32));
  stg_u32(OUT + thread_id(), 1);
})",
     {.threads = 64}},
    {"Deadlock",
     "deadlock",
     "named barrier 1: 32 of 64",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  bar_sync(1, 64);
  BAD(if (warp_id() == 1)) bar_sync(1, 64);
  stg_u32(OUT + thread_id(), 1);
})",
     {.threads = 64}},
    {"PollingForever",
     "deadlock",
     "polling global memory",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (lane_id() == 0) {
    stg_u32(WORK, 0 GOOD(+ 1));
    while (ld_acquire(WORK) == 0) {}
  }
  stg_u32(OUT + lane_id(), 1);
})",
     {}},
    {"MoreBlocksThanFit",
     "deadlock",
     "blocks have not started",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) stg_u32(WORK, 0);
}
MOEJIT_KERNEL(k1, 1024, 1)(MOEJIT_PARAM MoeArgs a) {  // two blocks of a unit, eight in all
  if (thread_id() == 0) {
    atomic_add_acq_rel(WORK, 1);
    while (ld_acquire(WORK) < block_count() GOOD(- 12)) {}
    stg_u32(OUT + block_id(), 1);
  }
})",
     {.blocks = 20, .threads = 1024}},
    {"BarrierCountsDisagree",
     "barrier misuse",
     "bar_sync(1,",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  bar_sync(1, BAD(warp_id() == 0 ? 32 * 2 : 32) GOOD(64));
  stg_u32(OUT + thread_id(), 1);
})",
     {.threads = 64}},
    {"BarrierOfTwoPairsOfWarps",
     "barrier misuse",
     "other warps met at it before",
     R"(MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs a) {
  bar_sync(BAD(1) GOOD(1 + warp_id() / 2), 64);
  stg_u32(OUT + thread_id(), 1);
})",
     {.threads = 128}},
    {"BarrierPassedOnUnordered",
     "barrier misuse",
     "other warps met at it before",
     R"(MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs a) {
  if (warp_id() < 2) bar_sync(1, 64);
  GOOD(block_sync();)
  if (warp_id() >= 2) bar_sync(1, 64);
  stg_u32(OUT + thread_id(), 1);
})",
     {.threads = 128}},
    {"UncoveredOutput",
     "uncovered output",
     "byte 124 of the 128 of out",
     R"(extern "C" __attribute__((visibility("default"))) long long moejit_sim_extent(int which, long long, int) {
  return which == 9 ? 128 : which == 0 ? 4096 : -1;
}
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  BAD(if (lane_id() < 31)) stg_u32(OUT + lane_id(), 1);
})",
     {}},
    {"OrderOfAtomics",
     "result depends on timing",
     "differs between early and late",
     R"(MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) sts_u32(shared_base(), 0);
  block_sync();
  const u32 place = atomic_add_shared(shared_base(), 1);
  stg_u32(OUT + GOOD(thread_id()) BAD(place), thread_id());
})",
     {.threads = 64, .shared_bytes = 16}},
    {"StackTooDeep",
     "stack overflow",
     "local memory",
     R"(MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  volatile u8 big[GOOD(1000) BAD(131072 - 512)];
  for (u32 i = 0; i < sizeof big; ++i) big[i] = 1;
  stg_u32(OUT + lane_id(), big[5]);
})",
     {}},
};

class SimFinding : public ::testing::TestWithParam<Case> {};

TEST_P(SimFinding, IsReported) {
  expect_reported(GetParam());
}

TEST_P(SimFinding, RepairedKernelPasses) {
  expect_passes(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Kinds, SimFinding, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit::internal::test
