// The peer: the same layer by oneDNN, as one would build it from a general matrix library.
#pragma once

#include "bench/cpu_moe/peer.h"

namespace moejit_bench {

// Per touched expert: gather, product by w13, SiLU and product of gate and up, product by w2; then
// the weighted sum over experts. Weights are reordered into the layout that the library asks for,
// and primitives are created, before anything is timed.
class OneDnnLayer : public Peer {
 public:
  // Copies and reorders the weights: as much memory again as they take.
  OneDnnLayer(const moejit::MoeConfig& config, const void* w13, const void* w2, int num_threads);
  ~OneDnnLayer() override;

  std::string version() const override;
  // Creates the primitives for these row counts.
  void prepare(int64_t tokens, const std::vector<int64_t>& rows_per_expert) override;
  // All of it counts.
  double run(int64_t tokens, const void* x, const int32_t* ids, const float* weights,
             void* out) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moejit_bench
