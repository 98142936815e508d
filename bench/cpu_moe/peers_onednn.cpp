#include "bench/cpu_moe/peers_onednn.h"

#include <omp.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <dnnl.hpp>
#include <map>

namespace moejit_bench {
namespace {

using dnnl::memory;
using Type = memory::data_type;

inline float to_f32(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}
inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x by squaring a short series, in a form that the compiler vectorises: 1e-6 relative.
inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  const float p =
      1.0f + r * (1.0f + r * (0.5f + r * (0.166665f + r * (0.0416695f + r * 0.008369f))));
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  const int32_t scale = (bits - 0x4b400000 + 127) << 23;
  float power;
  std::memcpy(&power, &scale, 4);
  return p * power;
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void swiglu_row(const float* gate,
                                                                             const float* up,
                                                                             int64_t n,
                                                                             uint16_t* h) {
  for (int64_t i = 0; i < n; ++i) h[i] = to_bf16(gate[i] / (1.0f + fast_exp(-gate[i])) * up[i]);
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_row(const float* y,
                                                                          float weight, int64_t n,
                                                                          float* acc) {
  for (int64_t i = 0; i < n; ++i) acc[i] += weight * y[i];
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void round_row(const float* acc,
                                                                            int64_t n,
                                                                            uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = to_bf16(acc[i]);
}

}  // namespace

struct OneDnnLayer::State {
  moejit::MoeConfig config;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  memory::desc layout13, layout2;  // of one expert's weights, as the library wants them
  std::vector<std::shared_ptr<void>> copies;
  std::vector<memory> w13, w2;                                          // in these
  std::map<int64_t, std::pair<dnnl::matmul, dnnl::matmul>> primitives;  // by rows
  std::vector<int32_t> tokens;
  std::vector<float> gates, first, second, acc;
  std::vector<uint16_t> gathered, h;

  dnnl::matmul::primitive_desc describe(int64_t m, int64_t k, int64_t n,
                                        const memory::desc& weights) {
    const memory::desc src({m, k}, Type::bf16, memory::format_tag::ab);
    const memory::desc dst({m, n}, Type::f32, memory::format_tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    return {engine, src, weights, dst};
#else
    return {dnnl::matmul::desc(src, weights, dst), engine};
#endif
  }
  memory::desc any(int64_t k, int64_t n) {
    return {{k, n}, Type::bf16, memory::format_tag::any};
  }
  std::vector<memory> reorder(const void* data, int64_t k, int64_t n, const memory::desc& layout) {
    std::vector<memory> all;
    const memory::desc plain({k, n}, Type::bf16, memory::format_tag::ba);
    for (int64_t e = 0; e < config.num_experts; ++e) {
      auto* expert = static_cast<const uint16_t*>(data) + e * k * n;
      memory from(plain, engine, const_cast<uint16_t*>(expert));
      copies.push_back(huge_pages(layout.get_size()));
      memory to(layout, engine, copies.back().get());
      dnnl::reorder(from, to).execute(stream, from, to);
      all.push_back(to);
    }
    stream.wait();
    return all;
  }
};

std::string OneDnnLayer::version() const {
  const dnnl_version_t* v = dnnl::version();
  return std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
}

OneDnnLayer::OneDnnLayer(const moejit::MoeConfig& config, const void* w13, const void* w2,
                         int num_threads)
    : state_(new State) {
  omp_set_num_threads(num_threads);
  State& s = *state_;
  s.config = config;
  const int64_t H = config.hidden_size, I = config.intermediate_size;
  // One layout for all row counts; asked for at a typical one.
  s.layout13 = s.describe(32, H, 2 * I, s.any(H, 2 * I)).weights_desc();
  s.layout2 = s.describe(32, I, H, s.any(I, H)).weights_desc();
  s.w13 = s.reorder(w13, H, 2 * I, s.layout13);
  s.w2 = s.reorder(w2, I, H, s.layout2);
}

OneDnnLayer::~OneDnnLayer() = default;

void OneDnnLayer::prepare(int64_t, const std::vector<int64_t>& rows_per_expert) {
  State& s = *state_;
  const int64_t H = s.config.hidden_size, I = s.config.intermediate_size;
  for (int64_t m : rows_per_expert) {
    if (m == 0 || s.primitives.count(m) != 0) continue;
    s.primitives.emplace(m, std::pair(dnnl::matmul(s.describe(m, H, 2 * I, s.layout13)),
                                      dnnl::matmul(s.describe(m, I, H, s.layout2))));
  }
}

double OneDnnLayer::run(int64_t num_tokens, const void* x, const int32_t* ids, const float* weights,
                        void* out) {
  const auto start = std::chrono::steady_clock::now();
  State& s = *state_;
  const int64_t H = s.config.hidden_size, I = s.config.intermediate_size, E = s.config.num_experts;
  const int64_t pairs = num_tokens * s.config.top_k;
  std::vector<int64_t> begin(static_cast<size_t>(E) + 1, 0);
  for (int64_t p = 0; p < pairs; ++p) ++begin[ids[p] + 1];
  for (int64_t e = 0; e < E; ++e) begin[e + 1] += begin[e];
  s.tokens.resize(pairs);
  s.gates.resize(pairs);
  std::vector<int64_t> place(begin.begin(), begin.end() - 1);
  for (int64_t p = 0; p < pairs; ++p) {
    const int64_t at = place[ids[p]]++;
    s.tokens[at] = static_cast<int32_t>(p / s.config.top_k);
    s.gates[at] = weights[p];
  }
  s.acc.assign(num_tokens * H, 0.0f);
  const auto* rows = static_cast<const uint16_t*>(x);
  for (int64_t e = 0; e < E; ++e) {
    const int64_t m = begin[e + 1] - begin[e], base = begin[e];
    if (m == 0) continue;
    s.gathered.resize(std::max<size_t>(s.gathered.size(), m * H));
    s.first.resize(std::max<size_t>(s.first.size(), m * 2 * I));
    s.h.resize(std::max<size_t>(s.h.size(), m * I));
    s.second.resize(std::max<size_t>(s.second.size(), m * H));
    for (int64_t r = 0; r < m; ++r) {
      std::memcpy(&s.gathered[r * H], rows + s.tokens[base + r] * H, H * 2);
    }
    const auto wrap = [&](Type type, int64_t k, int64_t n, void* data) {
      return memory({{k, n}, type, memory::format_tag::ab}, s.engine, data);
    };
    auto& [gate_up, down] = s.primitives.at(m);
    gate_up.execute(s.stream, {{DNNL_ARG_SRC, wrap(Type::bf16, m, H, s.gathered.data())},
                               {DNNL_ARG_WEIGHTS, s.w13[e]},
                               {DNNL_ARG_DST, wrap(Type::f32, m, 2 * I, s.first.data())}});
    // One row is cut too, so that a single token uses every thread.
    const int64_t pieces = m >= 8 ? 1 : 8, piece = (I + pieces - 1) / pieces;
#pragma omp parallel for collapse(2)
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t q = 0; q < pieces; ++q) {
        const int64_t from = q * piece, n = std::min(piece, I - from);
        const float* gate = &s.first[r * 2 * I + from];
        if (n > 0) swiglu_row(gate, gate + I, n, &s.h[r * I + from]);
      }
    }
    down.execute(s.stream, {{DNNL_ARG_SRC, wrap(Type::bf16, m, I, s.h.data())},
                            {DNNL_ARG_WEIGHTS, s.w2[e]},
                            {DNNL_ARG_DST, wrap(Type::f32, m, H, s.second.data())}});
    s.stream.wait();
#pragma omp parallel for if (m >= 4)
    for (int64_t r = 0; r < m; ++r) {
      add_row(&s.second[r * H], s.gates[base + r], H, &s.acc[s.tokens[base + r] * H]);
    }
  }
#pragma omp parallel for if (num_tokens >= 4)
  for (int64_t t = 0; t < num_tokens; ++t) {
    round_row(&s.acc[t * H], H, static_cast<uint16_t*>(out) + t * H);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace moejit_bench
