// Tensors to tune and verify with: random values, several gigabytes made quickly, every element
// computable on the host without keeping a copy.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "generator/packed_layout.h"
#include "moejit/config.h"
#include "tuner/routing.h"

namespace moejit::internal {

// About a million random normal values of one dtype and scale. A tensor's row is a window into
// it at an offset that hashes from (tensor, row): filling costs a memcpy, and no two rows of a test
// agree.
class Pattern {
 public:
  Pattern(DType dtype, double scale, uint64_t seed);
  double value(int64_t index) const { return values_[static_cast<size_t>(index)]; }
  const uint8_t* bytes(int64_t index) const {
    return raw_.data() + static_cast<size_t>(index) * element_bytes_;
  }
  static constexpr int64_t kSize = 1 << 20;
  size_t element_bytes() const { return element_bytes_; }

 private:
  size_t element_bytes_;
  std::vector<uint8_t> raw_;
  std::vector<float> values_;  // as rounded to dtype
};

struct PatternTensor {
  std::shared_ptr<const Pattern> pattern;
  uint64_t seed = 0;
  int64_t rows = 0, cols = 0;
  std::shared_ptr<void> device;

  int64_t offset(int64_t row) const;  // of the row's window
  double at(int64_t row, int64_t col) const { return pattern->value(offset(row) + col); }
  double at(int64_t element) const { return at(element / cols, element % cols); }
  int64_t bytes() const { return rows * cols * static_cast<int64_t>(pattern->element_bytes()); }
  // Allocates and writes; kCancelled soon after `stop` says so.
  Status fill(const Device& device, const std::function<bool()>& stop = {});
};

// The layer's weights, in as many copies as it takes to keep a launch from finding its weights in
// the cache (`min_bytes` in total), all with the same values.
class Weights {
 public:
  static Result<std::shared_ptr<const Weights>> make(const MoeConfig& config, const Device& device,
                                                     int64_t min_bytes,
                                                     const std::function<bool()>& stop = {});
  int copies() const { return static_cast<int>(w13_.size()); }
  const PatternTensor& w13(int copy = 0) const { return w13_[static_cast<size_t>(copy)]; }
  const PatternTensor& w2(int copy = 0) const { return w2_[static_cast<size_t>(copy)]; }
  const PatternTensor& b13() const { return b13_; }
  const PatternTensor& b2() const { return b2_; }
  const MoeConfig& config() const { return config_; }

  // w13[e][row][k] and w2[e][n][k] by the meaning of the layout flags; gate and up by I index.
  double gate(int64_t e, int64_t i, int64_t h) const { return w13_[0].at(w13_at(e, 0, i, h)); }
  double up(int64_t e, int64_t i, int64_t h) const { return w13_[0].at(w13_at(e, 1, i, h)); }
  double down(int64_t e, int64_t h, int64_t i) const { return w2_[0].at(w2_at(e, h, i)); }
  // The same of one row at once: gate or, with part 1, up i; out has H or I elements.
  void w13_row(int64_t e, int part, int64_t i, double* out) const;
  void w2_row(int64_t e, int64_t h, double* out) const;

 private:
  // Elements of a row that lie side by side, and the distance from one such run to the next.
  struct Runs {
    int64_t step, run;
  };
  Runs runs_of(int64_t rows, int64_t length) const;
  static void read_row(const PatternTensor& t, int64_t first, Runs runs, int64_t length,
                       double* out);
  // Elements of the tensors.
  int64_t w13_at(int64_t e, int part, int64_t i, int64_t h) const;
  int64_t w2_at(int64_t e, int64_t h, int64_t i) const;

  MoeConfig config_;
  std::optional<PackedLayout> layout_;  // where config_.packed
  std::vector<PatternTensor> w13_, w2_;
  PatternTensor b13_, b2_;
};

// Inputs for one token count: several routings, so that consecutive launches touch other weights.
class Workload {
 public:
  static Result<std::shared_ptr<Workload>> make(std::shared_ptr<const Weights> weights,
                                                const Device& device, const RoutingSpec& spec,
                                                int64_t tokens, int num_routings, uint64_t seed);
  int64_t tokens() const { return tokens_; }
  int num_routings() const { return static_cast<int>(routings_.size()); }
  const Routing& routing(int i) const { return routings_[static_cast<size_t>(i)]; }
  std::vector<RowCounts> row_counts() const;  // of every routing
  // Arguments of a launch: routing and copy of the weights, each modulo how many there are.
  MoeArgs args(int routing, int copy) const;
  MoeArgs args(int i) const { return args(i, i); }
  Status reserve_workspace(const Device& device, int64_t bytes);

  const Weights& weights() const { return *weights_; }
  const PatternTensor& x() const { return x_; }
  int64_t out_bytes() const {
    return tokens_ * weights_->config().hidden_size * size_of(weights_->config().dtype);
  }
  void* out() const { return out_.get(); }
  void* workspace() const { return workspace_.get(); }
  int64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  std::shared_ptr<const Weights> weights_;
  int64_t tokens_ = 0;
  std::vector<Routing> routings_;
  std::vector<std::shared_ptr<void>> ids_, topk_weights_;
  PatternTensor x_;
  std::shared_ptr<void> out_, workspace_;
  int64_t workspace_bytes_ = 0;
};

}  // namespace moejit::internal
