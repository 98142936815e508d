// Functions of primitives.md that AMD's instruction set has no instruction for, from
// multiplications and additions alone. The same text runs on the GPU and on the simulator, so that
// what the tests measure on the host is what the device computes.
#pragma once

namespace dev {

// 2^n by its bits; n in [-126, 127].
MOEJIT_DEVICE f32 power_of_two(i32 n) {
  return as_f32(static_cast<u32>(n + 127) << 23);
}

// e^x = 2^n e^r with |r| <= ln(2) / 2; the series of e^r to the seventh power.
MOEJIT_DEVICE f32 exp_f32(f32 x) {
  if (x != x) return x;
  if (x > 88.7228394f) return as_f32(0x7f800000u);
  if (x < -103.9720840f) return 0.0f;
  const f32 scaled = x * 1.44269504088896340736f;
  const i32 n = static_cast<i32>(scaled + (scaled < 0.0f ? -0.5f : 0.5f));
  const f32 k = static_cast<f32>(n);
  f32 r = fma_f32(k, -0.693359375f, x);  // the high bits of ln 2: the product is exact
  r = fma_f32(k, 2.12194440e-4f, r);
  f32 p = 1.0f / 5040.0f;
  p = fma_f32(p, r, 1.0f / 720.0f);
  p = fma_f32(p, r, 1.0f / 120.0f);
  p = fma_f32(p, r, 1.0f / 24.0f);
  p = fma_f32(p, r, 1.0f / 6.0f);
  p = fma_f32(p, r, 0.5f);
  p = fma_f32(p, r, 1.0f);
  p = fma_f32(p, r, 1.0f);
  // In two steps, for results below the normal range and for 2^128 (1 - epsilon).
  const i32 half = n / 2;
  return p * power_of_two(half) * power_of_two(n - half);
}

// tanh by e^2|x|; by its series where the difference would cancel.
MOEJIT_DEVICE f32 tanh_f32(f32 x) {
  const f32 a = x < 0.0f ? -x : x;
  if (a < 0.35f) {
    const f32 s = x * x;
    f32 p = -1382.0f / 155925.0f;
    p = fma_f32(p, s, 62.0f / 2835.0f);
    p = fma_f32(p, s, -17.0f / 315.0f);
    p = fma_f32(p, s, 2.0f / 15.0f);
    p = fma_f32(p, s, -1.0f / 3.0f);
    return fma_f32(x * s, p, x);
  }
  const f32 t = a > 10.0f ? 1.0f : 1.0f - 2.0f / (exp_f32(2.0f * a) + 1.0f);
  return x != x ? x : x < 0.0f ? -t : t;
}

// Chebyshev interpolants: of erf(x) / x in x^2 below 1 (relative error 2^-29), beyond of
// erfc(x) e^(x^2) in 1 / (1 + x) (2^-26).
MOEJIT_DEVICE f32 erf_f32(f32 x) {
  if (x != x) return x;
  const f32 a = x < 0.0f ? -x : x;
  if (a > 4.0f) return x < 0.0f ? -1.0f : 1.0f;
  if (a < 1.0f) {
    const f32 t = fma_f32(2.0f * a, a, -1.0f);
    f32 p = 1.23164011e-6f;
    p = fma_f32(p, t, -1.76690810e-5f);
    p = fma_f32(p, t, 2.17511988e-4f);
    p = fma_f32(p, t, -2.28541950e-3f);
    p = fma_f32(p, t, 1.98524985e-2f);
    p = fma_f32(p, t, -1.40536100e-1f);
    p = fma_f32(p, t, 9.65468764e-1f);
    return x * p;
  }
  const f32 t = (2.0f / (1.0f + a) - 0.7f) * (1.0f / 0.3f);
  f32 p = -1.02857223e-6f;
  p = fma_f32(p, t, -2.00046634e-6f);
  p = fma_f32(p, t, 4.30583241e-5f);
  p = fma_f32(p, t, -1.12428999e-4f);
  p = fma_f32(p, t, -1.38771953e-3f);
  p = fma_f32(p, t, 1.08530605e-2f);
  p = fma_f32(p, t, 1.46637753e-1f);
  p = fma_f32(p, t, 2.71552891e-1f);
  const f32 v = 1.0f - exp_f32(-a * a) * p;
  return x < 0.0f ? -v : v;
}

// ln(1 + x) for x in [0, 1], all that softplus needs: 2 atanh(x / (2 + x)).
MOEJIT_DEVICE f32 log1p_f32(f32 x) {
  const f32 z = x / (2.0f + x);
  const f32 s = z * z;
  f32 p = 2.0f / 15.0f;
  p = fma_f32(p, s, 2.0f / 13.0f);
  p = fma_f32(p, s, 2.0f / 11.0f);
  p = fma_f32(p, s, 2.0f / 9.0f);
  p = fma_f32(p, s, 2.0f / 7.0f);
  p = fma_f32(p, s, 2.0f / 5.0f);
  p = fma_f32(p, s, 2.0f / 3.0f);
  return fma_f32(z * s, p, 2.0f * z);
}

}  // namespace dev
