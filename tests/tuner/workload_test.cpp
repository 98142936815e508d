#include "tuner/workload.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/small_float.h"
#include "tests/tuner/host_device.h"

namespace moejit_test {
namespace {

MoeConfig layer() {
  return {.num_experts = 4, .top_k = 2, .hidden_size = 32, .intermediate_size = 24};
}

double element(const PatternTensor& tensor, int64_t row, int64_t col) {
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(tensor.device.get()) + (row * tensor.cols + col) * 2,
              2);
  return bf16_to_float(bits);
}

TEST(Workload, DeviceBytesAreWhatTheHostComputes) {
  HostDevice device;
  const auto weights = Weights::make(layer(), device, 0);
  ASSERT_TRUE(weights.ok());
  const PatternTensor& w13 = (*weights)->w13();
  ASSERT_EQ(w13.rows, 4 * 48);
  ASSERT_EQ(w13.cols, 32);
  for (int64_t row = 0; row < w13.rows; ++row) {
    for (int64_t col = 0; col < w13.cols; ++col) {
      ASSERT_EQ(element(w13, row, col), w13.at(row, col)) << row << "," << col;
    }
  }
  EXPECT_NE(w13.at(0, 0), w13.at(1, 0));
}

// The same logical element under every layout: gate(e,i,h) must be read from where config.h says.
TEST(Workload, LayoutFlagsMoveGateAndUp) {
  HostDevice device;
  for (const bool transposed : {false, true}) {
    for (const bool interleaved : {false, true}) {
      for (const bool up_first : {false, true}) {
        MoeConfig config = layer();
        config.transposed = transposed;
        config.interleaved = interleaved;
        config.up_first = up_first;
        const auto made = Weights::make(config, device, 0);
        ASSERT_TRUE(made.ok());
        const Weights& w = **made;
        const int64_t e = 2, i = 5, h = 7;
        const int64_t gate_index = interleaved ? 2 * i + up_first : i + (up_first ? 24 : 0);
        const int64_t up_index = interleaved ? 2 * i + !up_first : i + (up_first ? 0 : 24);
        const auto at = [&](int64_t n) {
          return transposed ? element(w.w13(), e * 32 + h, n) : element(w.w13(), e * 48 + n, h);
        };
        EXPECT_EQ(w.gate(e, i, h), at(gate_index));
        EXPECT_EQ(w.up(e, i, h), at(up_index));
        EXPECT_EQ(w.down(e, h, i),
                  transposed ? element(w.w2(), e * 24 + i, h) : element(w.w2(), e * 32 + h, i));
      }
    }
  }
}

TEST(Workload, CopiesFillTheAskedBytesAndLaunchesRotate) {
  HostDevice device;
  const int64_t layer_bytes = 4 * (48 * 32 + 32 * 24) * 2;
  const auto weights = Weights::make(layer(), device, 3 * layer_bytes);
  ASSERT_TRUE(weights.ok());
  EXPECT_EQ((*weights)->copies(), 3);
  const auto load = Workload::make(*weights, device, RoutingSpec{}, 6, 4, 1);
  ASSERT_TRUE(load.ok());
  EXPECT_NE((*load)->args(0).w13, (*load)->args(1).w13);
  EXPECT_EQ((*load)->args(0).w13, (*load)->args(3).w13);
  EXPECT_NE((*load)->args(0).topk_ids, (*load)->args(1).topk_ids);
}

TEST(Workload, LayerLargerThanTheDeviceIsRefusedWithSizes) {
  HostDevice device;
  device.mutable_info().memory_bytes = 1000;
  const auto weights = Weights::make(layer(), device, 0);
  ASSERT_FALSE(weights.ok());
  EXPECT_EQ(weights.status().code(), StatusCode::kOutOfMemory);
  EXPECT_NE(weights.status().message().find("--tp"), std::string::npos);
}

TEST(Workload, ZeroTokensMakeAnEmptyLoad) {
  HostDevice device;
  const auto weights = Weights::make(layer(), device, 0);
  ASSERT_TRUE(weights.ok());
  const auto load = Workload::make(*weights, device, RoutingSpec{}, 0, 1, 1);
  ASSERT_TRUE(load.ok());
  EXPECT_EQ((*load)->out_bytes(), 0);
}

}  // namespace
}  // namespace moejit_test
