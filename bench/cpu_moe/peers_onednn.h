// The peer: the same layer by oneDNN, as one would build it from a general matrix library.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moejit/config.h"

namespace moejit_bench {

// Per touched expert: gather, product by w13, SiLU and product of gate and up, product by w2; then
// the weighted sum over experts. Weights are reordered into the layout that the library asks for,
// and primitives are created, before anything is timed. bf16, gated SiLU, no bias. One thread at a
// time.
class OneDnnLayer {
 public:
  static std::string version();

  // Copies and reorders the weights: as much memory again as they take.
  OneDnnLayer(const moejit::MoeConfig& config, const void* w13, const void* w2, int num_threads);
  ~OneDnnLayer();

  // Creates the primitives for these row counts.
  void prepare(const std::vector<int64_t>& rows_per_expert);
  void run(int64_t tokens, const void* x, const int32_t* ids, const float* weights, void* out);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace moejit_bench
