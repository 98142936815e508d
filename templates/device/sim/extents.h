// The sizes of a layer's tensors, told to the simulator so that it checks every access against
// them. The simulator appends this file to kernels that carry the constants of a layer.
#pragma once

#include "config_example.h"

// Bytes of a tensor of MoeArgs, in the order of its fields.
extern "C" __attribute__((visibility("default"))) long long moejit_sim_extent(int which,
                                                                              long long tokens,
                                                                              int logits_dtype) {
  using namespace moejit_cfg;
  constexpr long long kElementBytes = kDType == 0 ? 4 : 2;
  constexpr long long kAllExperts = kNumExperts + kNumSharedExperts;
  constexpr long long kRowsOfW13 = (kGated ? 2LL : 1LL) * kIntermediateSize;
  switch (which) {
    case 0:
    case 9:
      return tokens * kHiddenSize * kElementBytes;  // x, out
    case 1:
      return kAllExperts * kRowsOfW13 * kHiddenSize * kElementBytes;  // w13
    case 2:
      return kAllExperts * kHiddenSize * kIntermediateSize * kElementBytes;
    case 3:
      return kAllExperts * kRowsOfW13 * kElementBytes;  // b13
    case 4:
      return kAllExperts * kHiddenSize * kElementBytes;
    case 5:
    case 6:
      return tokens * kTopK * 4;  // topk_ids, topk_weights
    case 7:
      return tokens * kNumExperts * (logits_dtype == 0 ? 4 : 2);
    case 8:
      return kNumExperts * 4;
    default:
      return -1;
  }
}
