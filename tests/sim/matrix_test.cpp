// Tensor-core primitives against the fragment layouts of the PTX ISA, written out as formulas, and
// against plain products. Inputs are small integers, so every sum is exact.
#include <random>

#include "tests/sim/sim_kernel.h"

namespace moejit::internal::test {
namespace {

uint16_t bf16(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return static_cast<uint16_t>(bits >> 16);  // exact for small integers
}

float small(std::mt19937& random) {
  return static_cast<float>(static_cast<int>(random() % 9) - 4);
}

// PTX ISA 9.7.14.5.15: thread l of matrix m holds row l/4, columns 2 (l%4) and the next; with
// .trans rows and columns swap.
TEST(SimMatrix, LdmatrixLayout) {
  const Device* device = sim_device("sm_80");
  Buffer<uint32_t> out(device, 32 * 12);
  MoeArgs args{};
  args.out = out.data();
  const Status status = run_sim("sm_80", R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 t = thread_id();
  const u32 base = shared_base();
  for (u32 i = 0; i < 8; ++i) sts_u16(base + (t * 8 + i) * 2, static_cast<u16>(t * 8 + i));
  warp_sync();
  u32 r[4], s[4], p[2], q[2];
  ldmatrix_x4(r, base + t * 16);
  ldmatrix_x4_trans(s, base + t * 16);
  ldmatrix_x2(p, base + (t % 16) * 16);
  ldmatrix_x2_trans(q, base + (t % 16) * 16);
  u32* out = static_cast<u32*>(a.out) + t * 12;
  for (int i = 0; i < 4; ++i) { stg_u32(out + i, r[i]); stg_u32(out + 4 + i, s[i]); }
  for (int i = 0; i < 2; ++i) { stg_u32(out + 8 + i, p[i]); stg_u32(out + 10 + i, q[i]); }
})",
                                {.shared_bytes = 512}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t t = 0; t < 32; ++t) {
    for (uint32_t m = 0; m < 4; ++m) {
      const uint32_t row = t / 4, column = 2 * (t % 4);
      const uint32_t straight = m * 64 + row * 8 + column;
      const uint32_t turned = m * 64 + column * 8 + row;
      const uint32_t x4 = straight | (straight + 1) << 16, x4t = turned | (turned + 8) << 16;
      EXPECT_EQ(out[t * 12 + m], x4);
      EXPECT_EQ(out[t * 12 + 4 + m], x4t);
      if (m < 2) {
        EXPECT_EQ(out[t * 12 + 8 + m], x4);
        EXPECT_EQ(out[t * 12 + 10 + m], x4t);
      }
    }
  }
}

// The inverse: what ldmatrix_x4_trans read, stmatrix_x4_trans puts back.
TEST(SimMatrix, StmatrixTransposed) {
  const Device* device = sim_device("sm_90a");
  Buffer<uint32_t> out(device, 32 * 4);
  MoeArgs args{};
  args.out = out.data();
  const Status status = run_sim("sm_90a", R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs a) {
  const u32 t = thread_id();
  const u32 base = shared_base();
  // Matrix m, row r, column c holds m * 64 + r * 8 + c: 9.7.14.5.16, with rows and columns swapped.
  u32 r[4];
  for (u32 m = 0; m < 4; ++m) {
    const u32 low = m * 64 + t % 4 * 2 * 8 + t / 4;
    r[m] = low | (low + 8) << 16;
  }
  stmatrix_x4_trans(base + (t * 5 % 32) * 16, r);
  warp_sync();
  const u32x4 v = lds_u32x4(base + (t * 5 % 32) * 16);
  stg_u32x4(static_cast<u32*>(a.out) + t * 4, v);
})",
                                {.shared_bytes = 512}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t i = 0; i < 128; ++i) EXPECT_EQ(out[i], (2 * i) | (2 * i + 1) << 16) << i;
}

// PTX ISA 9.7.14.5.8, m16n8k16: groupID g = l/4, c = l%4.
//   A a0,a1 (g, 2c+{0,1})  a2,a3 (g+8, ..)  a4,a5 (g, 2c+8+{0,1})  a6,a7 (g+8, 2c+8+{0,1})
//   B b0,b1 (2c+{0,1}, g)  b2,b3 (2c+8+{0,1}, g)     C c0,c1 (g, 2c+{0,1})  c2,c3 (g+8, ..)
TEST(SimMatrix, MmaHalfTypes) {
  for (const bool is_bf16 : {true, false}) {
    const Device* device = sim_device("sm_80");
    std::mt19937 random(7);
    float a[16][16], b[16][8], c[16][8];
    for (auto& row : a)
      for (float& v : row) v = small(random);
    for (auto& row : b)
      for (float& v : row) v = small(random);
    for (auto& row : c)
      for (float& v : row) v = small(random);
    Buffer<uint32_t> in(device, 32 * 10);
    Buffer<float> out(device, 32 * 4);
    const auto half = [&](float v) {
      if (is_bf16) return bf16(v);
      if (v == 0) return uint16_t{0};
      uint32_t bits;
      std::memcpy(&bits, &v, 4);
      return static_cast<uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112u << 10)));
    };
    const auto pair = [&](float lo, float hi) { return half(lo) | uint32_t{half(hi)} << 16; };
    for (uint32_t l = 0; l < 32; ++l) {
      const uint32_t g = l / 4, k = 2 * (l % 4);
      uint32_t* words = &in[l * 10];
      words[0] = pair(a[g][k], a[g][k + 1]);
      words[1] = pair(a[g + 8][k], a[g + 8][k + 1]);
      words[2] = pair(a[g][k + 8], a[g][k + 9]);
      words[3] = pair(a[g + 8][k + 8], a[g + 8][k + 9]);
      words[4] = pair(b[k][g], b[k + 1][g]);
      words[5] = pair(b[k + 8][g], b[k + 9][g]);
      const float d[4] = {c[g][k], c[g][k + 1], c[g + 8][k], c[g + 8][k + 1]};
      std::memcpy(words + 6, d, 16);
    }
    MoeArgs args{};
    args.x = in.data();
    args.out = out.data();
    const std::string name = is_bf16 ? "mma_bf16" : "mma_f16";
    const Status status = run_sim("sm_80", R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs p) {
  const u32* in = static_cast<const u32*>(p.x) + thread_id() * 10;
  u32 a[4], b[2];
  f32 d[4];
  for (int i = 0; i < 4; ++i) { a[i] = ldg_u32(in + i); d[i] = ldg_f32(in + 6 + i); }
  for (int i = 0; i < 2; ++i) b[i] = ldg_u32(in + 4 + i);
  )" + name + R"((d, a, b);
  for (int i = 0; i < 4; ++i) stg_f32(static_cast<f32*>(p.out) + thread_id() * 4 + i, d[i]);
})",
                                  {}, args);
    ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
    for (uint32_t l = 0; l < 32; ++l) {
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
        float want = c[row][column];
        for (int k = 0; k < 16; ++k) want += a[row][k] * b[k][column];
        EXPECT_EQ(out[l * 4 + i], want) << name << " lane " << l << " element " << i;
      }
    }
  }
}

// m16n8k8 tf32: A a0 (g, c)  a1 (g+8, c)  a2 (g, c+4)  a3 (g+8, c+4)   B b0 (c, g)  b1 (c+4, g).
TEST(SimMatrix, MmaTf32IgnoresTheLowBits) {
  const Device* device = sim_device("sm_80");
  std::mt19937 random(9);
  float a[16][8], b[8][8];
  for (auto& row : a)
    for (float& v : row) v = small(random);
  for (auto& row : b)
    for (float& v : row) v = small(random);
  Buffer<uint32_t> in(device, 32 * 6);
  Buffer<float> out(device, 32 * 4);
  const auto dirty = [](float v) {
    uint32_t bits;
    std::memcpy(&bits, &v, 4);
    return bits | 0x1fffu;
  };
  for (uint32_t l = 0; l < 32; ++l) {
    const uint32_t g = l / 4, c = l % 4;
    const uint32_t words[6] = {dirty(a[g][c]),         dirty(a[g + 8][c]), dirty(a[g][c + 4]),
                               dirty(a[g + 8][c + 4]), dirty(b[c][g]),     dirty(b[c + 4][g])};
    std::memcpy(&in[l * 6], words, sizeof words);
  }
  MoeArgs args{};
  args.x = in.data();
  args.out = out.data();
  const Status status = run_sim("sm_80", R"(
MOEJIT_KERNEL(k0, 32, 1)(MOEJIT_PARAM MoeArgs p) {
  const u32* in = static_cast<const u32*>(p.x) + thread_id() * 6;
  u32 a[4], b[2];
  f32 d[4] = {1, 2, 3, 4};
  for (int i = 0; i < 4; ++i) a[i] = ldg_u32(in + i);
  for (int i = 0; i < 2; ++i) b[i] = ldg_u32(in + 4 + i);
  mma_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) stg_f32(static_cast<f32*>(p.out) + thread_id() * 4 + i, d[i]);
})",
                                {}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t l = 0; l < 32; ++l) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
      float want = static_cast<float>(i + 1);
      for (int k = 0; k < 8; ++k) want += a[row][k] * b[k][column];
      EXPECT_EQ(out[l * 4 + i], want);
    }
  }
}

// PTX ISA 9.7.15: 64 x N x 64 through 128B-swizzled operands, B as given (K-major) or transposed
// (MN-major), with two groups in flight. Shared memory is filled by ordinary stores that apply the
// swizzle themselves: chunk index XOR row % 8.
TEST(SimMatrix, WgmmaSwizzled128) {
  for (const bool transposed : {false, true}) {
    constexpr int kN = 64;
    const Device* device = sim_device("sm_90a");
    std::mt19937 random(11);
    Buffer<uint16_t> a(device, 64 * 64), b(device, kN * 64);
    std::vector<float> af(64 * 64), bf(kN * 64);  // b[n][k]
    for (size_t i = 0; i < af.size(); ++i) a[i] = bf16(af[i] = small(random));
    for (size_t n = 0; n < kN; ++n) {
      for (size_t k = 0; k < 64; ++k) {
        const float v = small(random);
        bf[n * 64 + k] = v;
        b[transposed ? k * kN + n : n * 64 + k] = bf16(v);
      }
    }
    Buffer<float> out(device, 128 * 32);
    MoeArgs args{};
    args.x = a.data();
    args.w13 = b.data();
    args.out = out.data();
    const Status status =
        run_sim("sm_90a", std::string("constexpr int kT = ") + (transposed ? "1" : "0") + R"(;
MOEJIT_DEVICE void fill(u32 to, const void* from) {  // 64 rows of 128 bytes
  for (u32 i = thread_id(); i < 512; i += 128) {
    const u32 row = i / 8, chunk = i % 8;
    sts_u32x4(to + row * 128 + ((chunk ^ (row % 8)) << 4), ldg_u32x4(static_cast<const u8*>(from) + i * 16));
  }
}
MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs p) {
  const u32 base = (shared_base() + 1023u) & ~1023u;
  fill(base, p.x);
  fill(base + 8192, p.w13);
  fence_proxy_async();
  block_sync();
  const u64 high = static_cast<u64>(64) << 32 | static_cast<u64>(1) << 62;
  const u64 da = high | 1u << 16 | base >> 4;
  const u64 db = high | static_cast<u64>(kT ? 512 : 1) << 16 | (base + 8192) >> 4;
  f32 acc[32];
  wgmma_hold(acc);
  for (int j = 0; j < 4; ++j) {
    wgmma_fence();
    wgmma_bf16<64, kT>(acc, da + j * 2, db + j * (kT ? 128 : 2), j > 0);
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  wgmma_hold(acc);
  for (int i = 0; i < 32; ++i) stg_f32(static_cast<f32*>(p.out) + thread_id() * 32 + i, acc[i]);
})",
                {.threads = 128, .shared_bytes = 17408}, args);
    ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
    for (uint32_t t = 0; t < 128; ++t) {
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2);
        const uint32_t column = 8 * (i / 4) + 2 * (t % 4) + i % 2;
        float want = 0;
        for (uint32_t k = 0; k < 64; ++k) want += af[row * 64 + k] * bf[column * 64 + k];
        ASSERT_EQ(out[t * 32 + i], want) << transposed << " thread " << t << " element " << i;
      }
    }
  }
}

// The layout without swizzle: cores of 8 rows x 16 bytes, the leading offset between cores along K,
// the stride offset between groups of 8 rows.
TEST(SimMatrix, WgmmaWithoutSwizzle) {
  const Device* device = sim_device("sm_90a");
  std::mt19937 random(13);
  Buffer<uint16_t> a(device, 64 * 16), b(device, 8 * 16);
  std::vector<float> af(64 * 16), bf(8 * 16);
  for (size_t i = 0; i < af.size(); ++i) a[i] = bf16(af[i] = small(random));
  for (size_t i = 0; i < bf.size(); ++i) b[i] = bf16(bf[i] = small(random));
  Buffer<float> out(device, 128 * 4);
  MoeArgs args{};
  args.x = a.data();
  args.w13 = b.data();
  args.out = out.data();
  const Status status = run_sim("sm_90a", R"(
MOEJIT_KERNEL(k0, 128, 1)(MOEJIT_PARAM MoeArgs p) {
  const u32 base = (shared_base() + 127u) & ~127u;
  const u32 t = thread_id();
  // A: groups of 8 rows 256 apart, the two cores of a group 128 apart.
  sts_u32x4(base + (t / 2 / 8) * 256 + (t % 2) * 128 + (t / 2 % 8) * 16, ldg_u32x4(static_cast<const u8*>(p.x) + t * 16));
  if (t < 16) sts_u32x4(base + 2048 + (t % 2) * 128 + (t / 2) * 16, ldg_u32x4(static_cast<const u8*>(p.w13) + t * 16));
  fence_proxy_async();
  block_sync();
  const u64 high = static_cast<u64>(16) << 32 | 8u << 16;
  f32 acc[4];
  wgmma_fence();
  wgmma_bf16<8, 0>(acc, high | base >> 4, high | (base + 2048) >> 4, false);
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < 4; ++i) stg_f32(static_cast<f32*>(p.out) + t * 4 + i, acc[i]);
})",
                                {.threads = 128, .shared_bytes = 2048 + 256 + 128}, args);
  ASSERT_TRUE(status.ok()) << status.to_string() << status.log();
  for (uint32_t t = 0; t < 128; ++t) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2), column = 2 * (t % 4) + i % 2;
      float want = 0;
      for (uint32_t k = 0; k < 16; ++k) want += af[row * 16 + k] * bf[column * 16 + k];
      ASSERT_EQ(out[t * 4 + i], want);
    }
  }
}

}  // namespace
}  // namespace moejit::internal::test
