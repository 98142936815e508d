// The tensors of one launch, from a safetensors file to the device that runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backends/backend.h"
#include "base/safetensors.h"
#include "moejit/config.h"

namespace moejit::tools {

// x, w13, w2, and topk_ids with topk_weights, or router_logits; b13 and b2 where the config has a
// bias, correction_bias where its router has one. Views into the file; small tensors are converted.
struct LayerInputs {
  int64_t num_tokens = 0;
  bool routed = false;  // by the layer itself, from router_logits
  internal::TensorView x, w13, w2, b13, b2;
  std::vector<int32_t> topk_ids;       // [T,K]; an id beyond int32 became -1
  std::vector<float> topk_weights;     // [T,K]
  std::vector<float> router_logits;    // [T,E]
  std::vector<float> correction_bias;  // [E]
};

// kInvalidArgument names the tensor, what it is and what it must be: missing and unknown names,
// wrong types, wrong shapes, and where `strict` the first id outside [0, num_experts).
Result<LayerInputs> read_layer_inputs(const internal::SafeTensors& file, const MoeConfig& config,
                                      bool strict);

internal::TensorType tensor_type(DType dtype);

// A tensor where its kernel can read it.
struct Placed {
  std::shared_ptr<void> owner;  // null where the file's own memory serves
  void* data = nullptr;
};

// Copies to the device; on the CPU and the simulator only what the file does not hold at a multiple
// of 16 bytes. A tensor without elements gets an address of its own all the same.
Result<Placed> place(const internal::Device& device, const void* host, int64_t bytes);

}  // namespace moejit::tools
