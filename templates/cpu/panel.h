// Panels: 16 rows of weights (8 on 256 bits) in the order in which a tile reads them. Rows stay
// rows: a vector holds 16 bytes, a quad, of each of 4 (2) rows, so packing moves whole quads, two
// shuffles a line, where a full transposition takes four.
#pragma once
#include "simd.h"

namespace moejit_cpu {

constexpr int kGroup = kLanes / 4;                // rows that share a vector
constexpr int kTileVectors = 4;                   // vectors of a step
constexpr int kTileRows = kTileVectors * kGroup;  // = kLanes: one vector of results a token
constexpr int kQuad = 16 / (int)sizeof(XElem);    // elements of K of one row in a vector
constexpr int kColumn = 4 * kQuad;                // elements of K that are packed at a time
constexpr int kStepElements = kTileRows * kQuad;  // of a panel, one quad of every row
constexpr int kHalfRows = kTileRows / 2;

// Where the rows are: two runs of equally spaced rows, each of kHalfRows. Rows beyond `last` (the
// end of the matrix) are copies of it, computed and thrown away.
struct Panel {
  const WElem* half[2];
  i64 stride;  // elements
  i64 length;  // elements of K; 0: no panel
  int last[2];

  MOEJIT_INLINE_MEMBER const WElem* row(int r) const {
    const int h = r / kHalfRows, i = r % kHalfRows;
    return half[h] + (i < last[h] ? i : last[h]) * stride;
  }
};

MOEJIT_INLINE Panel no_panel() {
  return {{nullptr, nullptr}, 0, 0, {0, 0}};
}

// Four quads of each of the rows v, 4 + v, 8 + v, ... at k to four steps of the panel: row r is in
// vector r % 4, part r / 4, whence the sums of a tile come out in order.
MOEJIT_INLINE void pack_group(const Panel& from, i64 k, int v, XElem* panel) {
  XElem* to = panel + k * kTileRows + v * kGroup * kQuad;
#ifdef __AVX512F__
  const L a = (L)Op::w_quads(from.row(v) + k), b = (L)Op::w_quads(from.row(4 + v) + k);
  const L c = (L)Op::w_quads(from.row(8 + v) + k), d = (L)Op::w_quads(from.row(12 + v) + k);
  const L ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
  const L cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11);
  store<L>(to, __builtin_shufflevector(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13));
  store<L>(to + kStepElements, __builtin_shufflevector(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15));
  const L e = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  const L f = __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
  store<L>(to + 2 * kStepElements, __builtin_shufflevector(e, f, 0, 1, 4, 5, 8, 9, 12, 13));
  store<L>(to + 3 * kStepElements, __builtin_shufflevector(e, f, 2, 3, 6, 7, 10, 11, 14, 15));
#else
  MOEJIT_UNROLL for (int half = 0; half < 2; ++half, k += 2 * kQuad, to += 2 * kStepElements) {
    const L a = (L)Op::w_quads(from.row(v) + k), b = (L)Op::w_quads(from.row(4 + v) + k);
    store<L>(to, __builtin_shufflevector(a, b, 0, 1, 4, 5));
    store<L>(to + kStepElements, __builtin_shufflevector(a, b, 2, 3, 6, 7));
  }
#endif
}

// What is left of K behind the last whole column.
static __attribute__((noinline)) void pack_tail(const Panel& from, XElem* panel) {
  for (i64 k = from.length / kColumn * kColumn; k < from.length; k += kQuad) {
    for (int r = 0; r < kTileRows; ++r) {
      Op::store_quad(panel + k * kTileRows + (r % 4 * kGroup + r / 4) * kQuad, from.row(r) + k);
    }
  }
}

// A panel that nobody has foreseen: first all its lines on their way, then four rows at a time
// (sixteen rows of an even stride collide in the L1).
static __attribute__((noinline)) void pack(const Panel& from, XElem* panel) {
  for (int r = 0; r < kTileRows; ++r) {
    const char* row = (const char*)from.row(r);
    for (i64 at = 0; at < from.length * (i64)sizeof(WElem); at += 64) prefetch(row + at);
  }
  for (int v = 0; v < kTileVectors; ++v) {
    for (i64 k = 0; k + kColumn <= from.length; k += kColumn) pack_group(from, k, v, panel);
  }
  pack_tail(from, panel);
}

// Lines of a panel in address order: runs of `run` lines, `skip` bytes from the end of one to the
// next. To the L2: the tiles to come would push this one out of the L1.
struct Lines {
  const char* next;
  i64 left, run, skip;

  MOEJIT_INLINE_MEMBER void step() {
    prefetch(next);
    next += 64;
    if (--left == 0) {
      next += skip;
      left = run;
    }
  }
};

// The lines of `panel` from number `at` on.
MOEJIT_INLINE Lines lines_of(const Panel& panel, i64 at) {
  const i64 row = panel.length * (i64)sizeof(WElem), stride = panel.stride * (i64)sizeof(WElem);
  const bool whole = row == stride;  // rows follow each other
  const i64 bytes = whole ? kHalfRows * row : row;
  const i64 run = (bytes + 63) / 64;
  const i64 gap = whole ? (const char*)panel.half[1] - (const char*)panel.half[0] : stride;
  return {(const char*)panel.half[0] + at / run * gap + at % run * 64, run - at % run, run,
          gap - run * 64};
}

// Two buffers of a worker: the panel that tiles read, and the one that is packed meanwhile.
struct PanelBuffers {
  XElem* current;
  XElem* other;
  const WElem* packed;  // first row of what `current` holds, or null
  i64 length;

  // After it, `current` holds `panel`.
  MOEJIT_INLINE_MEMBER void need(const Panel& panel) {
    if (packed != panel.half[0] || length != panel.length) pack(panel, current);
  }
  // `next` has been packed into the other one.
  MOEJIT_INLINE_MEMBER void turn(const Panel& next) {
    XElem* const swap = current;
    current = other;
    other = swap;
    packed = next.length != 0 ? next.half[0] : nullptr;
    length = next.length;
  }
};

}  // namespace moejit_cpu
