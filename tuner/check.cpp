#include "tuner/check.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "base/settings.h"
#include "base/small_float.h"

namespace moejit::internal {
namespace {

double activate(const MoeConfig& config, double g, double u) {
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  const double limit = config.swiglu_limit;
  double a = 0;
  switch (config.activation) {
    case Activation::kSilu:
      a = g * sigmoid(g);
      break;
    case Activation::kGelu:
      a = 0.5 * g * (1 + std::erf(g / std::sqrt(2.0)));
      break;
    case Activation::kGeluTanh:
      a = 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
      break;
    case Activation::kRelu2:
      a = g > 0 ? g * g : 0;
      break;
    case Activation::kSwigluOai:
      g = std::min(g, limit);
      return g * sigmoid(config.swiglu_alpha * g) * (std::clamp(u, -limit, limit) + 1);
    case Activation::kSiluClamp:
      g = std::min(g, limit);
      a = g * sigmoid(g);
      u = std::clamp(u, -limit, limit);
      break;
  }
  return config.gated ? a * u : a;
}

// Adds weight * expert(x) to out[H].
void add_expert(const Workload& load, int64_t token, int64_t e, double weight, double* out) {
  const Weights& w = load.weights();
  const MoeConfig& config = w.config();
  const int64_t h_size = config.hidden_size, i_size = config.intermediate_size;
  const double input_weight = config.weight_on_input ? weight : 1;
  const double output_weight = config.weight_on_input ? 1 : weight;
  std::vector<double> x(static_cast<size_t>(h_size)), h(static_cast<size_t>(i_size));
  for (int64_t k = 0; k < h_size; ++k) x[static_cast<size_t>(k)] = load.x().at(token, k);
  std::vector<double> row(static_cast<size_t>(std::max(h_size, i_size)));
  const auto product = [&](int part, int64_t i) {
    w.w13_row(e, part, i, row.data());
    double sum = 0;
    for (size_t k = 0; k < x.size(); ++k) sum += x[k] * row[k];
    sum *= input_weight;
    if (!config.bias) return sum;
    return sum + w.b13().at(e, w13_row(config, part, i));
  };
  for (int64_t i = 0; i < i_size; ++i) {
    const double g = product(0, i);
    h[static_cast<size_t>(i)] = activate(config, g, config.gated ? product(1, i) : 0);
  }
  for (int64_t n = 0; n < h_size; ++n) {
    w.w2_row(e, n, row.data());
    double sum = 0;
    for (size_t i = 0; i < h.size(); ++i) sum += h[i] * row[i];
    if (config.bias) sum += w.b2().at(e, n);
    out[n] += output_weight * sum;
  }
}

double read_element(DType dtype, const uint8_t* data, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * 2, 2);
  return dtype == DType::kBF16 ? bf16_to_float(bits) : f16_to_float(bits);
}

}  // namespace

Expected expected_rows(const Workload& load, int routing, double max_operations) {
  const MoeConfig& config = load.weights().config();
  const int64_t tokens = load.tokens();
  Expected expected;
  if (tokens == 0) return expected;
  const double per_token = static_cast<double>(config.hidden_size) * config.intermediate_size *
                           (config.gated ? 3 : 2) * (config.top_k + config.num_shared_experts);
  const int64_t count =
      std::clamp<int64_t>(static_cast<int64_t>(max_operations / per_token), 1, tokens);
  for (int64_t i = 0; i < count; ++i) expected.tokens.push_back(i * tokens / count);
  const int64_t h = config.hidden_size;
  // One piece per (token, expert), each on its own, added up in a fixed order afterwards.
  struct Piece {
    int64_t row = 0, token = 0, expert = 0;
    double weight = 1;
    std::vector<double> out;
  };
  std::vector<Piece> pieces;
  const Routing& r = load.routing(routing);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t t = expected.tokens[static_cast<size_t>(i)];
    for (int k = 0; k < config.top_k; ++k) {
      const size_t slot = static_cast<size_t>(t * config.top_k + k);
      if (r.ids[slot] < 0 || r.ids[slot] >= config.num_experts) continue;
      pieces.push_back({i, t, r.ids[slot], r.weights[slot], {}});
    }
    for (int s = 0; s < config.num_shared_experts; ++s)
      pieces.push_back({i, t, config.num_experts + s, 1.0, {}});
  }
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next.fetch_add(1)) < pieces.size();) {
      Piece& piece = pieces[i];
      piece.out.assign(static_cast<size_t>(h), 0.0);
      add_expert(load, piece.token, piece.expert, piece.weight, piece.out.data());
    }
  };
  const size_t wanted = per_token * static_cast<double>(count) < 1e6 ? 1 : pieces.size();
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < std::min(wanted, static_cast<size_t>(compile_jobs())); ++i)
    helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  expected.rows.assign(static_cast<size_t>(count * h), 0.0);
  for (const Piece& piece : pieces) {
    double* row = expected.rows.data() + piece.row * h;
    for (int64_t n = 0; n < h; ++n) row[n] += piece.out[static_cast<size_t>(n)];
  }
  return expected;
}

double tolerance(DType dtype) {
  // Rounding of h and out to the dtype dominates; observed errors are near a third of these.
  switch (dtype) {
    case DType::kBF16:
      return 5e-3;
    case DType::kF16:
      return 1e-3;
    case DType::kF32:
      break;
  }
  return 1e-5;
}

namespace {

// 0xFF bytes are a NaN in each of the dtypes. Piece by piece: a workspace may take gigabytes.
Status poison(const Device& device, void* to, size_t bytes) {
  const std::vector<uint8_t> piece(std::min<size_t>(bytes, size_t{4} << 20), 0xFF);
  for (size_t at = 0; at < bytes; at += piece.size()) {
    MOEJIT_RETURN_IF_ERROR(device.copy_in(static_cast<uint8_t*>(to) + at, piece.data(),
                                          std::min(piece.size(), bytes - at)));
  }
  return {};
}

}  // namespace

Result<CheckResult> check_module(const Device& device, const Module& module, const Workload& load,
                                 int routing, const Expected& expected) {
  CheckResult result;
  const DType dtype = load.weights().config().dtype;
  const int64_t h = load.weights().config().hidden_size;
  const size_t bytes = static_cast<size_t>(load.out_bytes());
  std::vector<uint8_t> first(bytes), second(bytes);
  for (std::vector<uint8_t>* out : {&first, &second}) {
    MOEJIT_RETURN_IF_ERROR(
        poison(device, load.workspace(), static_cast<size_t>(load.workspace_bytes())));
    MOEJIT_RETURN_IF_ERROR(poison(device, load.out(), bytes));
    MOEJIT_RETURN_IF_ERROR(module.launch(load.args(routing), nullptr));
    MOEJIT_RETURN_IF_ERROR(device.synchronize());
    if (bytes > 0) MOEJIT_RETURN_IF_ERROR(device.copy_out(out->data(), load.out(), bytes));
  }
  for (int64_t i = 0; i < load.tokens() * h; ++i) {
    if (!std::isfinite(read_element(dtype, first.data(), i))) {
      result.error = std::numeric_limits<double>::infinity();
      result.problem =
          "out[" + std::to_string(i / h) + "," + std::to_string(i % h) + "] is not finite";
      return result;
    }
  }
  double diff = 0, norm = 0;
  for (size_t i = 0; i < expected.tokens.size(); ++i) {
    for (int64_t n = 0; n < h; ++n) {
      const double want = expected.rows[i * static_cast<size_t>(h) + static_cast<size_t>(n)];
      const double have = read_element(dtype, first.data(), expected.tokens[i] * h + n);
      diff += (have - want) * (have - want);
      norm += want * want;
    }
  }
  result.error = norm > 0 ? std::sqrt(diff / norm) : std::sqrt(diff);
  if (result.error > tolerance(dtype)) {
    char text[96];
    std::snprintf(text, sizeof text, "relative error %.3g is above %.3g", result.error,
                  tolerance(dtype));
    result.problem = text;
  } else if (first != second) {
    result.problem = "two runs on the same inputs gave different bits";
  }
  return result;
}

}  // namespace moejit::internal
