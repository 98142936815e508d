// RDNA 3's matrix products on the simulator: against their definition, and misuse.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "backends/backend.h"
#include "generator/template_store.h"

namespace moejit::internal {
namespace {

constexpr int kLanes = 32, kSide = 16, kWords = 8;

bool available() {
  std::string why;
  return !sim_backend()->devices(&why).empty();
}

template <typename T>
std::shared_ptr<T> device_array(size_t count) {
  const auto device = sim_backend()->open("gfx1100");
  return std::static_pointer_cast<T>(*(*device)->allocate(count * sizeof(T)));
}

Status run(const std::string& body, const void* in, void* out) {
  const auto device = sim_backend()->open("gfx1100");
  KernelSource source;
  source.name = "test.cc";
  source.arch = "gfx1100";
  source.language = "sim";
  source.text = "#define MOEJIT_OWN_MATH 1\n" + expand_templates({"abi.h", "device/sim/gfx11.h"}) +
                "using namespace dev;\nusing moejit_abi::MoeArgs;\n"
                "MOEJIT_KERNEL(k0, 32, 1)(MoeArgs a) {\n  const u32 lane = wave_lane();\n" +
                body + "}\n";
  Entry entry;
  entry.name = "k0";
  entry.threads = kLanes;
  entry.shared_bytes = 1024;
  source.entries.push_back(entry);
  const auto binary = (*device)->compile(source);
  if (!binary.ok())
    return {binary.status().code(), binary.status().message() + "\n" + binary.status().log()};
  const auto module = (*device)->load(*binary, source);
  if (!module.ok()) return module.status();
  MoeArgs args{};
  args.x = in;
  args.out = out;
  args.num_tokens = 1;
  return (*module)->launch(args, nullptr);
}

// A lane's eight words of both operands lie at in + lane * 16.
std::string product(const char* name) {
  return "  const u32* in = static_cast<const u32*>(a.x) + lane * 16;\n"
         "  facc8 d;\n  for (int i = 0; i < 8; ++i) d[i] = 1.0f;\n  " +
         std::string(name) +
         "(d, ldg_u32x4(in), ldg_u32x4(in + 4), ldg_u32x4(in + 8), ldg_u32x4(in + 12));\n"
         "  for (int i = 0; i < 8; ++i) stg_f32(static_cast<f32*>(a.out) + lane * 8 + i, d[i]);\n";
}

uint16_t half_bits(bool bf16, float v) {
  if (!bf16) {  // small integers alone
    const auto f = static_cast<_Float16>(v);
    uint16_t bits;
    std::memcpy(&bits, &f, 2);
    return bits;
  }
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return static_cast<uint16_t>(bits >> 16);
}

struct Kind {
  const char* name;
  int depth;
  bool bf16;
};

class Wmma : public testing::TestWithParam<Kind> {
 protected:
  // Small integers, so that every sum is exact.
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "no compiler module";
    in_ = device_array<uint32_t>(kLanes * 16);
    out_ = device_array<float>(kLanes * 8);
    std::mt19937 random(11);
    for (auto* m : {&a_, &b_}) {
      m->resize(static_cast<size_t>(kSide * GetParam().depth));
      for (float& v : *m) v = static_cast<float>(static_cast<int>(random() % 17) - 8);
    }
    // Lane l has row (column of B) l % 16 whole, in both halves.
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int which = 0; which < 2; ++which) {
        for (int k = 0; k < GetParam().depth; ++k) {
          const auto& m = which == 0 ? a_ : b_;
          const float v = m[static_cast<size_t>(lane % kSide * GetParam().depth + k)];
          auto* bytes = reinterpret_cast<char*>(in_.get() + lane * 16 + which * kWords);
          if (GetParam().depth == 8) {
            std::memcpy(bytes + k * 4, &v, 4);
          } else {
            const uint16_t bits = half_bits(GetParam().bf16, v);
            std::memcpy(bytes + k * 2, &bits, 2);
          }
        }
      }
    }
  }
  std::vector<float> a_, b_;
  std::shared_ptr<uint32_t> in_;
  std::shared_ptr<float> out_;
};

TEST_P(Wmma, IsTheProductOfItsDefinition) {
  const Status status = run(product(GetParam().name), in_.get(), out_.get());
  ASSERT_TRUE(status.ok()) << status.to_string() << "\n" << status.log();
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 8; ++i) {
      // As the ISA document draws it: even rows in the lower half of the wave, odd ones above.
      const int row = 2 * i + lane / kSide, column = lane % kSide, depth = GetParam().depth;
      float sum = 1;
      for (int k = 0; k < depth; ++k)
        sum +=
            a_[static_cast<size_t>(row * depth + k)] * b_[static_cast<size_t>(column * depth + k)];
      ASSERT_EQ(out_.get()[lane * 8 + i], sum) << "lane " << lane << " of " << i;
    }
  }
}

// Whatever operand, word and lane: what the hardware takes for granted is checked.
TEST_P(Wmma, HalvesThatDifferAreReported) {
  for (const auto& [lane, word] : {std::pair{16, 0}, std::pair{31, 7}, std::pair{20, 12}}) {
    in_.get()[lane * 16 + word] ^= 0x80u;
    const Status status = run(product(GetParam().name), in_.get(), out_.get());
    in_.get()[lane * 16 + word] ^= 0x80u;
    EXPECT_EQ(status.code(), StatusCode::kVerificationFailed);
    EXPECT_NE(status.log().find("both halves of a wave must hold the same"), std::string::npos)
        << status.message() << "\n"
        << status.log();
  }
}

TEST_P(Wmma, PartOfAWaveIsReported) {
  const Status status =
      run("  if (lane >= 16) return;\n" + product(GetParam().name), in_.get(), out_.get());
  EXPECT_EQ(status.code(), StatusCode::kVerificationFailed);
  EXPECT_NE(status.message().find("divergent collective"), std::string::npos) << status.message();
}

INSTANTIATE_TEST_SUITE_P(Kinds, Wmma,
                         testing::Values(Kind{"wmma16_bf16", 16, true},
                                         Kind{"wmma16_f16", 16, false},
                                         Kind{"wmma16_f32", 8, false}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(WmmaHalves, ChangePlaces) {
  if (!available()) GTEST_SKIP() << "no compiler module";
  const auto out = device_array<uint32_t>(kLanes);
  const Status status = run("  stg_u32(static_cast<u32*>(a.out) + lane, swap_halves(lane * 3));\n",
                            nullptr, out.get());
  ASSERT_TRUE(status.ok()) << status.to_string();
  for (uint32_t lane = 0; lane < 32; ++lane) EXPECT_EQ(out.get()[lane], (lane ^ 16) * 3);
}

}  // namespace
}  // namespace moejit::internal
