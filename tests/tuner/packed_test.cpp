// Packed weights: pack_weights puts every element where pack.h and PackedLayout say, and the
// tuner's packed weights are what it makes of their values.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "generator/packed_layout.h"
#include "moejit/pack.h"
#include "tests/generators/guarded_buffer.h"
#include "tests/generators/small_types.h"
#include "tests/tuner/host_device.h"
#include "tuner/workload.h"

namespace moejit_test {
namespace {

struct Size {
  int32_t h, i;
};

MoeConfig layer(Size size, DType dtype, bool gated = true) {
  return {.num_experts = 2,
          .top_k = 1,
          .hidden_size = size.h,
          .intermediate_size = size.i,
          .dtype = dtype,
          .gated = gated,
          .num_shared_experts = 1};
}

// The layer in every arrangement that plain weights may have.
std::vector<MoeConfig> arrangements(Size size, DType dtype) {
  std::vector<MoeConfig> all;
  for (const int flags : {0, 1, 2, 3, 4, 5, 6, 7, 8, 12}) {
    MoeConfig config = layer(size, dtype, flags < 8);
    config.interleaved = (flags & 1) != 0;
    config.up_first = (flags & 2) != 0;
    config.transposed = (flags & 4) != 0;
    all.push_back(config);
  }
  return all;
}

// Where config.h says that an element of plain weights is.
int64_t plain_w13(const MoeConfig& c, int64_t e, int part, int64_t i, int64_t h) {
  const int64_t half = c.up_first ? 1 - part : part, rows = c.w13_rows();
  const int64_t row = !c.gated ? i : c.interleaved ? 2 * i + half : half * c.intermediate_size + i;
  return c.transposed ? (e * c.hidden_size + h) * rows + row : (e * rows + row) * c.hidden_size + h;
}

int64_t plain_w2(const MoeConfig& c, int64_t e, int64_t h, int64_t i) {
  return c.transposed ? (e * c.intermediate_size + i) * c.hidden_size + h
                      : (e * c.hidden_size + h) * c.intermediate_size + i;
}

int64_t w13_elements(const MoeConfig& c) {
  return c.total_experts() * c.w13_rows() * c.hidden_size;
}

int64_t w2_elements(const MoeConfig& c) {
  return int64_t{c.total_experts()} * c.hidden_size * c.intermediate_size;
}

// Calls body(e, part, i, h) for every element of w13; body(e, h, i) for those of w2.
template <typename Body>
void each_w13(const MoeConfig& c, const Body& body) {
  for (int64_t e = 0; e < c.total_experts(); ++e) {
    for (int part = 0; part < (c.gated ? 2 : 1); ++part) {
      for (int64_t i = 0; i < c.intermediate_size; ++i) {
        for (int64_t h = 0; h < c.hidden_size; ++h) body(e, part, i, h);
      }
    }
  }
}

template <typename Body>
void each_w2(const MoeConfig& c, const Body& body) {
  for (int64_t e = 0; e < c.total_experts(); ++e) {
    for (int64_t h = 0; h < c.hidden_size; ++h) {
      for (int64_t i = 0; i < c.intermediate_size; ++i) body(e, h, i);
    }
  }
}

struct Tensors {
  GuardedBuffer w13, w2;
};

Tensors plain_tensors(const MoeConfig& c) {
  const auto bytes = [&](int64_t n) { return static_cast<size_t>(n * size_of(c.dtype)); };
  return {GuardedBuffer(bytes(w13_elements(c))), GuardedBuffer(bytes(w2_elements(c)))};
}

uint32_t bits(DType dtype, const void* tensor, int64_t element) {
  const int64_t size = size_of(dtype);
  uint32_t value = 0;
  std::memcpy(&value, static_cast<const char*>(tensor) + element * size, static_cast<size_t>(size));
  return value;
}

void set_bits(DType dtype, GuardedBuffer* tensor, int64_t element, uint32_t value) {
  const int64_t size = size_of(dtype);
  std::memcpy(tensor->as<char>() + element * size, &value, static_cast<size_t>(size));
}

int64_t non_zero(DType dtype, const GuardedBuffer& tensor) {
  int64_t count = 0;
  for (int64_t n = 0; n < static_cast<int64_t>(tensor.size()) / size_of(dtype); ++n)
    count += bits(dtype, tensor.data(), n) != 0;
  return count;
}

void expect_rows_are_elements(const Weights& weights) {
  const MoeConfig& c = weights.config();
  const auto size = static_cast<size_t>(std::max(c.hidden_size, c.intermediate_size));
  std::vector<double> row(size);
  each_w13(c, [&](int64_t e, int part, int64_t i, int64_t h) {
    if (h == 0) weights.w13_row(e, part, i, row.data());
    ASSERT_EQ(row[static_cast<size_t>(h)], part == 0 ? weights.gate(e, i, h) : weights.up(e, i, h));
  });
  each_w2(c, [&](int64_t e, int64_t h, int64_t i) {
    if (i == 0) weights.w2_row(e, h, row.data());
    ASSERT_EQ(row[static_cast<size_t>(i)], weights.down(e, h, i));
  });
}

using Form = std::tuple<std::string, DType>;

class Packed : public testing::TestWithParam<Form> {
 protected:
  void SetUp() override {
    if (const auto opened = open_device(cpu()); !opened.ok()) {
      GTEST_SKIP() << opened.status().to_string();
    }
    device_.mutable_info().target.arch = arch();
  }
  const std::string& arch() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  std::string cpu() const { return "cpu:" + arch(); }

  Tensors pack(const MoeConfig& config, const Tensors& plain) const {
    const auto bytes = packed_bytes(config, cpu());
    EXPECT_TRUE(bytes.ok()) << bytes.status().to_string();
    if (!bytes.ok()) return {};
    Tensors packed{GuardedBuffer(static_cast<size_t>(bytes->w13)),
                   GuardedBuffer(static_cast<size_t>(bytes->w2))};
    const Status status = pack_weights(config, plain.w13.data(), plain.w2.data(), packed.w13.data(),
                                       packed.w2.data(), cpu());
    EXPECT_TRUE(status.ok()) << status.to_string();
    EXPECT_TRUE(packed.w13.intact() && packed.w2.intact());
    return packed;
  }

  void expect_weights_are_packed(const MoeConfig& config, int64_t min_bytes) const;

  HostDevice device_;
};

INSTANTIATE_TEST_SUITE_P(All, Packed,
                         testing::Combine(testing::Values("x86-64-v3", "x86-64-v4",
                                                          "x86-64-v4+bf16"),
                                          testing::Values(DType::kBF16, DType::kF32)),
                         [](const auto& test) {
                           std::string name = std::get<0>(test.param);
                           for (char& c : name) c = c == '-' || c == '+' ? '_' : c;
                           return name + "_" + to_string(std::get<1>(test.param));
                         });

// The order of pack.h, written once more; w13 rows are numbered as they lie in a block.
TEST_P(Packed, EveryElementIsWhereTheLayoutSaysAndTheRestIsZero) {
  const int64_t lanes = arch() == "x86-64-v3" ? 8 : 16;
  const int64_t depth = arch() == "x86-64-v4+bf16" && dtype() == DType::kBF16 ? 2 : 1;
  const auto in_block = [&](int64_t row, int64_t k, int64_t length) {
    const int64_t rows = 2 * lanes;
    return row / rows * rows * length + k / depth * rows * depth + row % rows * depth + k % depth;
  };
  for (const Size size : {Size{72, 40}, Size{8, 8}, Size{64, 96}}) {
    for (const MoeConfig& config : arrangements(size, dtype())) {
      SCOPED_TRACE(config.to_json());
      const auto layout = packed_layout(config, device_.info().target);
      ASSERT_TRUE(layout.has_value());
      // Whole blocks, and no more of them than it takes.
      const auto filled = [&](int64_t rows, int64_t block) { return (rows + block - 1) / block; };
      const int64_t w13_blocks = filled(config.intermediate_size, config.gated ? lanes : 2 * lanes);
      ASSERT_EQ(layout->w13_elements(config), w13_blocks * 2 * lanes * config.hidden_size);
      ASSERT_EQ(layout->w2_elements(config),
                filled(config.hidden_size, 2 * lanes) * 2 * lanes * config.intermediate_size);
      Tensors plain = plain_tensors(config);
      for (int64_t n = 0; n < w13_elements(config); ++n)
        set_bits(dtype(), &plain.w13, n, static_cast<uint32_t>(n + 1));
      for (int64_t n = 0; n < w2_elements(config); ++n)
        set_bits(dtype(), &plain.w2, n, static_cast<uint32_t>(n + 1));
      const Tensors packed = pack(config, plain);
      ASSERT_EQ(static_cast<int64_t>(packed.w13.size()),
                config.total_experts() * layout->w13_elements(config) * size_of(dtype()));
      ASSERT_EQ(static_cast<int64_t>(packed.w2.size()),
                config.total_experts() * layout->w2_elements(config) * size_of(dtype()));
      each_w13(config, [&](int64_t e, int part, int64_t i, int64_t h) {
        const int64_t row = config.gated ? i / lanes * 2 * lanes + part * lanes + i % lanes : i;
        const int64_t at = layout->w13_at(config, part, i, h);
        ASSERT_EQ(at, in_block(row, h, config.hidden_size));
        ASSERT_EQ(bits(dtype(), packed.w13.data(), e * layout->w13_elements(config) + at),
                  plain_w13(config, e, part, i, h) + 1)
            << e << "," << part << "," << i << "," << h;
      });
      each_w2(config, [&](int64_t e, int64_t h, int64_t i) {
        const int64_t at = layout->w2_at(config, h, i);
        ASSERT_EQ(at, in_block(h, i, config.intermediate_size));
        ASSERT_EQ(bits(dtype(), packed.w2.data(), e * layout->w2_elements(config) + at),
                  plain_w2(config, e, h, i) + 1)
            << e << "," << h << "," << i;
      });
      EXPECT_EQ(non_zero(dtype(), packed.w13), w13_elements(config));
      EXPECT_EQ(non_zero(dtype(), packed.w2), w2_elements(config));
    }
  }
}

void Packed::expect_weights_are_packed(const MoeConfig& config, int64_t min_bytes) const {
  SCOPED_TRACE(config.to_json());
  MoeConfig as_packed = config;
  as_packed.packed = true;
  const auto made = Weights::make(as_packed, device_, min_bytes);
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  const Weights& w = **made;
  Tensors plain = plain_tensors(config);
  each_w13(config, [&](int64_t e, int part, int64_t i, int64_t h) {
    set_bits(dtype(), &plain.w13, plain_w13(config, e, part, i, h),
             encode(dtype(), part == 0 ? w.gate(e, i, h) : w.up(e, i, h)));
  });
  each_w2(config, [&](int64_t e, int64_t h, int64_t i) {
    set_bits(dtype(), &plain.w2, plain_w2(config, e, h, i), encode(dtype(), w.down(e, h, i)));
  });
  const Tensors packed = pack(config, plain);
  // Rows that are filled up may hold anything; packing ones shows which they are.
  std::memset(plain.w13.data(), 0xFF, plain.w13.size());
  std::memset(plain.w2.data(), 0xFF, plain.w2.size());
  const Tensors real = pack(config, plain);
  const auto expect_same = [&](const PatternTensor& tensor, const GuardedBuffer& want,
                               const GuardedBuffer& mask, int64_t elements) {
    ASSERT_EQ(tensor.bytes(), static_cast<int64_t>(want.size()));
    ASSERT_EQ(non_zero(dtype(), mask), elements);
    for (int64_t n = 0; n < tensor.bytes() / size_of(dtype()); ++n) {
      if (bits(dtype(), mask.data(), n) == 0) continue;
      ASSERT_EQ(bits(dtype(), tensor.device.get(), n), bits(dtype(), want.data(), n)) << n;
    }
  };
  for (int copy = 0; copy < w.copies(); ++copy) {
    expect_same(w.w13(copy), packed.w13, real.w13, w13_elements(config));
    expect_same(w.w2(copy), packed.w2, real.w2, w2_elements(config));
  }
  expect_rows_are_elements(w);
}

TEST_P(Packed, TheTunersWeightsAreThoseOfItsValues) {
  for (const bool gated : {true, false}) {
    // Whole blocks, parts of one or two, and rows whose blocks are longer than a window.
    for (const Size size : {Size{64, 32}, Size{72, 40}, Size{8, 4104}, Size{8200, 8}}) {
      expect_weights_are_packed(layer(size, dtype(), gated), 0);
    }
  }
}

TEST_P(Packed, TheTunersWeightsDoNotDependOnWhatWasPacked) {
  for (const MoeConfig& config : arrangements({40, 24}, dtype())) {
    expect_weights_are_packed(config, 0);
  }
}

TEST_P(Packed, EveryCopyOfTheTunersWeightsIsPacked) {
  const MoeConfig config = layer({72, 40}, dtype());
  const auto bytes = packed_bytes(config, cpu());
  ASSERT_TRUE(bytes.ok());
  MoeConfig as_packed = config;
  as_packed.packed = true;
  const auto made = Weights::make(as_packed, device_, 2 * (bytes->w13 + bytes->w2));
  ASSERT_TRUE(made.ok());
  EXPECT_EQ((*made)->copies(), 2);
  expect_weights_are_packed(config, 2 * (bytes->w13 + bytes->w2));
}

TEST(PlainWeights, RowsAreTheirElementsToo) {
  HostDevice device;
  for (const MoeConfig& config : arrangements({40, 24}, DType::kBF16)) {
    SCOPED_TRACE(config.to_json());
    const auto made = Weights::make(config, device, 0);
    ASSERT_TRUE(made.ok());
    expect_rows_are_elements(**made);
  }
}

}  // namespace
}  // namespace moejit_test
