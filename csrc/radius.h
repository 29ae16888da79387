// From an engine's logits to a certificate: softmax, calibration curve, radius. Header-only, no Python; nothing here
// throws, allocates or prints, and every answer is the same to the bit on every machine (see elementary.h).
//
//   Certificate c = certify(logits, classes, curve, sigma);   // one row; c.label is -1 and c.radius 0 to abstain
//   certify_rows(logits, rows, classes, curve, sigma, out);   // many rows
//   double r = radius(p_lower, sigma);                        // sigma * Phi^-1(p_lower), never above it
//
// A certificate is issued only where a condition that a NaN fails is met; everything else abstains.
#ifndef RRISE_RADIUS_H
#define RRISE_RADIUS_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "elementary.h"
#include "softmax.h"

namespace rrise {

// The piecewise-linear calibration curve through (q[j], p[j]), j < size.
// The caller has checked: size >= 2, q strictly increasing from 0.0 to 1.0, |p| <= 1e300.
struct Curve {
  const double* q;
  const double* p;
  std::size_t size;
};

struct Certificate {
  std::int64_t label;  // -1: abstain
  double q;            // softmax probability of the first largest logit; NaN if a logit is not finite
  double p_lower;      // curve(q), rounded down; 0 if a logit is not finite
  double radius;       // L2, in the unit of sigma; 0 if and only if label is -1
};

// Where certify_rows puts its answers: four arrays of `rows` elements.
struct Certificates {
  std::int64_t* label;
  double* q;
  double* p_lower;
  double* radius;
};

// The three rational functions of AS241: of d = p - 1/2 <= 0.425, and of r = sqrt(-log(1 - p)) up to 5 and beyond.
template <class V>
RRISE_INLINE V probit_middle(const V& d) noexcept {
  const V r = 0.180625 - d * d;
  V num = all<V>(2.5090809287301226727e+3);
  num = num * r + 3.3430575583588128105e+4;
  num = num * r + 6.7265770927008700853e+4;
  num = num * r + 4.5921953931549871457e+4;
  num = num * r + 1.3731693765509461125e+4;
  num = num * r + 1.9715909503065514427e+3;
  num = num * r + 1.3314166789178437745e+2;
  num = num * r + 3.3871328727963666080e+0;
  num = num * d;
  V den = all<V>(5.2264952788528545610e+3);
  den = den * r + 2.8729085735721942674e+4;
  den = den * r + 3.9307895800092710610e+4;
  den = den * r + 2.1213794301586595867e+4;
  den = den * r + 5.3941960214247511077e+3;
  den = den * r + 6.8718700749205790830e+2;
  den = den * r + 4.2313330701600911252e+1;
  den = den * r + 1.0;
  return num / den;
}
template <class V>
RRISE_INLINE V probit_tail(const V& root) noexcept {
  const V r = root - 1.6;
  V num = all<V>(7.74545014278341407640e-4);
  num = num * r + 2.27238449892691845833e-2;
  num = num * r + 2.41780725177450611770e-1;
  num = num * r + 1.27045825245236838258e+0;
  num = num * r + 3.64784832476320460504e+0;
  num = num * r + 5.76949722146069140550e+0;
  num = num * r + 4.63033784615654529590e+0;
  num = num * r + 1.42343711074968357734e+0;
  V den = all<V>(1.05075007164441684324e-9);
  den = den * r + 5.47593808499534494600e-4;
  den = den * r + 1.51986665636164571966e-2;
  den = den * r + 1.48103976427480074590e-1;
  den = den * r + 6.89767334985100004550e-1;
  den = den * r + 1.67638483018380384940e+0;
  den = den * r + 2.05319162663775882187e+0;
  den = den * r + 1.0;
  return num / den;
}
template <class V>
RRISE_INLINE V probit_far(const V& root) noexcept {
  const V r = root - 5.0;
  V num = all<V>(2.01033439929228813265e-7);
  num = num * r + 2.71155556874348757815e-5;
  num = num * r + 1.24266094738807843860e-3;
  num = num * r + 2.65321895265761230930e-2;
  num = num * r + 2.96560571828504891230e-1;
  num = num * r + 1.78482653991729133580e+0;
  num = num * r + 5.46378491116411436990e+0;
  num = num * r + 6.65790464350110377720e+0;
  V den = all<V>(2.04426310338993978564e-15);
  den = den * r + 1.42151175831644588870e-7;
  den = den * r + 1.84631831751005468180e-5;
  den = den * r + 7.86869131145613259100e-4;
  den = den * r + 1.48753612908506148525e-2;
  den = den * r + 1.36929880922735805310e-1;
  den = den * r + 5.99832206555887937690e-1;
  den = den * r + 1.0;
  return num / den;
}

// The largest double below 1, the largest p that has a finite radius.
constexpr double kLargestP = 1.0 - std::numeric_limits<double>::epsilon() / 2.0;

// What undoes the error of the three above: see probit_down.
constexpr double kProbitDown = 1.0 - 16.0 * 0x1p-53;

// Phi^-1(p), never above it.
//
// Range:     1/2 < p <= 1; anything else, NaN too, gives 0. p = 1 is answered as 1 - 2^-53 (8.2095), a finite lower
//            bound.
// Max error: below the truth by at most 24 units of 2^-53 relative; monotone in p up to that much.
// Rounding:  down: AS241 here is within 5.9 units of 2^-53 of the truth, so the factor 1 - 16 * 2^-53 clears it.
// NaN:       gives 0.
// Source:    Wichura (1988), Algorithm AS241 (PPND16), Applied Statistics 37(3), 477-484. p - 1/2 and 1 - p are exact
//            here (Sterbenz), so neither the middle nor the tail loses digits.
RRISE_INLINE double probit_down(double p) noexcept {
  if (!(p > 0.5 && p <= 1.0)) return 0.0;
  p = p < kLargestP ? p : kLargestP;
  const double d = p - 0.5;
  if (d <= 0.425) return probit_middle(d) * kProbitDown;
  const double root = std::sqrt(-log_positive(1.0 - p));
  return (root <= 5.0 ? probit_tail(root) : probit_far(root)) * kProbitDown;
}

// The next smaller double of a positive number; 0 stays 0.
RRISE_INLINE double step_down(double x) noexcept { return x > 0.0 ? from_bits(bits_of(x) - 1) : 0.0; }

// The certified L2 radius sigma * Phi^-1(p_lower), never above it; 0 where p_lower <= 1/2, > 1 or is NaN.
//
// Range:     0 < sigma < inf.
// Rounding:  down: probit_down is a lower bound, the product's rounding is undone by one step towards 0. An overflow
//            becomes the largest double (still a lower bound), an underflow 0 (abstain).
RRISE_INLINE double radius(double p_lower, double sigma) noexcept { return step_down(sigma * probit_down(p_lower)); }

// The curve at q, never above the exact piecewise-linear interpolation of its knots, clamped to [0, 1].
//
// Range:     0 <= q <= 1; anything else, NaN too, gives 0.
// Max error: below the truth by at most 2^-48 S + 3e-308, S = max(|p_j|, |p_j+1|) of the segment; exact at a knot and
//            on a level segment. Monotone in q if the knots are.
// Rounding:  down. With u = 2^-53, q - q_j, q_j+1 - q_j, p_j+1 - p_j, the quotient and the product are each within a
//            factor 1 + u, so their combination is within 5.1u * 2S; the last sum adds 1.1u * S; together under 12 u S,
//            and subtracting 2^-49 S = 16 u S (itself rounded, 1.1 u S) leaves a margin. 2^-1022 covers underflow. On a
//            rising segment that is at most p_j+1, and raised to p_j where it fell below, so no knot breaks the order.
RRISE_INLINE double curve_down(const Curve& curve, double q) noexcept {
  if (!(q >= 0.0 && q <= 1.0)) return 0.0;
  std::size_t low = 0;  // q[low] <= q <= q[low + 1], found by halving without a branch that could be guessed wrong
  for (std::size_t segments = curve.size - 1; segments > 1;) {
    const std::size_t half = segments / 2;
    low += curve.q[low + half] <= q ? half : 0;
    segments -= half;
  }
  const double q0 = curve.q[low], q1 = curve.q[low + 1], p0 = curve.p[low], p1 = curve.p[low + 1];
  double p;
  if (q == q0 || p0 == p1) {
    p = p0;
  } else if (q == q1) {
    p = p1;
  } else {
    const double size0 = std::fabs(p0), size1 = std::fabs(p1);
    const double slack = (size0 > size1 ? size0 : size1) * 0x1p-49 + 0x1p-1022;
    p = (p0 + (p1 - p0) * ((q - q0) / (q1 - q0))) - slack;
    const double lower = p0 < p1 ? p0 : p1;  // a bound too, and just above a knot the better one
    p = p > lower ? p : lower;
  }
  return p > 0.0 ? (p < 1.0 ? p : 1.0) : 0.0;
}

// The certificate of one row of logits. Certified only if p_lower > 1/2 and the radius is positive; else label -1,
// radius 0.
template <class V = double, class Real>
RRISE_INLINE Certificate certify(const Real* logits, std::size_t classes, const Curve& curve, double sigma) noexcept {
  const Top t = top<V>(logits, classes);
  if (!(t.q > 0.0)) return {kAbstain, t.q, 0.0, 0.0};
  const double p = curve_down(curve, t.q);
  const double r = radius(p, sigma);
  if (p > 0.5 && r > 0.0) return {t.label, t.q, p, r};
  return {kAbstain, t.q, p, 0.0};
}

// What certify does after the softmax, for up to kTile rows whose label and q are known: the same operations on the same
// numbers, hence the same bits. All three branches of probit_down are computed and one is selected, so rows share
// vector instructions instead of waiting for one another.
template <class V>
RRISE_INLINE void certify_tile(std::size_t rows, const Curve& curve, double sigma, const Certificates& out) noexcept {
  constexpr std::size_t L = lanes_of<V>;
  double p[kTile], root[kTile], r[kTile];
  const std::size_t padded = (rows + L - 1) / L * L;
  for (std::size_t l = 0; l < padded; ++l) p[l] = l < rows ? curve_down(curve, out.q[l]) : 0.0;
  for (std::size_t l = 0; l < padded; l += L) {
    const V x = load<V>(p + l), least = 1.0 - (x < kLargestP ? x : all<V>(kLargestP));
    store(root + l, V(-log_positive<V>(least)));
  }
  for (std::size_t l = 0; l < padded; ++l) root[l] = std::sqrt(root[l]);
  for (std::size_t l = 0; l < padded; l += L) {
    const V x = load<V>(p + l), s = load<V>(root + l);
    const V d = (x < kLargestP ? x : all<V>(kLargestP)) - 0.5;
    const V beyond = s <= 5.0 ? probit_tail<V>(s) : probit_far<V>(s);
    const V middle = probit_middle<V>(d);
    const V z = (d <= 0.425 ? middle : beyond) * kProbitDown;
    store(r + l, V(sigma * z));
  }
  for (std::size_t l = 0; l < rows; ++l) {
    const double certified = p[l] > 0.5 ? step_down(r[l]) : 0.0;
    out.label[l] = certified > 0.0 ? out.label[l] : kAbstain;
    out.p_lower[l] = p[l];
    out.radius[l] = certified;
  }
}

template <class V, class Real>
RRISE_INLINE void certify_all(const Real* logits, std::size_t rows, std::size_t classes, const Curve& curve,
                              double sigma, const Certificates& out) noexcept {
  if (rows == 1) {
    const Certificate c = certify<V>(logits, classes, curve, sigma);
    out.label[0] = c.label, out.q[0] = c.q, out.p_lower[0] = c.p_lower, out.radius[0] = c.radius;
    return;
  }
  for (std::size_t i = 0; i < rows; i += kTile) {
    const std::size_t here = rows - i < kTile ? rows - i : kTile;
    top_tile<V>(logits + i * classes, here, classes, out.label + i, out.q + i);
    certify_tile<V>(here, curve, sigma, {out.label + i, out.q + i, out.p_lower + i, out.radius + i});
  }
}

RRISE_DISPATCH(void certify_rows(const float* logits, std::size_t rows, std::size_t classes, Curve curve, double sigma,
                                 Certificates out),
               certify_all<V>(logits, rows, classes, curve, sigma, out);)
RRISE_DISPATCH(void certify_rows(const double* logits, std::size_t rows, std::size_t classes, Curve curve, double sigma,
                                 Certificates out),
               certify_all<V>(logits, rows, classes, curve, sigma, out);)

}  // namespace rrise

#endif  // RRISE_RADIUS_H
