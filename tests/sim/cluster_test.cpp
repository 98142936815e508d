// Tensor copies that a cluster shares: what they do, and what the simulator says of kernels that
// get them wrong.
#include "tests/sim/finding_case.h"

namespace moejit::internal::test {
namespace {

// Two blocks bring half of a tile each and send it to both, `kRounds` times through one slot.
// What REMOVED(n, x) holds is left out when BREAK is n.
constexpr const char* kBody = R"(
#define REMOVED(n, ...) KEEP_##n(__VA_ARGS__)
MOEJIT_KERNEL_MAPS(k0, 64, 1)(MOEJIT_PARAM MoeArgs a, MOEJIT_PARAM TensorMaps maps) {
  const u32 tile = (shared_base() + 1023u) & ~1023u, full = tile + 2048, empty = full + 8;
  if (thread_id() == 0) {
    mbar_init(full, 1);
    mbar_init(empty, ARRIVALS);
    fence_mbar_init();
  }
  START_SYNC();
  if (warp_id() == 0) {
    for (u32 i = 0; i < 3 && lane_id() == 0; ++i) {
      REMOVED(1, mbar_wait(empty, i % 2 ^ 1u);)
      mbar_arrive_expect_tx(full, 2048);
      const u32 half = cluster_rank();
      tma_load_3d_multicast(tile + half * 1024, &maps.map[0], 0, static_cast<i32>(i * 16 + half * 8),
                            0, full, 3, policy_evict_first());
    }
  } else {
    for (u32 i = 0; i < 3; ++i) {
      mbar_wait(full, i % 2);
      for (u32 word = lane_id(); word < 512; word += 32) {
        stg_u32(static_cast<u32*>(a.out) + (block_id() * 3 + i) * 512 + word, lds_u32(tile + word * 4));
      }
      warp_sync();
      if (lane_id() < 2) { ARRIVE }
    }
  }
  REMOVED(2, cluster_sync();)
}
)";

struct ClusterCase {
  const char* name;
  const char* defines;  // replace those of the right kernel
  const char* kind;     // of the finding, or null
  const char* at;
};

void PrintTo(const ClusterCase& c, std::ostream* out) {
  *out << c.name;
}

class SimCluster : public ::testing::TestWithParam<ClusterCase> {};

TEST_P(SimCluster, Multicast) {
  const ClusterCase& c = GetParam();
  if (c.kind != nullptr && settings().sim_checks == "fast") GTEST_SKIP() << "sim_checks is fast";
  const Device* device = sim_device("sm_90a");
  constexpr int kRows = 48;
  Buffer<uint16_t> in(device, 64 * kRows);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint16_t>(i + 1);
  Buffer<uint32_t> out(device, 2 * 3 * 512);
  MoeArgs args{};
  args.w13 = in.data();
  args.out = out.data();
  const std::string right =
      "#define KEEP_1(...) __VA_ARGS__\n#define KEEP_2(...) __VA_ARGS__\n"
      "#define START_SYNC cluster_sync\n#define ARRIVALS 2\n"
      "#define ARRIVE mbar_arrive_cluster(empty, lane_id());\n";
  KernelSource source =
      sim_source("sm_90a", right + c.defines + kBody,
                 {{.blocks = 2, .threads = 64, .shared_bytes = 3200, .cluster = 2}});
  source.entries[0].tensor_maps = true;
  source.tensor_maps.push_back({.base = TensorMapSpec::Base::kW13,
                                .element_bytes = 2,
                                .dims = {64, kRows, 1},
                                .box = {64, 8, 1}});
  const Status status = run_sim(source, args);
  if (c.kind != nullptr) {
    EXPECT_EQ(status.code(), StatusCode::kVerificationFailed) << status.to_string();
    EXPECT_THAT(status.message(), ::testing::HasSubstr(c.kind)) << status.log();
    EXPECT_THAT(status.to_string() + status.log(), ::testing::HasSubstr(c.at));
    return;
  }
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t block = 0; block < 2; ++block) {
    for (uint32_t row = 0; row < kRows; ++row) {
      for (uint32_t chunk = 0; chunk < 8; ++chunk) {  // of 16 bytes, swizzled within 8 rows
        const uint32_t word = out[block * 1536 + row * 32 + (chunk ^ (row % 8)) * 4];
        ASSERT_EQ(word & 0xffff, row * 64 + chunk * 8 + 1) << block << " " << row << " " << chunk;
      }
    }
  }
}

const ClusterCase kCases[] = {
    {"Right", "", nullptr, ""},
    // The other block may not have made its barrier yet.
    {"StartOfOneBlockOnly", "#undef START_SYNC\n#define START_SYNC block_sync\n", "",
     "tma_load_3d_multicast"},
    // Only the own consumers say that they are done.
    {"ReleaseOfOneBlockOnly",
     "#undef ARRIVE\n#undef ARRIVALS\n#define ARRIVALS 1\n"
     "#define ARRIVE if (lane_id() == 0) mbar_arrive(empty);\n",
     "race", "tma_load_3d_multicast"},
    {"NoRelease", "#undef KEEP_1\n#define KEEP_1(...)\n", "barrier misuse",
     "mbar_arrive_expect_tx"},
    {"EndsBeforeTheOther", "#undef KEEP_2\n#define KEEP_2(...)\n", "",
     "of the cluster, which has ended"},
    {"NoSuchBlock", "#undef ARRIVE\n#define ARRIVE mbar_arrive_cluster(empty, lane_id() * 2);\n",
     "out-of-bounds access", "rank 2 of a cluster of 2"},
};

INSTANTIATE_TEST_SUITE_P(Kinds, SimCluster, ::testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace moejit::internal::test
