// Elementary functions whose results are the same to the bit on every machine: exp and log, of a double or of each lane
// of a vector (lanes.h). Header-only, no Python, nothing here throws, allocates or prints.
//
// Only +, -, *, /, sqrt, comparisons and integer operations are used, each rounded once (build with -ffp-contract=off),
// so no libm and no vector width can change a certificate or a noise draw.
#ifndef RRISE_ELEMENTARY_H
#define RRISE_ELEMENTARY_H

#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace rrise {

// exp(x) for x <= 0.
//
// Range:     x <= 0, -inf included; at and below -708 the answer is 0 (an absolute error under 3.4e-308).
// Max error: 1 ulp.
// Rounding:  exact at 0.
// NaN:       gives 0; the caller must have refused NaN.
// Source:    Cody and Waite (1980) reduction x = k ln2 + r, |r| <= ln2/2, then the Taylor polynomial of degree 13
//            (remainder under 4.2e-18), summed as 1 + (r + r^2 P(r)).
template <class V>
RRISE_INLINE V exp_nonpositive(const V& x) noexcept {
  const double shift = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer held in the low bits
  const V t = x * 1.4426950408889634074 + shift;
  const V k = t - shift;
  // 6.93147180369123816490e-01 has 32 significant bits, so its product with |k| <= 1022 is exact.
  const V r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  // Estrin's scheme: the same polynomial as Horner's, with a third of the latency.
  const V r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
  const V p0 = (1.0 / 2 + 1.0 / 6 * r) + (1.0 / 24 + 1.0 / 120 * r) * r2;
  const V p4 = (1.0 / 720 + 1.0 / 5040 * r) + (1.0 / 40320 + 1.0 / 362880 * r) * r2;
  const V p8 = (1.0 / 3628800 + 1.0 / 39916800 * r) + (1.0 / 479001600 + 1.0 / 6227020800 * r) * r2;
  const V p = (p0 + p4 * r4) + p8 * r8;
  const V e = 1.0 + (r + r2 * p);
  // The low bits of t hold k in two's complement; shifted into the exponent field they multiply e by 2^k (k >= -1022).
  // Below -708 that is garbage, and not selected.
  const V scaled = from_bits<V>(bits_of(e) + (bits_of(t) << 52));
  return x > -708.0 ? scaled : V{};
}

// Natural logarithm of a positive normal number.
//
// Range:     2^-1022 <= x < inf; anything else gives a meaningless finite number.
// Max error: 1 ulp (0.82 measured on 2e6 points of (0, 1) against 50 digits).
// Rounding:  exact at 1.
// Source:    x = 2^k m, sqrt(1/2) <= m < sqrt(2), s = (m-1)/(m+1), log m = 2 atanh(s) by its series, arranged as in
//            fdlibm's e_log.c: k ln2_hi - ((m-1)^2/2 - (s ((m-1)^2/2 + R) + k ln2_lo) - (m-1)).
template <class V>
RRISE_INLINE V log_positive(const V& x) noexcept {
  const std::uint64_t sqrt_half = 0x3fe6a09e667f3bcdULL;
  const BitsOf<V> shifted = bits_of(x) - sqrt_half;  // exponent relative to sqrt(1/2) in the top 12 bits
  const BitsOf<V> exponent = shifted & 0xfff0000000000000ULL;
  const V m = from_bits<V>(bits_of(x) - exponent);
  // k = exponent >> 52 as a signed number, through the mantissa of a double: no 64-bit conversion in SSE2 or AVX2.
  const V k = from_bits<V>(((exponent >> 52) ^ 0x800ULL) | 0x4330000000000000ULL) - (4503599627370496.0 + 2048.0);
  const V f = m - 1.0;
  const V s = f / (2.0 + f);
  const V z = s * s;
  V p = all<V>(2.0 / 23.0);
  p = p * z + 2.0 / 21.0;
  p = p * z + 2.0 / 19.0;
  p = p * z + 2.0 / 17.0;
  p = p * z + 2.0 / 15.0;
  p = p * z + 2.0 / 13.0;
  p = p * z + 2.0 / 11.0;
  p = p * z + 2.0 / 9.0;
  p = p * z + 2.0 / 7.0;
  p = p * z + 2.0 / 5.0;
  p = p * z + 2.0 / 3.0;
  const V r = p * z;
  const V half_square = 0.5 * f * f;
  return k * 6.93147180369123816490e-01 -
         ((half_square - (s * (half_square + r) + k * 1.90821492927058770002e-10)) - f);
}

}  // namespace rrise

#endif  // RRISE_ELEMENTARY_H
