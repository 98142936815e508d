#include "tuner/workload.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/small_float.h"
#include "tuner/random.h"

namespace moejit::internal {
namespace {

constexpr int64_t kWindowSlack = 1 << 17;  // longest row a window may have

std::string gib(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GiB", static_cast<double>(bytes) / (1 << 30));
  return text;
}

}  // namespace

Pattern::Pattern(DType dtype, double scale, uint64_t seed)
    : element_bytes_(static_cast<size_t>(size_of(dtype))),
      raw_(static_cast<size_t>(kSize + kWindowSlack) * element_bytes_),
      values_(static_cast<size_t>(kSize + kWindowSlack)) {
  Random random(seed);
  for (size_t i = 0; i < values_.size(); ++i) {
    const float value = static_cast<float>(random.normal() * scale);
    if (dtype == DType::kF32) {
      std::memcpy(raw_.data() + i * 4, &value, 4);
      values_[i] = value;
      continue;
    }
    const uint16_t bits = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
    std::memcpy(raw_.data() + i * 2, &bits, 2);
    values_[i] = dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
  }
}

int64_t PatternTensor::offset(int64_t row) const {
  return static_cast<int64_t>(
      Random(seed ^ (static_cast<uint64_t>(row) * 0x9E3779B97F4A7C15u)).next() %
      static_cast<uint64_t>(Pattern::kSize));
}

Status PatternTensor::fill(const Device& target, const std::function<bool()>& stop) {
  if (cols > kWindowSlack) {
    return {StatusCode::kUnsupported, "row of " + std::to_string(cols) +
                                          " elements: the tuner's tensors have rows of at most " +
                                          std::to_string(kWindowSlack)};
  }
  auto memory = target.allocate(static_cast<size_t>(std::max<int64_t>(bytes(), 256)));
  if (!memory.ok()) return memory.status();
  device = *memory;
  const int64_t row_bytes = cols * static_cast<int64_t>(pattern->element_bytes());
  const int64_t block_rows =
      std::max<int64_t>(1, (int64_t{2} << 20) / std::max<int64_t>(row_bytes, 1));
  const int64_t blocks = (rows + block_rows - 1) / block_rows;
  // On the CPU rows go to their place at once, by several threads: most of the time is the first
  // touch of pages, which a virtual machine pays dearly.
  const bool in_place = target.info().target.backend == BackendKind::kCpu;
  std::atomic<int64_t> next{0};
  std::atomic<bool> stopped{false};
  const auto write_block = [&](int64_t block, std::vector<uint8_t>& staging) -> Status {
    const int64_t first = block * block_rows, count = std::min(block_rows, rows - first);
    uint8_t* const to = static_cast<uint8_t*>(device.get()) + first * row_bytes;
    uint8_t* const by_way_of = in_place ? to : staging.data();
    for (int64_t r = 0; r < count; ++r) {
      std::memcpy(by_way_of + r * row_bytes, pattern->bytes(offset(first + r)),
                  static_cast<size_t>(row_bytes));
    }
    return in_place ? Status()
                    : target.copy_in(to, staging.data(), static_cast<size_t>(count * row_bytes));
  };
  std::vector<std::thread> helpers;
  if (in_place && blocks > 8) {
    const unsigned threads = std::min(std::thread::hardware_concurrency(), 8u);
    for (unsigned t = 1; t < threads; ++t) {
      helpers.emplace_back([&] {
        std::vector<uint8_t> none;
        for (int64_t block; !stopped && (block = next++) < blocks;) (void)write_block(block, none);
      });
    }
  }
  std::vector<uint8_t> staging(in_place ? 0 : static_cast<size_t>(block_rows * row_bytes));
  Status status;
  for (int64_t block; status.ok() && (block = next++) < blocks;) {
    if (stop && stop()) {
      status = {StatusCode::kCancelled, "out of time while filling weights"};
    } else {
      status = write_block(block, staging);
    }
  }
  if (!status.ok()) stopped = true;
  for (std::thread& helper : helpers) helper.join();
  return status;
}

Result<std::shared_ptr<const Weights>> Weights::make(const MoeConfig& config, const Device& device,
                                                     int64_t min_bytes,
                                                     const std::function<bool()>& stop) {
  auto weights = std::make_shared<Weights>();
  weights->config_ = config;
  const int64_t experts = config.total_experts();
  const int64_t h = config.hidden_size, i = config.intermediate_size, n = config.w13_rows();
  if (config.packed) weights->layout_ = packed_layout(config, device.info().target);
  const std::optional<PackedLayout>& layout = weights->layout_;
  const WeightElements elements = weight_elements(config, device.info().target);
  const int64_t bytes = (elements.w13 + elements.w2) * size_of(config.dtype);
  const int64_t available = device.info().memory_bytes;
  if (available > 0 && static_cast<double>(bytes) > 0.9 * static_cast<double>(available)) {
    return Status(StatusCode::kOutOfMemory,
                  "the layer's weights take " + gib(bytes) + ", device " + device.info().name +
                      " has " + gib(available) +
                      ": give fewer experts or a tensor-parallel share (--tp)");
  }
  int64_t copies = std::clamp<int64_t>((min_bytes + bytes - 1) / bytes, 1, 16);
  const auto pattern13 =
      std::make_shared<Pattern>(config.dtype, 1 / std::sqrt(static_cast<double>(h)), 13);
  const auto pattern2 =
      std::make_shared<Pattern>(config.dtype, 1 / std::sqrt(static_cast<double>(i)), 2);
  for (int64_t c = 0; c < copies; ++c) {
    PatternTensor w13{pattern13, 0x13, experts * (config.transposed ? h : n),
                      config.transposed ? n : h, nullptr};
    PatternTensor w2{pattern2, 0x2, experts * (config.transposed ? i : h),
                     config.transposed ? h : i, nullptr};
    if (layout) {
      // A window is as many steps as it may hold.
      const auto cut = [&](int64_t all, int64_t length, PatternTensor* t) {
        const int64_t block = layout->block_rows() * length;
        t->cols = block <= kWindowSlack ? block : layout->step();
        t->rows = all / t->cols;
      };
      cut(elements.w13, h, &w13);
      cut(elements.w2, i, &w2);
    }
    Status status = w13.fill(device, stop);
    if (status.ok()) status = w2.fill(device, stop);
    // More than one keeps the caches cold; one is enough to go on.
    if (c > 0 && status.code() == StatusCode::kOutOfMemory) break;
    if (!status.ok()) return status;
    weights->w13_.push_back(std::move(w13));
    weights->w2_.push_back(std::move(w2));
  }
  if (config.bias) {
    const auto pattern = std::make_shared<Pattern>(config.dtype, 0.5, 0xb);
    weights->b13_ = {pattern, 0xb13, experts, n, nullptr};
    weights->b2_ = {pattern, 0xb2, experts, h, nullptr};
    MOEJIT_RETURN_IF_ERROR(weights->b13_.fill(device));
    MOEJIT_RETURN_IF_ERROR(weights->b2_.fill(device));
  }
  return std::shared_ptr<const Weights>(std::move(weights));
}

int64_t Weights::w13_at(int64_t e, int part, int64_t i, int64_t h) const {
  const int64_t hidden = config_.hidden_size, rows = config_.w13_rows();
  if (layout_) return e * layout_->w13_elements(config_) + layout_->w13_at(config_, part, i, h);
  const int64_t row = internal::w13_row(config_, part, i);
  return e * rows * hidden + (config_.transposed ? h * rows + row : row * hidden + h);
}

int64_t Weights::w2_at(int64_t e, int64_t h, int64_t i) const {
  const int64_t hidden = config_.hidden_size, inner = config_.intermediate_size;
  if (layout_) return e * layout_->w2_elements(config_) + layout_->w2_at(config_, h, i);
  return e * hidden * inner + (config_.transposed ? i * hidden + h : h * inner + i);
}

// `length` elements from `first` on. A window of the pattern, in which whole runs lie, is found by
// a hash: once, not per element.
void Weights::read_row(const PatternTensor& t, int64_t first, Runs runs, int64_t length,
                       double* out) {
  int64_t window = -1, offset = 0;
  for (int64_t k = 0; k < length; k += runs.run, first += runs.step) {
    if (first / t.cols != window) {
      window = first / t.cols;
      offset = t.offset(window);
    }
    const int64_t begin = offset + first % t.cols;
    for (int64_t j = 0; j < runs.run; ++j) *out++ = t.pattern->value(begin + j);
  }
}

void Weights::w13_row(int64_t e, int part, int64_t i, double* out) const {
  const Runs runs = runs_of(config_.w13_rows(), config_.hidden_size);
  read_row(w13_[0], w13_at(e, part, i, 0), runs, config_.hidden_size, out);
}

void Weights::w2_row(int64_t e, int64_t h, double* out) const {
  const Runs runs = runs_of(config_.hidden_size, config_.intermediate_size);
  read_row(w2_[0], w2_at(e, h, 0), runs, config_.intermediate_size, out);
}

Weights::Runs Weights::runs_of(int64_t rows, int64_t length) const {
  if (layout_) return {layout_->step(), layout_->depth};
  return config_.transposed ? Runs{rows, 1} : Runs{length, length};
}

Result<std::shared_ptr<Workload>> Workload::make(std::shared_ptr<const Weights> weights,
                                                 const Device& device, const RoutingSpec& spec,
                                                 int64_t tokens, int num_routings, uint64_t seed) {
  auto load = std::make_shared<Workload>();
  const MoeConfig& config = weights->config();
  load->weights_ = std::move(weights);
  load->tokens_ = tokens;
  for (int i = 0; i < num_routings; ++i) {
    Routing routing = draw_routing(spec, config, tokens, seed + static_cast<uint64_t>(i));
    const size_t bytes = routing.ids.size() * 4;
    auto ids = device.allocate(std::max<size_t>(bytes, 256));
    auto values = device.allocate(std::max<size_t>(bytes, 256));
    if (!ids.ok()) return ids.status();
    if (!values.ok()) return values.status();
    if (bytes > 0) {
      MOEJIT_RETURN_IF_ERROR(device.copy_in(ids->get(), routing.ids.data(), bytes));
      MOEJIT_RETURN_IF_ERROR(device.copy_in(values->get(), routing.weights.data(), bytes));
    }
    load->ids_.push_back(*ids);
    load->topk_weights_.push_back(*values);
    load->routings_.push_back(std::move(routing));
  }
  load->x_ = {std::make_shared<Pattern>(config.dtype, 1.0, seed ^ 0x58), seed, tokens,
              config.hidden_size, nullptr};
  MOEJIT_RETURN_IF_ERROR(load->x_.fill(device));
  auto out = device.allocate(static_cast<size_t>(std::max<int64_t>(load->out_bytes(), 256)));
  if (!out.ok()) return out.status();
  load->out_ = *out;
  return load;
}

std::vector<RowCounts> Workload::row_counts() const {
  std::vector<RowCounts> counts;
  for (const Routing& routing : routings_) counts.push_back(routing.rows);
  return counts;
}

MoeArgs Workload::args(int routing, int copy) const {
  const size_t r = static_cast<size_t>(routing) % routings_.size();
  copy %= weights_->copies();
  MoeArgs args{};
  args.x = x_.device.get();
  args.w13 = weights_->w13(copy).device.get();
  args.w2 = weights_->w2(copy).device.get();
  args.b13 = weights_->b13().device.get();
  args.b2 = weights_->b2().device.get();
  args.topk_ids = static_cast<const int*>(ids_[r].get());
  args.topk_weights = static_cast<const float*>(topk_weights_[r].get());
  args.out = out_.get();
  args.workspace = workspace_.get();
  args.num_tokens = tokens_;
  return args;
}

Status Workload::reserve_workspace(const Device& device, int64_t bytes) {
  if (bytes <= workspace_bytes_) return {};
  auto memory = device.allocate(static_cast<size_t>(std::max<int64_t>(bytes, 256)));
  if (!memory.ok()) return memory.status();
  workspace_ = *memory;
  workspace_bytes_ = std::max<int64_t>(bytes, 256);
  return {};
}

}  // namespace moejit::internal
