// Element conversions of the tests, written from the formats' definition (sign, exponent, fraction
// with a hidden bit) and not from the product's bit tricks.
#pragma once

#include <cstdint>
#include <vector>

#include "moejit/config.h"

namespace moejit_test {

// The value nearest to `value` in the dtype, ties to even; what rounds above the largest is
// infinite.
double round_to(moejit::DType dtype, double value);

// Bits of a value of the dtype (round_to is applied first; every NaN gives one with a full
// fraction), and back. f32 uses 32 bits, the others 16.
uint32_t encode(moejit::DType dtype, double value);
double decode(moejit::DType dtype, uint32_t bits);

void store(moejit::DType dtype, const std::vector<double>& values, void* out);
std::vector<double> load(moejit::DType dtype, const void* data, size_t count);

}  // namespace moejit_test
