// What a launch hands to a kernel. Shared by the host library and every generated kernel, so:
// no include, no library type, same layout under every compiler.
#pragma once

namespace moejit_abi {

struct MoeArgs {
  const void* x;  // [T,H]
  const void* w13;
  const void* w2;
  const void* b13;  // null unless bias
  const void* b2;
  const int* topk_ids;           // [T,K]; for a routed launch: where `route` wrote them
  const float* topk_weights;     // [T,K]
  const void* router_logits;     // [T,E]; null unless routed
  const float* correction_bias;  // [E] or null
  void* out;                     // [T,H]
  void* workspace;               // 256-byte aligned
  long long num_tokens;
  int logits_dtype;  // DType of router_logits
  int routed;        // 1: the `route` entry ran first
};

}  // namespace moejit_abi
