// Packed weights through the C interface: sizes, what is refused, and a launch that reads them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "moejit/moejit_c.h"
#include "tests/capi/handles.h"
#include "tests/generators/problem.h"

namespace {

using moejit_test::Config;
using moejit_test::config_of;
using moejit_test::GuardedBuffer;
using moejit_test::Kernel;
using moejit_test::make_problem;
using moejit_test::Problem;
using moejit_test::worst_row_error;

// Neither H nor I is whole blocks.
moejit::MoeConfig layer_of(moejit::DType dtype) {
  return {.num_experts = 4,
          .top_k = 2,
          .hidden_size = 72,
          .intermediate_size = 40,
          .dtype = dtype,
          .num_shared_experts = 1};
}

class CApiPack : public testing::TestWithParam<moejit::DType> {
 protected:
  void SetUp() override {
    ASSERT_EQ(moejit_packed_bytes(config_.get(), nullptr, &w13_bytes_, &w2_bytes_), MOEJIT_OK)
        << moejit_last_error();
    packed_w13_ = GuardedBuffer(static_cast<size_t>(w13_bytes_), 16);
    packed_w2_ = GuardedBuffer(static_cast<size_t>(w2_bytes_), 16);
  }
  moejit_status pack(const void* w13, const void* w2, void* packed_w13, void* packed_w2) {
    return moejit_pack_weights(config_.get(), nullptr, w13, w2, packed_w13, packed_w2);
  }
  moejit_status pack() {
    return pack(problem_.w13.data(), problem_.w2.data(), packed_w13_.data(), packed_w2_.data());
  }

  const moejit::MoeConfig layer_ = layer_of(GetParam());
  const Config config_ = config_of(layer_);
  Problem problem_ = make_problem(layer_, {.tokens = 9});
  int64_t w13_bytes_ = -1, w2_bytes_ = -1;
  GuardedBuffer packed_w13_, packed_w2_;
};

INSTANTIATE_TEST_SUITE_P(DTypes, CApiPack,
                         testing::Values(moejit::DType::kF32, moejit::DType::kBF16,
                                         moejit::DType::kF16),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST_P(CApiPack, BytesAreThoseOfTheWeightsFilledUp) {
  const int64_t column = 5 * (GetParam() == moejit::DType::kF32 ? 4 : 2);
  EXPECT_EQ(w13_bytes_ % (column * 72 * 16), 0);
  EXPECT_EQ(w2_bytes_ % (column * 40 * 16), 0);
  const int64_t w13_rows = w13_bytes_ / column / 72, w2_rows = w2_bytes_ / column / 40;
  EXPECT_TRUE(w13_rows >= 80 && w13_rows < 80 + 32) << w13_rows;  // 16 at a time: none to fill
  EXPECT_TRUE(w2_rows > 72 && w2_rows < 72 + 32) << w2_rows;

  moejit::MoeConfig other = layer_;
  other.packed = other.transposed = other.interleaved = other.up_first = true;
  for (const char* device : {"cpu", "auto"}) {
    int64_t w13 = -1, w2 = -1;
    ASSERT_EQ(moejit_packed_bytes(config_of(other).get(), device, &w13, &w2), MOEJIT_OK);
    EXPECT_EQ(w13, w13_bytes_);
    EXPECT_EQ(w2, w2_bytes_);
  }
}

TEST_P(CApiPack, AKernelOfPackedWeightsGivesTheLayer) {
  ASSERT_EQ(pack(), MOEJIT_OK) << moejit_last_error();
  EXPECT_TRUE(packed_w13_.intact() && packed_w2_.intact() && problem_.intact());
  moejit::MoeConfig packed = layer_;
  packed.packed = true;
  static const std::string cache = [] {
    std::string path = testing::TempDir() + "moejit_pack_XXXXXX";
    return std::string(mkdtemp(path.data()));
  }();
  moejit_options options;
  moejit_options_init(&options, sizeof options);
  options.device = "cpu";
  options.max_tokens = 16;
  options.cache_path = cache.c_str();
  moejit_kernel* made = nullptr;
  const moejit_status status = moejit_get_kernel(config_of(packed).get(), &options, &made);
  if (status == MOEJIT_UNAVAILABLE) GTEST_SKIP() << moejit_last_error();
  ASSERT_EQ(status, MOEJIT_OK) << moejit_last_error();
  const Kernel kernel(made);
  EXPECT_NE(strstr(moejit_kernel_config_json(kernel.get()), "\"packed\":true"), nullptr);

  GuardedBuffer workspace(moejit_kernel_workspace_size(kernel.get(), 9), 256);
  moejit_launch_args args{};
  args.struct_size = sizeof args;
  args.num_tokens = 9;
  args.x = problem_.x.data();
  args.w13 = packed_w13_.data();
  args.w2 = packed_w2_.data();
  args.topk_ids = problem_.ids.as<int32_t>();
  args.topk_weights = problem_.weights.as<float>();
  args.out = problem_.out.data();
  args.workspace = workspace.data();
  args.workspace_size = workspace.size();
  ASSERT_EQ(moejit_kernel_launch(kernel.get(), &args, nullptr), MOEJIT_OK) << moejit_last_error();
  EXPECT_LT(worst_row_error(problem_.result(), problem_.expected(), layer_.hidden_size),
            moejit_test::tolerance(layer_.dtype));
  EXPECT_TRUE(problem_.intact() && workspace.intact());

  // The rows that are filled up are weights too.
  args.out = packed_w2_.as<char>() + w2_bytes_ - 64;
  EXPECT_EQ(moejit_kernel_launch(kernel.get(), &args, nullptr), MOEJIT_INVALID_ARGUMENT);
  EXPECT_NE(strstr(moejit_last_error(), "w2"), nullptr) << moejit_last_error();
}

TEST_P(CApiPack, OnePairAlone) {
  ASSERT_EQ(pack(), MOEJIT_OK) << moejit_last_error();
  GuardedBuffer w13(packed_w13_.size(), 16), w2(packed_w2_.size(), 16);
  ASSERT_EQ(pack(problem_.w13.data(), nullptr, w13.data(), nullptr), MOEJIT_OK)
      << moejit_last_error();
  EXPECT_EQ(memcmp(w13.data(), packed_w13_.data(), w13.size()), 0);
  ASSERT_EQ(pack(nullptr, problem_.w2.data(), nullptr, w2.data()), MOEJIT_OK)
      << moejit_last_error();
  EXPECT_EQ(memcmp(w2.data(), packed_w2_.data(), w2.size()), 0);
  EXPECT_TRUE(w13.intact() && w2.intact());
  // Half a pair is none.
  const void* from = problem_.w13.data();
  EXPECT_EQ(pack(from, nullptr, nullptr, nullptr), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(moejit_last_error()).rfind("packed_w13 = null: must point", 0), 0u)
      << moejit_last_error();
  EXPECT_EQ(pack(from, nullptr, w13.data(), w2.data()), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(std::string(moejit_last_error()).rfind("w2 = null: must point", 0), 0u)
      << moejit_last_error();
}

std::string hex(const void* pointer) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", pointer);
  return text;
}

TEST_P(CApiPack, PointersAreChecked) {
  const char* names[] = {"w13", "w2", "packed_w13", "packed_w2"};
  for (size_t which = 0; which < 4; ++which) {
    char* pointers[] = {problem_.w13.as<char>(), problem_.w2.as<char>(), packed_w13_.as<char>(),
                        packed_w2_.as<char>()};
    pointers[which] += 8;
    EXPECT_EQ(pack(pointers[0], pointers[1], pointers[2], pointers[3]), MOEJIT_INVALID_ARGUMENT);
    EXPECT_EQ(moejit_last_error(), names[which] + std::string(" = ") + hex(pointers[which]) +
                                       ": must be aligned to 16 bytes");
  }
  // Of the same address, and by the last 16 bytes at either end.
  char* w13 = problem_.w13.as<char>();
  char* w2 = problem_.w2.as<char>();
  const auto plain_w13 = static_cast<ptrdiff_t>(problem_.w13.size());
  for (const ptrdiff_t at : {ptrdiff_t{0}, plain_w13 - 16, 16 - ptrdiff_t{w13_bytes_}}) {
    EXPECT_EQ(pack(w13, w2, w13 + at, packed_w2_.data()), MOEJIT_INVALID_ARGUMENT) << at;
    EXPECT_EQ(std::string(moejit_last_error())
                  .rfind("packed_w13 = " + hex(w13 + at) + ": must not overlap w", 0),
              0u)
        << moejit_last_error();
  }
  EXPECT_EQ(pack(w13, w2, packed_w13_.data(), w2 + 16), MOEJIT_INVALID_ARGUMENT);
  // It may reach what lies behind, too.
  EXPECT_EQ(std::string(moejit_last_error())
                .rfind("packed_w2 = " + hex(w2 + 16) + ": must not overlap w", 0),
            0u)
      << moejit_last_error();
  // Nor across the pairs.
  EXPECT_EQ(pack(w13, w2, packed_w13_.data(), packed_w13_.data()), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(
      std::string(moejit_last_error())
          .rfind("packed_w13 = " + hex(packed_w13_.data()) + ": must not overlap packed_w2, ", 0),
      0u)
      << moejit_last_error();
  EXPECT_TRUE(problem_.intact());
  // Nothing was written.
  GuardedBuffer untouched(packed_w13_.size(), 16);
  EXPECT_EQ(memcmp(packed_w13_.data(), untouched.data(), untouched.size()), 0);
}

TEST_P(CApiPack, NullIsAnErrorAndNoCrash) {
  int64_t bytes = -1;
  for (const moejit_status status : {moejit_packed_bytes(nullptr, "cpu", &bytes, &bytes),
                                     moejit_packed_bytes(config_.get(), "cpu", nullptr, &bytes),
                                     moejit_packed_bytes(config_.get(), "cpu", &bytes, nullptr),
                                     moejit_pack_weights(nullptr, "cpu", problem_.w13.data(),
                                                         nullptr, packed_w13_.data(), nullptr)}) {
    EXPECT_EQ(status, MOEJIT_INVALID_ARGUMENT);
  }
  EXPECT_STREQ(moejit_last_error(), "config = NULL: must not be");
  EXPECT_EQ(bytes, -1);
}

TEST_P(CApiPack, OtherDevicesAreRefused) {
  int64_t w13 = -1, w2 = -1;
  EXPECT_EQ(moejit_packed_bytes(config_.get(), "abacus:7", &w13, &w2), MOEJIT_NOT_FOUND);
  EXPECT_NE(strstr(moejit_last_error(), "abacus:7"), nullptr) << moejit_last_error();
  EXPECT_EQ(w13, 0);
  EXPECT_EQ(w2, 0);
  EXPECT_EQ(moejit_pack_weights(config_.get(), "abacus:7", problem_.w13.data(), nullptr,
                                packed_w13_.data(), nullptr),
            MOEJIT_NOT_FOUND);
  if (moejit_supports(config_.get(), "sim:sm_90a") == MOEJIT_OK) {
    EXPECT_EQ(moejit_packed_bytes(config_.get(), "sim:sm_90a", &w13, &w2), MOEJIT_UNSUPPORTED);
    EXPECT_NE(strstr(moejit_last_error(), "must be the CPU"), nullptr) << moejit_last_error();
    moejit::MoeConfig packed = layer_;
    packed.packed = true;
    EXPECT_EQ(moejit_supports(config_of(packed).get(), "sim:sm_90a"), MOEJIT_UNSUPPORTED);
    EXPECT_NE(strstr(moejit_last_error(), "packed = true"), nullptr) << moejit_last_error();
  }
}

// A caller whose header ended before `packed`.
TEST(CApiPackConfig, AnOlderDescHasNoPackedWeights) {
  constexpr uint32_t kOld = offsetof(moejit_config_desc, packed);
  moejit_config_desc desc;
  memset(&desc, 0xee, sizeof desc);  // what lies behind the older struct
  moejit_config_desc_init(&desc, kOld);
  EXPECT_EQ(desc.struct_size, kOld);
  EXPECT_EQ(desc.packed, static_cast<int32_t>(0xeeeeeeee));  // not the library's to write
  desc.num_experts = 8;
  desc.top_k = 2;
  desc.hidden_size = 64;
  desc.intermediate_size = 48;
  moejit_config* made = nullptr;
  ASSERT_EQ(moejit_config_create(&desc, &made), MOEJIT_OK) << moejit_last_error();
  const Config config(made);
  moejit_config_desc all{};
  all.struct_size = sizeof all;
  ASSERT_EQ(moejit_config_get(config.get(), &all), MOEJIT_OK) << moejit_last_error();
  EXPECT_EQ(all.packed, 0);
  EXPECT_EQ(all.intermediate_size, 48);
  ASSERT_EQ(moejit_config_get(config.get(), &desc), MOEJIT_OK) << moejit_last_error();
  EXPECT_EQ(desc.struct_size, kOld);
  EXPECT_EQ(desc.packed, static_cast<int32_t>(0xeeeeeeee));
  EXPECT_EQ(desc.router_scaling_factor, 1);
}

TEST(CApiPackConfig, PackedGoesThroughDescAndJson) {
  moejit_config_desc desc;
  moejit_config_desc_init(&desc, sizeof desc);
  EXPECT_EQ(desc.packed, 0);
  desc.num_experts = 8;
  desc.top_k = 2;
  desc.hidden_size = 64;
  desc.intermediate_size = 48;
  desc.packed = 1;
  moejit_config* made = nullptr;
  ASSERT_EQ(moejit_config_create(&desc, &made), MOEJIT_OK) << moejit_last_error();
  const Config config(made);
  ASSERT_EQ(moejit_config_from_json(moejit_config_json(config.get()), &made), MOEJIT_OK);
  const Config read(made);
  for (const moejit_config* one : {config.get(), read.get()}) {
    moejit_config_desc back{};
    back.struct_size = sizeof back;
    ASSERT_EQ(moejit_config_get(one, &back), MOEJIT_OK);
    EXPECT_EQ(memcmp(&back, &desc, sizeof desc), 0);
  }
  ASSERT_EQ(moejit_config_shard(config.get(), 2, &made), MOEJIT_OK);
  EXPECT_NE(strstr(moejit_config_json(Config(made).get()), "\"packed\":true"), nullptr);
  desc.packed = 2;
  EXPECT_EQ(moejit_config_create(&desc, &made), MOEJIT_INVALID_ARGUMENT);
  EXPECT_STREQ(moejit_last_error(), "packed = 2: must be 0 or 1");
}

}  // namespace
