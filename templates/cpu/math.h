// Elementary functions on 8 lanes, without libm. Errors are below 3e-7 relative unless said.
#pragma once
#include "simd.h"

namespace moejit_cpu {

typedef int I8 __attribute__((vector_size(32)));
typedef u32 U8 __attribute__((vector_size(32)));

MOEJIT_INLINE F8 splat(float v) {
  return F8{} + v;
}

// e^x. Cody-Waite reduction by ln 2, degree 6; scaled in two steps, so that results underflow and
// overflow gradually and at the right arguments. NaN in, NaN out.
MOEJIT_INLINE F8 exp(F8 x) {
  x = x > splat(89.0f) ? splat(89.0f) : x;
  x = x < splat(-104.0f) ? splat(-104.0f) : x;
  const F8 shift = splat(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the rounded integer
  const F8 t = x * splat(1.44269504f) + shift;
  const F8 n = t - shift;
  F8 r = x - n * splat(0.693359375f);
  r = r - n * splat(-2.12194440e-4f);
  F8 p = splat(1.3751131e-3f);
  p = p * r + splat(8.3689922e-3f);
  p = p * r + splat(4.1669544e-2f);
  p = p * r + splat(1.6666518e-1f);
  p = p * r + splat(0.49999988f);
  p = p * (r * r) + r + splat(1.0f);
  const I8 k = (I8)t - (I8)shift;
  const I8 half = k >> 1;
  return p * (F8)((half + 127) << 23) * (F8)((k - half + 127) << 23);
}

MOEJIT_INLINE F8 sigmoid(F8 x) {
  return splat(1.0f) / (splat(1.0f) + exp(-x));
}

MOEJIT_INLINE F8 abs(F8 x) {
  return (F8)((U8)x & 0x7fffffff);
}

// The normal distribution function, 0.5 * (1 + erf(x / sqrt 2)): half of erfc(a) for a = |x|/sqrt
// 2, mirrored; erfc(a) = e^(-a*a) * t * P(t), t = 1 / (1 + 0.3 a), with P fitted by least squares
// to 3e-8. The tail's relative error grows with a*a, to 3e-6 where the value is 1e-10.
MOEJIT_INLINE F8 normal_cdf(F8 x) {
  const F8 a = abs(x) * splat(0.70710678f);
  const F8 t = splat(1.0f) / (splat(1.0f) + splat(0.3f) * a);
  F8 p = splat(-0.13049078f);
  p = p * t + splat(0.49039388f);
  p = p * t + splat(-0.52256340f);
  p = p * t + splat(0.55989873f);
  p = p * t + splat(-0.10340524f);
  p = p * t + splat(0.21883079f);
  p = p * t + splat(0.14728566f);
  p = p * t + splat(0.17087221f);
  p = p * t + splat(0.16917813f);
  const F8 half = splat(0.5f) * exp(-(a * a)) * t * p;
  return x < F8{} ? half : splat(1.0f) - half;
}

// log(1 + e^x) = max(x, 0) + log1p(y), y = e^-|x|; log1p(y) = 2 atanh(y / (2 + y)).
MOEJIT_INLINE F8 softplus(F8 x) {
  const F8 y = exp(-abs(x));
  const F8 z = y / (splat(2.0f) + y);
  const F8 q = z * z;
  F8 p = splat(0.14450590f);
  p = p * q + splat(0.13922651f);
  p = p * q + splat(0.20014314f);
  p = p * q + splat(0.33333182f);
  return (x < F8{} ? F8{} : x) + splat(2.0f) * (z + z * q * p);
}

MOEJIT_INLINE F8 sqrt(F8 x) {
  return __builtin_ia32_sqrtps256(x);
}

static_assert(kActivation >= 0 && kActivation <= 5, "unknown activation");

// The layer's activation (formulas: Activation in config.h). A NaN stays a NaN in the clamps.
MOEJIT_INLINE F8 activate(F8 g, F8 u) {
  constexpr int kSilu = 0, kGelu = 1, kGeluTanh = 2, kRelu2 = 3, kSwigluOai = 4, kSiluClamp = 5;
  if constexpr (kActivation == kSwigluOai || kActivation == kSiluClamp) {
    const F8 limit = splat((float)kSwigluLimit);
    g = g > limit ? limit : g;
    u = u > limit ? limit : u;
    u = u < -limit ? -limit : u;
  }
  F8 a;
  if constexpr (kActivation == kSilu || kActivation == kSiluClamp) {
    a = g * sigmoid(g);
  } else if constexpr (kActivation == kGelu) {
    a = g * normal_cdf(g);
  } else if constexpr (kActivation == kGeluTanh) {
    // 0.5 * (1 + tanh z) is sigmoid(2 z), which keeps its digits where tanh is near -1.
    const F8 z = splat(0.7978845608f) * (g + splat(0.044715f) * g * g * g);
    a = g * sigmoid(z + z);
  } else if constexpr (kActivation == kRelu2) {
    a = g < F8{} ? F8{} : g * g;
  } else {
    a = g * sigmoid(splat((float)kSwigluAlpha) * g);
    u = u + splat(1.0f);
  }
  if constexpr (kGated) a = a * u;
  return a;
}

}  // namespace moejit_cpu
