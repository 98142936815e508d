// What both forms of the layer, of weights in place and of packed ones, share: how the two products
// are cut into tasks.
#pragma once
#include "plan.h"

namespace moejit_cpu {

constexpr int kRowBlocks = (kIntermediateSize + kSched_row_block - 1) / kSched_row_block;

constexpr i64 kXLines = ((i64)kHiddenSize * (i64)sizeof(XElem) + 63) / 64;
constexpr int kColumnBlocks = (kHiddenSize + kSched_column_block - 1) / kSched_column_block;

// Elements of I of one piece: a long I is cut so that a unit's rows of h stay in the L2.
constexpr i64 kPiece = kDownChunk < kIntermediateSize ? (i64)kDownChunk : (i64)kIntermediateSize;

// Rows of x of a unit to come, from the sorted pair `first` on: to the L2, slice by slice.
struct XRows {
  i64 first, lines, slice;
  i64 line = 0;

  MOEJIT_INLINE_MEMBER void fetch_slice(const Workspace& ws) {
    for (const i64 stop = line + slice; line < lines && line < stop; ++line) {
      const i64 row = ws.tokens[first + line / kXLines] * ws.plan->x_stride;
      prefetch((const char*)(ws.plan->x + row) + line % kXLines * 64);
    }
  }
};

// Those of the next task's unit, a slice with every `step` of `width` elements of I.
MOEJIT_INLINE XRows x_rows_of(const Unit& unit, const Unit& next, i64 next_task, int step,
                              i64 width) {
  const i64 lines = next_task < 0 || next.first == unit.first ? 0 : next.count * kXLines;
  return {next.first, lines, lines * step / width + 1};
}

// Writes columns [begin, end) of out.
static void finish(const MoeArgs* args, const float* acc, i64 begin, i64 end) {
  for (i64 t = 0; t < args->num_tokens; ++t) {
    const float* from = acc + t * kSched_column_block;
    WElem* to = (WElem*)args->out + t * kHiddenSize + begin;
    i64 n = 0;
    for (; n + kLanes <= end - begin; n += kLanes) E::from_f32<kLanes>(to + n, load<F>(from + n));
    for (; n < end - begin; n += 4) E::from_f32<4>(to + n, load<F4>(from + n));
  }
}

}  // namespace moejit_cpu
