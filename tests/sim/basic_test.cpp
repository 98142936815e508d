// Types, memory, warp and block primitives: what they compute.
#include "tests/sim/sim_kernel.h"

namespace moejit::internal::test {
namespace {

class SimBasic : public ::testing::TestWithParam<const char*> {
 protected:
  const Device* device() const { return sim_device(GetParam()); }
};

TEST_P(SimBasic, ThreadsBlocksAndStores) {
  Buffer<uint32_t> out(device(), 3 * 64);
  MoeArgs args{};
  args.out = out.data();
  const Status status = run_sim(GetParam(), R"(
MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  u32* out = static_cast<u32*>(a.out);
  stg_u32(out + block_id() * 64 + thread_id(),
          block_id() * 10000 + block_count() * 1000 + warp_id() * 100 + lane_id());
})",
                                {.blocks = 3, .threads = 64}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t b = 0; b < 3; ++b) {
    for (uint32_t t = 0; t < 64; ++t) {
      EXPECT_EQ(out[b * 64 + t], b * 10000 + 3000 + t / 32 * 100 + t % 32);
    }
  }
}

TEST_P(SimBasic, SharedMemoryThroughABarrier) {
  Buffer<float> out(device(), 256);
  MoeArgs args{};
  args.out = out.data();
  const Status status = run_sim(GetParam(), R"(
MOEJIT_KERNEL(k0, 256, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 t = thread_id();
  sts_f32(shared_base() + t * 4, static_cast<f32>(t));
  block_sync();
  f32 sum = 0;
  for (u32 i = 0; i <= t; ++i) sum += lds_f32(shared_base() + i * 4);
  block_sync();
  sts_f32(shared_base() + (255 - t) * 4, sum);
  block_sync();
  stg_f32(static_cast<f32*>(a.out) + t, lds_f32(shared_base() + t * 4));
})",
                                {.threads = 256, .shared_bytes = 1024}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (int t = 0; t < 256; ++t) {
    const float n = static_cast<float>(255 - t);
    EXPECT_EQ(out[static_cast<size_t>(t)], n * (n + 1) / 2);
  }
}

TEST_P(SimBasic, WarpPrimitives) {
  Buffer<uint32_t> out(device(), 9 * 32);
  MoeArgs args{};
  args.out = out.data();
  const Status status = run_sim(GetParam(), R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 t = thread_id();
  u32* out = static_cast<u32*>(a.out) + t;
  stg_u32(out, shfl_u32(t * 3, 7));
  stg_u32(out + 32, shfl_xor_u32(t * 3, 5));
  stg_u32(out + 64, shfl_up_u32(t * 3, 4));
  stg_u32(out + 96, warp_ballot(t % 3 == 0));
  stg_u32(out + 128, warp_max_u32(t ^ 21u));
  stg_u32(out + 160, warp_min_u32(t + 11u));
  stg_u32(out + 192, warp_add_u32(t));
  stg_u32(out + 224, shfl_u32(t, t + 35));
  stg_f32(out + 256, shfl_xor_f32(static_cast<f32>(t), 31));
})",
                                {}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  uint32_t thirds = 0;
  for (uint32_t t = 0; t < 32; t += 3) thirds |= 1u << t;
  for (uint32_t t = 0; t < 32; ++t) {
    EXPECT_EQ(out[t], 21u);
    EXPECT_EQ(out[32 + t], (t ^ 5u) * 3);
    EXPECT_EQ(out[64 + t], t < 4 ? t * 3 : (t - 4) * 3);
    EXPECT_EQ(out[96 + t], thirds);
    EXPECT_EQ(out[128 + t], 31u);
    EXPECT_EQ(out[160 + t], 11u);
    EXPECT_EQ(out[192 + t], 496u);
    EXPECT_EQ(out[224 + t], (t + 35) % 32);
    float f;
    std::memcpy(&f, &out[256 + t], 4);
    EXPECT_EQ(f, static_cast<float>(31 - t));
  }
}

TEST_P(SimBasic, NamedBarriersProducerConsumer) {
  // Warp 0 fills, warp 1 reads; each waits only for the other.
  Buffer<uint32_t> out(device(), 4 * 32);
  MoeArgs args{};
  args.out = out.data();
  const Status status = run_sim(GetParam(), R"(
MOEJIT_KERNEL(k0, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 slot = shared_base() + lane_id() * 4;
  for (u32 i = 0; i < 4; ++i) {
    if (warp_id() == 0) {
      if (i > 0) bar_sync(2, 64);
      sts_u32(slot, i * 100 + lane_id());
      bar_arrive(1, 64);
    } else {
      bar_sync(1, 64);
      stg_u32(static_cast<u32*>(a.out) + i * 32 + 31 - lane_id(), lds_u32(shared_base() + (31 - lane_id()) * 4));
      if (i < 3) bar_arrive(2, 64);
    }
  }
})",
                                {.threads = 64, .shared_bytes = 128}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t i = 0; i < 128; ++i) EXPECT_EQ(out[i], i / 32 * 100 + i % 32);
}

TEST_P(SimBasic, LastBlockSumsThroughAnAtomicCounter) {
  for (const char* how :
       {"const u32 n = atomic_add_acq_rel(counter, 1);",
        "fence_gpu(); const u32 n = atomic_add_global(counter, 1); fence_gpu();"}) {
    Buffer<uint32_t> out(device(), 1);
    Buffer<uint32_t> workspace(device(), 64);
    MoeArgs args{};
    args.out = out.data();
    args.workspace = workspace.data();
    const KernelSource source = sim_source(GetParam(), std::string(R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) stg_u32(a.workspace, 0);
}
MOEJIT_KERNEL(k1, 64, 1)(MOEJIT_PARAM MoeArgs a) {
  u32* counter = static_cast<u32*>(a.workspace);
  if (thread_id() == 40) stg_u32(counter + 1 + block_id(), block_id() + 1);
  block_sync();
  if (thread_id() == 0) {
    )") + how + R"(
    sts_u32(shared_base(), n == block_count() - 1);
    if (n == block_count() - 1) stg_u32(counter, 0);
  }
  block_sync();
  if (lds_u32(shared_base()) != 0 && thread_id() == 33) {
    u32 sum = 0;
    for (u32 b = 0; b < block_count(); ++b) sum += ldg_u32(counter + 1 + b);
    stg_u32(a.out, sum);
  }
})",
                                           {{}, {.blocks = 20, .threads = 64, .shared_bytes = 16}});
    const Status status = run_sim(source, args);
    ASSERT_TRUE(status.ok()) << how << status.to_string() << status.log();
    EXPECT_EQ(out[0], 210u);
  }
}

TEST_P(SimBasic, BlockWaitsForAnotherBlock) {
  Buffer<uint32_t> out(device(), 1);
  Buffer<uint32_t> workspace(device(), 4);
  MoeArgs args{};
  args.out = out.data();
  args.workspace = workspace.data();
  const KernelSource source = sim_source(GetParam(), R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  if (thread_id() == 0) stg_u32(a.workspace, 0);
}
MOEJIT_KERNEL(k1, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  u32* flag = static_cast<u32*>(a.workspace);
  if (thread_id() != 0) return;
  if (block_id() == 0) {
    while (ld_acquire(flag) == 0) {}
    stg_u32(a.out, ldg_u32(flag + 1));
  } else {
    stg_u32(flag + 1, 77);
    atomic_add_acq_rel(flag, 1);
  }
})",
                                         {{}, {.blocks = 2}});
  const Status status = run_sim(source, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  EXPECT_EQ(out[0], 77u);
}

INSTANTIATE_TEST_SUITE_P(Arch, SimBasic, ::testing::Values("sm_80", "sm_90a"));

TEST(SimDevice, ListsOpensAndRefuses) {
  std::string why;
  const auto devices = sim_backend()->devices(&why);
  ASSERT_EQ(devices.size(), 5u) << why;
  EXPECT_EQ(devices[1].name, "sim:sm_90a");
  EXPECT_EQ(devices[3].name, "sim:gfx942");
  EXPECT_EQ(sim_backend()->open("sm_75").status().code(), StatusCode::kNotFound);
  const Device* device = sim_device("sm_90a");
  KernelSource source =
      sim_source("sm_80", "MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {}", {{}});
  EXPECT_EQ(device->compile(source).status().code(), StatusCode::kUnsupported);
}

TEST(SimDevice, TimeIsTheSameEveryTime) {
  const Device* device = sim_device("sm_90a");
  Buffer<uint32_t> out(device, 4096);
  const std::string body = R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  for (u32 i = thread_id(); i < COUNT; i += 32) stg_u32(static_cast<u32*>(a.out) + i, i);
})";
  std::vector<double> costs;
  for (const char* count : {"1024", "4096"}) {
    const KernelSource source =
        sim_source("sm_90a", std::string("#define COUNT ") + count + body, {{}});
    auto binary = device->compile(source);
    ASSERT_TRUE(binary.ok());
    auto module = device->load(*binary, source);
    ASSERT_TRUE(module.ok());
    MoeArgs args{};
    args.num_tokens = 1;
    args.out = out.data();
    auto seconds = device->time([&](int, Stream s) { return (*module)->launch(args, s); }, 3);
    ASSERT_TRUE(seconds.ok());
    EXPECT_EQ((*seconds)[0], (*seconds)[2]);
    costs.push_back((*seconds)[0]);
  }
  EXPECT_GT(costs[1], costs[0]);
}

}  // namespace
}  // namespace moejit::internal::test
