// moejit itself, on packed weights (moejit/pack.h), beside moejit on weights where they lie.
#pragma once

#include <chrono>
#include <cstdio>
#include <stdexcept>

#include "bench/cpu_moe/peer.h"
#include "moejit/moejit.h"
#include "moejit/pack.h"

namespace moejit_bench {

class PackedLayer : public Peer {
 public:
  static moejit::Result<std::unique_ptr<Peer>> make(const moejit::MoeConfig& plain, const void* w13,
                                                    const void* w2, int threads) {
    moejit::MoeConfig config = plain;
    auto peer = std::make_unique<PackedLayer>();
    const auto bytes = moejit::packed_bytes(config, "cpu");
    if (!bytes.ok()) return bytes.status();
    peer->w13_ = huge_pages(static_cast<size_t>(bytes->w13));
    peer->w2_ = huge_pages(static_cast<size_t>(bytes->w2));
    const auto start = std::chrono::steady_clock::now();
    MOEJIT_RETURN_IF_ERROR(
        moejit::pack_weights(config, w13, w2, peer->w13_.get(), peer->w2_.get(), "cpu"));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::fprintf(stderr, "packing: %.2f s, %.2f GB/s\n", took.count(),
                 static_cast<double>(bytes->w13 + bytes->w2) / took.count() * 1e-9);
    config.packed = true;
    moejit::Options options;
    options.device = "cpu";
    options.num_threads = threads;
    auto kernel = moejit::get_kernel(config, options);
    if (!kernel.ok()) return kernel.status();
    peer->kernel_ = *kernel;
    return std::unique_ptr<Peer>(std::move(peer));
  }
  std::string version() const override { return moejit::version(); }
  void prepare(int64_t tokens, const std::vector<int64_t>&) override {
    workspace_ = huge_pages(kernel_.workspace_size(tokens));
  }
  double run(int64_t tokens, const void* x, const int32_t* ids, const float* weights,
             void* out) override {
    const auto start = std::chrono::steady_clock::now();
    const moejit::Status status = kernel_.launch({.num_tokens = tokens,
                                                  .x = x,
                                                  .w13 = w13_.get(),
                                                  .w2 = w2_.get(),
                                                  .topk_ids = ids,
                                                  .topk_weights = weights,
                                                  .out = out,
                                                  .workspace = workspace_.get()});
    if (!status.ok()) throw std::runtime_error(status.to_string());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  moejit::Kernel kernel_;
  std::shared_ptr<void> w13_, w2_, workspace_;
};

}  // namespace moejit_bench
