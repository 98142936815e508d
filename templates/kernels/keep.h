// Which of the results that pass through the workspace stay in the L2 cache. h and the partial
// results y are dead when y has been added up, but a cache does not know that: it writes what
// it holds of them to memory while the next launch reads its weights, and such a byte takes the
// time of one and a half that are read. So where they fit tile90.h stores them to stay, and the
// combine, or down where it adds up, discards them (docs/performance_gpu_steps.md, 38). Families
// that were not timed with it have kL2Bytes = 0: nothing is kept.
#pragma once

#include "kernels/common.h"

namespace moe {

constexpr i64 kLineBytes = 128;

// y: kParts rows of each slot, of f32, or of 16 bits where kHalf.
template <int kParts, bool kHalf>
struct Kept {
  static constexpr i64 kRowOfY = static_cast<i64>(kHiddenSize) * (kHalf ? 2 : 4);
  static constexpr i64 kRowOfH = static_cast<i64>(kIntermediateSize) * kElement;
  static constexpr i64 kYBytes = kSlots * kParts * kRowOfY;  // of a token
  static constexpr i64 kHBytes = kSlots * kRowOfH;
  // Up to so many tokens, all of whose slots count. Of a y that is larger than the cache the last
  // part is still there when it is added up; h is the older of the two and leaves first. None
  // where rows of y share lines.
  static constexpr i64 kTokensY = kRowOfY % kLineBytes == 0 ? kL2Bytes * 3 / 2 / kYBytes : 0;
  static constexpr i64 kTokensH = min_of64(kL2Bytes * 3 / 4 / kYBytes, kL2Bytes / kHBytes);

  static MOEJIT_DEVICE bool y(i64 tokens) { return tokens <= kTokensY; }
  static MOEJIT_DEVICE bool h(i64 tokens) { return tokens <= kTokensH; }
};

}  // namespace moe
