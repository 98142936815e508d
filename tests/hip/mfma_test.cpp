// The primitives of gfx9 on the simulator: matrix products against their definition, the functions
// made of multiplications against the host's, and misuse.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "backends/backend.h"
#include "generator/template_store.h"

namespace moejit::internal {
namespace {

constexpr int kLanes = 64;

Status run(const std::string& arch, const std::string& body, const void* in, void* out,
           int64_t count, int threads = kLanes) {
  const auto device = sim_backend()->open(arch);
  if (!device.ok()) return device.status();
  KernelSource source;
  source.name = "test.cc";
  source.arch = arch;
  source.language = "sim";
  source.text = std::string("#define MOEJIT_OWN_MATH 1\n#define MOEJIT_FLUSH_HALF ") +
                (arch == "gfx90a" ? "1\n" : "0\n") +
                expand_templates({"abi.h", "device/sim/gfx9.h"}) +
                "using namespace dev;\nusing moejit_abi::MoeArgs;\n" + body;
  Entry entry;
  entry.name = "k0";
  entry.threads = threads;
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
  args.num_tokens = count;
  return (*module)->launch(args, nullptr);
}

bool available() {
  std::string why;
  return !sim_backend()->devices(&why).empty();
}

// Device memory of the simulator is the host's.
template <typename T>
std::shared_ptr<T> device_array(size_t count) {
  const auto device = sim_backend()->open("gfx942");
  auto memory = (*device)->allocate(count * sizeof(T));
  return std::static_pointer_cast<T>(*memory);
}

uint16_t bf16_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return static_cast<uint16_t>(bits >> 16);
}

struct Product {
  const char* name;
  int side;
  int depth;
  bool f32;
};

class Mfma : public testing::TestWithParam<Product> {};

// Rows of A and columns of B of small integers, so that every sum is exact.
TEST_P(Mfma, IsTheProductOfItsDefinition) {
  if (!available()) GTEST_SKIP() << "no compiler module";
  const Product p = GetParam();
  const int each = p.f32 ? 1 : 4, results = p.side * p.side / kLanes;
  std::mt19937 random(7);
  std::vector<float> a(static_cast<size_t>(p.side * p.depth)), b(a.size());
  for (auto* m : {&a, &b}) {
    for (float& v : *m) v = static_cast<float>(static_cast<int>(random() % 17) - 8);
  }
  // Element (row or column, k) of an operand lies in lane k / each * side + row, place k % each.
  const size_t words = kLanes * 2;
  const auto in = device_array<uint32_t>(2 * words);
  std::memset(in.get(), 0, 2 * words * 4);
  for (int which = 0; which < 2; ++which) {
    const std::vector<float>& m = which == 0 ? a : b;
    for (int row = 0; row < p.side; ++row) {
      for (int k = 0; k < p.depth; ++k) {
        const float v = m[static_cast<size_t>(row * p.depth + k)];
        const size_t lane = static_cast<size_t>(k / each * p.side + row);
        auto* bytes = reinterpret_cast<char*>(in.get() + which * words + lane * 2);
        if (p.f32) {
          std::memcpy(bytes, &v, 4);
        } else {
          const uint16_t bits = bf16_of(v);
          std::memcpy(bytes + k % each * 2, &bits, 2);
        }
      }
    }
  }
  const auto out = device_array<float>(static_cast<size_t>(kLanes * results));
  const std::string acc = results == 4 ? "facc4" : "facc16";
  const std::string body =
      "MOEJIT_KERNEL(k0, 64, 1)(MoeArgs a) {\n  const u32 lane = wave_lane();\n"
      "  const u32* in = static_cast<const u32*>(a.x);\n  " +
      acc + " d;\n  for (int i = 0; i < " + std::to_string(results) +
      "; ++i) d[i] = 1.0f;\n  const u32x2 x = ldg_u32x2(in + lane * 2), y = ldg_u32x2(in + 128 + "
      "lane * 2);\n  " +
      p.name + (p.f32 ? "(d, as_f32(x.x), as_f32(y.x));\n" : "(d, x, y);\n") +
      "  for (int i = 0; i < " + std::to_string(results) +
      "; ++i) stg_f32(static_cast<f32*>(a.out) + lane * " + std::to_string(results) +
      " + i, d[i]);\n}\n";
  const Status status = run("gfx942", body, in.get(), out.get(), 1);
  ASSERT_TRUE(status.ok()) << status.to_string() << "\n" << status.log();
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < results; ++i) {
      // As the ISA document draws it: groups of four rows go round the lanes of a column.
      const int column = lane % p.side;
      const int row = i / 4 * (4 * kLanes / p.side) + lane / p.side * 4 + i % 4;
      float sum = 1;
      for (int k = 0; k < p.depth; ++k) {
        sum += a[static_cast<size_t>(row * p.depth + k)] *
               b[static_cast<size_t>(column * p.depth + k)];
      }
      ASSERT_EQ(out.get()[lane * results + i], sum) << p.name << " lane " << lane << " of " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Mfma,
                         testing::Values(Product{"mfma16_bf16", 16, 16, false},
                                         Product{"mfma32_bf16", 32, 8, false},
                                         Product{"mfma16_f32", 16, 4, true},
                                         Product{"mfma32_f32", 32, 2, true}),
                         [](const auto& test) { return std::string(test.param.name); });

// CDNA 2 takes subnormal operands of 16 bits for zero, CDNA 3 does not.
TEST(MfmaSubnormals, AreFlushedOnGfx90aAlone) {
  if (!available()) GTEST_SKIP() << "no compiler module";
  const auto out = device_array<float>(kLanes);
  const std::string body =
      "MOEJIT_KERNEL(k0, 64, 1)(MoeArgs a) {\n  facc4 d = {0.0f, 0.0f, 0.0f, 0.0f};\n"
      "  mfma16_f16(d, {0x00010001u, 0x00010001u}, {0x3c003c00u, 0x3c003c00u});\n"
      "  stg_f32(static_cast<f32*>(a.out) + wave_lane(), d[0]);\n}\n";
  ASSERT_TRUE(run("gfx942", body, nullptr, out.get(), 1).ok());
  EXPECT_EQ(out.get()[5], 16 * 0x1p-24f);
  ASSERT_TRUE(run("gfx90a", body, nullptr, out.get(), 1).ok());
  EXPECT_EQ(out.get()[5], 0.0f);
}

// Half of a wave that is elsewhere.
TEST(MfmaMisuse, PartOfAWaveIsReported) {
  if (!available()) GTEST_SKIP() << "no compiler module";
  const auto out = device_array<float>(kLanes);
  const std::string product =
      "facc4 d = {0.0f, 0.0f, 0.0f, 0.0f};\n  mfma16_f32(d, 1.0f, 1.0f);\n"
      "  stg_f32(static_cast<f32*>(a.out) + wave_lane(), d[0]);\n";
  const Status broken =
      run("gfx942",
          "MOEJIT_KERNEL(k0, 64, 1)(MoeArgs a) {\n  if (thread_id() >= 32) return;\n  " + product +
              "}\n",
          nullptr, out.get(), 1);
  EXPECT_EQ(broken.code(), StatusCode::kVerificationFailed);
  EXPECT_NE(broken.message().find("divergent collective"), std::string::npos) << broken.message();
  const Status repaired =
      run("gfx942", "MOEJIT_KERNEL(k0, 64, 1)(MoeArgs a) {\n  " + product + "}\n", nullptr,
          out.get(), 1);
  EXPECT_TRUE(repaired.ok()) << repaired.to_string();
  const Status narrow = run("gfx942", "MOEJIT_KERNEL(k0, 32, 1)(MoeArgs a) {\n  " + product + "}\n",
                            nullptr, out.get(), 1, 32);
  EXPECT_NE(narrow.message().find("divergent collective"), std::string::npos) << narrow.message();
}

struct Function {
  const char* name;
  double (*exact)(double);
  double from, to;
  double ulp;
};

class OwnMath : public testing::TestWithParam<Function> {};

TEST_P(OwnMath, IsAccurate) {
  if (!available()) GTEST_SKIP() << "no compiler module";
  const Function f = GetParam();
  constexpr int kCount = 1 << 15;
  const auto in = device_array<float>(kCount), out = device_array<float>(kCount);
  for (int i = 0; i < kCount; ++i) {
    in.get()[i] = static_cast<float>(f.from + (f.to - f.from) * i / (kCount - 1));
  }
  const Status status =
      run("gfx942",
          "MOEJIT_KERNEL(k0, 64, 1)(MoeArgs a) {\n  for (u32 i = thread_id(); i < 32768; i += 64)\n"
          "    stg_f32(static_cast<f32*>(a.out) + i, " +
              std::string(f.name) + "(ldg_f32(static_cast<const f32*>(a.x) + i)));\n}\n",
          in.get(), out.get(), 1);
  ASSERT_TRUE(status.ok()) << status.to_string() << "\n" << status.log();
  double worst = 0, at = 0;
  for (int i = 0; i < kCount; ++i) {
    const double exact = f.exact(in.get()[i]);
    const auto magnitude = static_cast<float>(std::fabs(exact));
    const double ulp = std::max<double>(std::nextafter(magnitude, INFINITY) - magnitude, 0x1p-149);
    const double error = std::fabs(out.get()[i] - exact) / ulp;
    if (error > worst) {
      worst = error;
      at = in.get()[i];
    }
  }
  EXPECT_LE(worst, f.ulp) << f.name << " at " << at;
}

INSTANTIATE_TEST_SUITE_P(Functions, OwnMath,
                         testing::Values(Function{"exp_f32", std::exp, -104, 88.7, 3},
                                         Function{"tanh_f32", std::tanh, -12, 12, 4},
                                         Function{"erf_f32", std::erf, -5, 5, 4},
                                         Function{"log1p_f32", std::log1p, 0, 1, 3}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(OwnMathEnds, AreThoseOfTheReals) {
  if (!available()) GTEST_SKIP() << "no compiler module";
  const auto in = device_array<float>(kLanes), out = device_array<float>(kLanes);
  for (int i = 0; i < kLanes; ++i) in.get()[i] = 0;
  in.get()[0] = INFINITY;
  in.get()[1] = -INFINITY;
  in.get()[2] = NAN;
  const auto values = [&](const std::string& name) {
    const Status status =
        run("gfx942",
            "MOEJIT_KERNEL(k0, 64, 1)(MoeArgs a) {\n  stg_f32(static_cast<f32*>(a.out) + "
            "thread_id(), " +
                name + "(ldg_f32(static_cast<const f32*>(a.x) + thread_id())));\n}\n",
            in.get(), out.get(), 1);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return std::vector<float>(out.get(), out.get() + 4);
  };
  const auto exp = values("exp_f32"), tanh = values("tanh_f32"), erf = values("erf_f32");
  EXPECT_EQ(exp[0], INFINITY);
  EXPECT_EQ(exp[1], 0.0f);
  EXPECT_EQ(exp[3], 1.0f);
  EXPECT_EQ(tanh[0], 1.0f);
  EXPECT_EQ(tanh[1], -1.0f);
  EXPECT_EQ(erf[0], 1.0f);
  EXPECT_EQ(erf[1], -1.0f);
  for (const auto* v : {&exp, &tanh, &erf}) EXPECT_TRUE(std::isnan((*v)[2]));
}

}  // namespace
}  // namespace moejit::internal
