// The whole layer in float64, as slowly and as plainly as it can be written: the definition that
// every kernel is compared with. Shares no code with the product; only the plain config struct.
// Inputs are doubles that the caller already rounded to the dtype. The intermediate h is not
// rounded (the tolerance of a comparison covers it).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "moejit/config.h"

namespace moejit_reference {

using moejit::Activation;
using moejit::MoeConfig;
using moejit::RouterOrder;
using moejit::Scoring;
using Doubles = std::vector<double>;

inline double sigmoid(double v) {
  return 1 / (1 + std::exp(-v));
}

// `values` scored in place, over all of them for the softmax.
inline void score(Scoring scoring, Doubles* values) {
  if (scoring == Scoring::kSoftmax) {
    double top = -INFINITY, sum = 0;
    for (double v : *values) top = v > top ? v : top;
    for (double& v : *values) sum += v = std::exp(v - top);
    for (double& v : *values) v /= sum;
  }
  for (double& v : *values) {
    if (scoring == Scoring::kSigmoid) v = sigmoid(v);
    if (scoring == Scoring::kSqrtSoftplus) {
      v = std::sqrt((v > 0 ? v : 0) + std::log1p(std::exp(-std::fabs(v))));
    }
  }
}

// Indices of the `count` best of `values`, best first; ties to the lower index, NaN below numbers.
inline std::vector<int> best(const Doubles& values, int count) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const bool a_nan = std::isnan(values[a]), b_nan = std::isnan(values[b]);
    if (a_nan != b_nan) return b_nan;
    return a_nan || values[a] == values[b] ? a < b : values[a] > values[b];
  });
  order.resize(count);
  return order;
}

// Which experts may be selected: all, or those of the topk_group best groups.
inline std::vector<bool> open_experts(const MoeConfig& c, const Doubles& selection) {
  const int groups = c.router.n_group, size = c.num_experts / groups;
  Doubles group_score;
  for (int g = 0; g < groups; ++g) {
    const Doubles members(selection.begin() + g * size, selection.begin() + (g + 1) * size);
    const std::vector<int> top = best(members, std::min(size, 2));
    const bool pair = c.router.correction_bias && size > 1;
    group_score.push_back(members[top[0]] + (pair ? members[top[1]] : 0));
  }
  std::vector<bool> open(c.num_experts, false);
  for (int g : best(group_score, c.router.topk_group)) {
    for (int e = g * size; e < (g + 1) * size; ++e) open[e] = true;
  }
  return open;
}

struct Routing {
  std::vector<int32_t> ids;  // [T,K], best first
  Doubles weights;           // [T,K]
};

// logits [T,E]; correction_bias [E] or empty.
inline Routing route(const MoeConfig& c, int64_t tokens, const Doubles& logits,
                     const Doubles& correction_bias = {}) {
  const int experts = c.num_experts;
  Routing result;
  for (int64_t t = 0; t < tokens; ++t) {
    const Doubles row(logits.begin() + t * experts, logits.begin() + (t + 1) * experts);
    const bool score_first = c.router.order == RouterOrder::kScoreThenTopk;
    Doubles scores = row;
    if (score_first) score(c.router.scoring, &scores);
    Doubles selection = scores;
    if (c.router.correction_bias) {
      for (int e = 0; e < experts; ++e) selection[e] += correction_bias[e];
    }
    const std::vector<bool> open = open_experts(c, selection);
    std::vector<int> candidates;
    Doubles values;
    for (int e = 0; e < experts; ++e) {
      if (!open[e]) continue;
      candidates.push_back(e);
      values.push_back(selection[e]);
    }
    Doubles weights;
    for (int index : best(values, c.top_k)) {
      result.ids.push_back(candidates[index]);
      weights.push_back(scores[candidates[index]]);
    }
    if (!score_first) score(c.router.scoring, &weights);
    if (c.router.renormalize) {
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0) + 1e-20;
      for (double& w : weights) w /= sum;
    }
    for (double w : weights) result.weights.push_back(w * c.router.scaling_factor);
  }
  return result;
}

// Comparisons are written so that a NaN comes out as NaN.
inline double activate(const MoeConfig& c, double g, double u) {
  const double limit = c.swiglu_limit;
  const bool clamped =
      c.activation == Activation::kSwigluOai || c.activation == Activation::kSiluClamp;
  if (clamped) {
    g = g > limit ? limit : g;
    u = u > limit ? limit : u < -limit ? -limit : u;
  }
  double a = 0;
  switch (c.activation) {
    case Activation::kSilu:
    case Activation::kSiluClamp:
      a = g * sigmoid(g);
      break;
    case Activation::kGelu:
      a = 0.5 * g * (1 + std::erf(g / std::sqrt(2.0)));
      break;
    case Activation::kGeluTanh:
      a = 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
      break;
    case Activation::kRelu2:
      a = g < 0 ? 0 : g * g;
      break;
    case Activation::kSwigluOai:
      a = g * sigmoid(c.swiglu_alpha * g);
      u += 1;
      break;
  }
  return c.gated ? a * u : a;
}

struct Tensors {
  Doubles x, w13, w2, b13, b2;  // shapes as in MoeConfig; the biases empty where there are none
};

// One token through one expert, added to out[H].
inline void add_expert(const MoeConfig& c, const Tensors& in, const double* x, int64_t e,
                       double weight, double* out) {
  const int64_t H = c.hidden_size, I = c.intermediate_size, rows = c.w13_rows();
  // The result of the gate row (part 0) or the up row (part 1) number i.
  const auto first = [&](int64_t i, int part) {
    const int64_t place = c.up_first ? 1 - part : part;
    const int64_t row = !c.gated ? i : c.interleaved ? 2 * i + place : place * I + i;
    double sum = 0;
    for (int64_t h = 0; h < H; ++h) {
      sum += x[h] * in.w13[c.transposed ? (e * H + h) * rows + row : (e * rows + row) * H + h];
    }
    if (c.weight_on_input) sum *= weight;
    return c.bias ? sum + in.b13[e * rows + row] : sum;
  };
  Doubles act(I);
  for (int64_t i = 0; i < I; ++i) act[i] = activate(c, first(i, 0), c.gated ? first(i, 1) : 0);
  for (int64_t h = 0; h < H; ++h) {
    double sum = c.bias ? in.b2[e * H + h] : 0;
    for (int64_t i = 0; i < I; ++i) {
      sum += act[i] * in.w2[c.transposed ? (e * I + i) * H + h : (e * H + h) * I + i];
    }
    out[h] += c.weight_on_input ? sum : weight * sum;
  }
}

// out [T,H]. ids and weights [T,K]; what an id outside [0,E) points at, and its weight, is not
// read.
inline Doubles layer(const MoeConfig& c, int64_t tokens, const Tensors& in,
                     const std::vector<int32_t>& ids, const Doubles& weights) {
  Doubles out(tokens * c.hidden_size, 0);
  for (int64_t t = 0; t < tokens; ++t) {
    const double* x = &in.x[t * c.hidden_size];
    double* row = &out[t * c.hidden_size];
    for (int64_t k = t * c.top_k; k < (t + 1) * c.top_k; ++k) {
      if (ids[k] < 0 || ids[k] >= c.num_experts) continue;
      add_expert(c, in, x, ids[k], weights[k], row);
    }
    for (int64_t e = c.num_experts; e < c.total_experts(); ++e) add_expert(c, in, x, e, 1, row);
  }
  return out;
}

}  // namespace moejit_reference
