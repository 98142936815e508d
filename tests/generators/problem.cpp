#include "tests/generators/problem.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace moejit_test {
namespace {

using moejit::DType;
using moejit::MoeConfig;

// Normal values of the given deviation, rounded to the dtype, stored in `buffer` and returned.
// Drawn from a table, because the conversions of small_types.h are made to be plain and not fast.
Doubles random_tensor(DType dtype, size_t count, double deviation, std::mt19937_64* random,
                      GuardedBuffer* buffer) {
  constexpr size_t kTable = 4096;
  std::normal_distribution<double> normal(0, deviation);
  Doubles table(kTable);
  for (double& value : table) value = round_to(dtype, normal(*random));
  const size_t size = moejit::size_of(dtype);
  std::vector<uint8_t> bytes(kTable * size);
  store(dtype, table, bytes.data());
  Doubles values(count);
  *buffer = GuardedBuffer(count * size);
  for (size_t i = 0; i < count; ++i) {
    const size_t pick = (*random)() % kTable;
    values[i] = table[pick];
    std::memcpy(buffer->as<uint8_t>() + i * size, &bytes[pick * size], size);
  }
  return values;
}

bool in_range(const MoeConfig& config, int32_t id) {
  return id >= 0 && id < config.num_experts;
}

void poison_expert(DType dtype, int64_t expert, int64_t size, Doubles* values,
                   GuardedBuffer* buffer) {
  if (values->empty()) return;
  std::fill_n(values->begin() + expert * size, size, std::numeric_limits<double>::quiet_NaN());
  const int64_t bytes = size * moejit::size_of(dtype);
  std::fill_n(buffer->as<uint8_t>() + expert * bytes, bytes, uint8_t{0xFF});
}

void poison_unused(Problem* p) {
  const MoeConfig& c = p->config;
  std::vector<bool> used(c.num_experts, false);
  for (int32_t id : p->reference_ids) {
    if (in_range(c, id)) used[id] = true;
  }
  const int64_t rows = c.w13_rows();
  for (int64_t e = 0; e < c.num_experts; ++e) {
    if (used[e]) continue;
    poison_expert(c.dtype, e, rows * c.hidden_size, &p->reference.w13, &p->w13);
    poison_expert(c.dtype, e, int64_t{c.hidden_size} * c.intermediate_size, &p->reference.w2,
                  &p->w2);
    poison_expert(c.dtype, e, rows, &p->reference.b13, &p->b13);
    poison_expert(c.dtype, e, c.hidden_size, &p->reference.b2, &p->b2);
  }
}

void make_logits(Problem* p, std::mt19937_64* random) {
  const MoeConfig& c = p->config;
  p->reference_logits = random_tensor(p->options.logits_dtype, p->options.tokens * c.num_experts,
                                      1.5, random, &p->logits);
  if (c.router.correction_bias) {
    p->reference_correction =
        random_tensor(DType::kF32, c.num_experts, 0.2, random, &p->correction_bias);
  }
}

void make_routing(Problem* p, std::mt19937_64* random) {
  const MoeConfig& c = p->config;
  const size_t count = p->options.tokens * c.top_k;
  p->weights = GuardedBuffer(count * sizeof(float), sizeof(float));
  if (p->options.routing == RoutingKind::kFromLogits) {
    const auto routing =
        moejit_reference::route(c, p->options.tokens, p->reference_logits, p->reference_correction);
    p->reference_ids = routing.ids;
    p->reference_weights = routing.weights;
    for (double& weight : p->reference_weights) weight = round_to(DType::kF32, weight);
  } else {
    p->reference_ids = make_ids(c, p->options.tokens, p->options.routing, random);
    std::uniform_real_distribution<float> uniform(0.05f, 1.0f);
    for (int32_t id : p->reference_ids) {
      const double weight = uniform(*random);
      p->reference_weights.push_back(in_range(c, id) ? weight
                                                     : std::numeric_limits<double>::quiet_NaN());
    }
  }
  store(DType::kF32, p->reference_weights, p->weights.data());
  p->ids = GuardedBuffer(count * sizeof(int32_t), sizeof(int32_t));
  std::copy(p->reference_ids.begin(), p->reference_ids.end(), p->ids.as<int32_t>());
}

// Experts by a Zipf law over a fixed shuffle, so that the popular ones are not neighbours.
class ZipfExperts {
 public:
  ZipfExperts(int32_t experts, std::mt19937_64* random) : order_(experts) {
    std::iota(order_.begin(), order_.end(), 0);
    std::shuffle(order_.begin(), order_.end(), *random);
    Doubles mass;
    for (int32_t rank = 1; rank <= experts; ++rank) mass.push_back(std::pow(rank, -1.2));
    law_ = std::discrete_distribution<int32_t>(mass.begin(), mass.end());
  }
  int32_t draw(std::mt19937_64* random) { return order_[law_(*random)]; }

 private:
  std::vector<int32_t> order_;
  std::discrete_distribution<int32_t> law_;
};

}  // namespace

const char* to_string(RoutingKind kind) {
  switch (kind) {
    case RoutingKind::kUniform:
      return "uniform";
    case RoutingKind::kZipf:
      return "zipf";
    case RoutingKind::kOneExpert:
      return "one_expert";
    case RoutingKind::kSparse:
      return "sparse";
    case RoutingKind::kDuplicates:
      return "duplicates";
    case RoutingKind::kSentinels:
      return "sentinels";
    case RoutingKind::kNone:
      return "none";
    case RoutingKind::kFromLogits:
      return "from_logits";
  }
  return "unknown";
}

const std::vector<RoutingKind>& all_routings() {
  static const std::vector<RoutingKind> kinds = {
      RoutingKind::kUniform, RoutingKind::kZipf,       RoutingKind::kOneExpert,
      RoutingKind::kSparse,  RoutingKind::kDuplicates, RoutingKind::kSentinels,
      RoutingKind::kNone,    RoutingKind::kFromLogits};
  return kinds;
}

std::vector<int32_t> make_ids(const MoeConfig& c, int64_t tokens, RoutingKind kind,
                              std::mt19937_64* random) {
  const int32_t sentinels[] = {-1,      c.num_experts, c.total_experts(), c.total_experts() - 1,
                               INT_MAX, INT_MIN,       -c.num_experts};
  const auto sentinel = [&] {
    int32_t id;
    do {
      id = sentinels[(*random)() % std::size(sentinels)];
    } while (in_range(c, id));  // total_experts() - 1 is a real expert where none is shared
    return id;
  };
  ZipfExperts zipf(c.num_experts, random);
  std::vector<int32_t> pool(c.num_experts);
  std::iota(pool.begin(), pool.end(), 0);
  if (kind == RoutingKind::kSparse && c.num_experts / 2 >= c.top_k) {
    pool.erase(pool.begin(), pool.begin() + c.num_experts / 2);
  }
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<int32_t> row;
    std::shuffle(pool.begin(), pool.end(), *random);
    for (int32_t k = 0; k < c.top_k; ++k) {
      int32_t id = pool[k];
      if (kind == RoutingKind::kZipf) {
        // A skewed law may take long to give the last distinct expert: fall back to the pool.
        for (int tries = 0; tries < 64; ++tries) {
          id = zipf.draw(random);
          if (std::find(row.begin(), row.end(), id) == row.end()) break;
        }
        for (int32_t i = 0; std::find(row.begin(), row.end(), id) != row.end(); ++i) id = pool[i];
      }
      if (kind == RoutingKind::kOneExpert) id = k == 0 ? c.num_experts - 1 : -1;
      if (kind == RoutingKind::kDuplicates) id = static_cast<int32_t>((*random)() % c.num_experts);
      if (kind == RoutingKind::kNone || (kind == RoutingKind::kSentinels && (*random)() % 3 == 0)) {
        id = sentinel();
      }
      row.push_back(id);
    }
    ids.insert(ids.end(), row.begin(), row.end());
  }
  return ids;
}

Problem make_problem(const MoeConfig& config, const ProblemOptions& options) {
  std::mt19937_64 random(options.seed);
  Problem p;
  p.config = config;
  p.options = options;
  const size_t experts = config.total_experts(), hidden = config.hidden_size,
               inner = config.intermediate_size, rows = config.w13_rows();
  auto& r = p.reference;
  r.x = random_tensor(config.dtype, options.tokens * hidden, 1, &random, &p.x);
  r.w13 =
      random_tensor(config.dtype, experts * rows * hidden, 1 / std::sqrt(hidden), &random, &p.w13);
  r.w2 =
      random_tensor(config.dtype, experts * hidden * inner, 1 / std::sqrt(inner), &random, &p.w2);
  if (config.bias) {
    r.b13 = random_tensor(config.dtype, experts * rows, 0.5, &random, &p.b13);
    r.b2 = random_tensor(config.dtype, experts * hidden, 0.5, &random, &p.b2);
  }
  make_logits(&p, &random);
  make_routing(&p, &random);
  if (options.poison_unused) poison_unused(&p);
  p.out = GuardedBuffer(options.tokens * hidden * moejit::size_of(config.dtype));
  return p;
}

Doubles Problem::expected() const {
  return moejit_reference::layer(config, options.tokens, reference, reference_ids,
                                 reference_weights);
}

Doubles Problem::result() const {
  return load(config.dtype, out.data(), options.tokens * config.hidden_size);
}

bool Problem::intact() const {
  for (const GuardedBuffer* buffer :
       {&x, &w13, &w2, &b13, &b2, &ids, &weights, &logits, &correction_bias, &out}) {
    if (!buffer->intact()) return false;
  }
  return true;
}

moejit::LaunchArgs Problem::launch_args() {
  return {.num_tokens = options.tokens,
          .x = x.data(),
          .w13 = w13.data(),
          .w2 = w2.data(),
          .b13 = b13.data(),
          .b2 = b2.data(),
          .topk_ids = ids.as<int32_t>(),
          .topk_weights = weights.as<float>(),
          .out = out.data()};
}

moejit::RoutedLaunchArgs Problem::routed_args() {
  return {.num_tokens = options.tokens,
          .x = x.data(),
          .w13 = w13.data(),
          .w2 = w2.data(),
          .b13 = b13.data(),
          .b2 = b2.data(),
          .router_logits = logits.data(),
          .logits_dtype = options.logits_dtype,
          .correction_bias = correction_bias.as<float>(),
          .out = out.data()};
}

double relative_error(const Doubles& got, const Doubles& want) {
  return worst_row_error(got, want, static_cast<int64_t>(want.size()));
}

double worst_row_error(const Doubles& got, const Doubles& want, int64_t width) {
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  if (got.size() != want.size()) return kInfinite;
  double worst = 0;
  for (size_t begin = 0; begin < want.size(); begin += width) {
    double difference = 0, norm = 0;
    for (size_t i = begin; i < begin + width; ++i) {
      if (std::isnan(got[i]) != std::isnan(want[i])) return kInfinite;
      if (std::isnan(want[i]) || got[i] == want[i]) {  // the latter for equal infinities
        norm += std::isfinite(want[i]) ? want[i] * want[i] : 0;
        continue;
      }
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      norm += want[i] * want[i];
    }
    if (difference == 0) continue;
    if (!std::isfinite(difference) || norm == 0) return kInfinite;
    worst = std::max(worst, std::sqrt(difference / norm));
  }
  return worst;
}

double tolerance(DType dtype) {
  // One rounding is at most 2^-9 (bf16) or 2^-12 (f16) of a value; two of them, and some
  // cancellation in the sum over k.
  switch (dtype) {
    case DType::kF32:
      return 1e-5;
    case DType::kF16:
      return 1.5e-3;
    case DType::kBF16:
      return 1e-2;
  }
  return 0;
}

}  // namespace moejit_test
