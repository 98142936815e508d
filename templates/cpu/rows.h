// Which rows of w13 and b13 are gate and which up.
#pragma once
#include "simd.h"

namespace moejit_cpu {

constexpr i64 kW13Rows = (i64)(kGated ? 2 : 1) * kIntermediateSize;
// Row of w13 (column, where transposed) that gives gate i or, with part 1, up i.
constexpr i64 w13_row(i64 i, int part) {
  const int place = kUpFirst ? 1 - part : part;
  return !kGated ? i : kInterleaved ? 2 * i + place : place * (i64)kIntermediateSize + i;
}

}  // namespace moejit_cpu
