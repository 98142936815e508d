// One layer on the CPU: 16 experts, of which each token visits 2. Compares with a plain loop.
#include <moejit/moejit.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace {

constexpr int kExperts = 16, kTopK = 2, kHidden = 64, kInner = 96, kTokens = 5;

// moejit wants tensors at multiples of 16 bytes, the workspace at 256: what aligned_alloc gives.
struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <typename T>
std::unique_ptr<T[], Free> make(size_t count) {
  const size_t bytes = (count * sizeof(T) + 255) / 256 * 256;
  return std::unique_ptr<T[], Free>(static_cast<T*>(std::aligned_alloc(256, bytes)));
}

std::unique_ptr<float[], Free> make_random(size_t count, float scale) {
  auto values = make<float>(count);
  static uint32_t state = 1;
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    values[i] = scale * (static_cast<float>(state >> 8) / 8388608.0f - 1.0f);
  }
  return values;
}

}  // namespace

int main() {
  const moejit::MoeConfig config{.num_experts = kExperts,
                                 .top_k = kTopK,
                                 .hidden_size = kHidden,
                                 .intermediate_size = kInner,
                                 .dtype = moejit::DType::kF32};
  const auto kernel = moejit::get_kernel(config, {.device = "cpu", .max_tokens = 64});
  if (!kernel.ok()) {
    std::fprintf(stderr, "get_kernel: %s\n", kernel.status().to_string().c_str());
    return 1;
  }

  const auto x = make_random(kTokens * kHidden, 1.0f);
  const auto w13 = make_random(kExperts * 2 * kInner * kHidden, 0.2f);  // gate rows, then up rows
  const auto w2 = make_random(kExperts * kHidden * kInner, 0.2f);
  const auto out = make<float>(kTokens * kHidden);
  std::vector<int32_t> ids(kTokens * kTopK);
  std::vector<float> weights(ids.size());
  for (int i = 0; i < kTokens * kTopK; ++i) {
    ids[i] = 7 * i % kExperts;
    weights[i] = i % kTopK == 0 ? 0.7f : 0.3f;
  }
  const size_t workspace_size = kernel->workspace_size(kTokens);
  const auto workspace = make<char>(workspace_size);

  const moejit::Status status = kernel->launch({.num_tokens = kTokens,
                                                .x = x.get(),
                                                .w13 = w13.get(),
                                                .w2 = w2.get(),
                                                .topk_ids = ids.data(),
                                                .topk_weights = weights.data(),
                                                .out = out.get(),
                                                .workspace = workspace.get(),
                                                .workspace_size = workspace_size});
  if (!status.ok()) {
    std::fprintf(stderr, "launch: %s\n", status.to_string().c_str());
    return 1;
  }

  double worst = 0;
  for (int t = 0; t < kTokens; ++t) {
    std::vector<double> want(kHidden, 0.0);
    for (int k = 0; k < kTopK; ++k) {
      const int e = ids[t * kTopK + k];
      for (int i = 0; i < kInner; ++i) {
        double gate = 0, up = 0;
        for (int h = 0; h < kHidden; ++h) {
          gate += double{x[t * kHidden + h]} * w13[(e * 2 * kInner + i) * kHidden + h];
          up += double{x[t * kHidden + h]} * w13[(e * 2 * kInner + kInner + i) * kHidden + h];
        }
        const double act = gate / (1 + std::exp(-gate)) * up;
        for (int h = 0; h < kHidden; ++h) {
          want[h] += weights[t * kTopK + k] * act * w2[(e * kHidden + h) * kInner + i];
        }
      }
    }
    for (int h = 0; h < kHidden; ++h) {
      worst = std::fmax(worst, std::fabs(out[t * kHidden + h] - want[h]));
    }
  }
  std::printf("moejit %s on %s: largest difference from a plain loop %.2g\n", moejit::version(),
              kernel->device().c_str(), worst);
  return worst < 1e-4 ? 0 : 1;
}
