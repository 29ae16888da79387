// The first largest logit of a row and its softmax probability: of one row, or of many side by side. Header-only, no
// Python; nothing here throws, allocates or prints, and every answer is the same to the bit on every machine (see
// elementary.h), whichever way a row was computed.
//
//   Top t = top(logits, classes);                  // one row; t.label is -1 and t.q NaN if a logit is not finite
//   top_rows(logits, rows, classes, label, q);     // many rows
#ifndef RRISE_SOFTMAX_H
#define RRISE_SOFTMAX_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "elementary.h"

namespace rrise {

constexpr std::int64_t kAbstain = -1;

struct Top {
  std::int64_t label;
  double q;
};

// Terms of a row are added up 32 at a time, and what follows the softmax is computed for 32 rows at a time.
constexpr std::size_t kTile = 32;

// The largest of a row, NaN if one of its logits is not finite: x - x is 0 for a finite x and NaN for any other, and
// NaN stays in a sum. Comparing is exact, so the vectors may be as wide as they like, and overlap.
template <class V, class Real>
RRISE_INLINE Real largest_finite(const Real* logits, std::size_t classes) noexcept {
  constexpr std::size_t N = lanes_of<V> == 1 ? 1 : sizeof(V) / sizeof(Real);
  using R = typename Lanes<Real, N>::Type;
  Real high[N], odd[N];
  if (classes < N) {
    high[0] = logits[0], odd[0] = high[0] - high[0];
    for (std::size_t i = 1; i < classes; ++i) {
      high[0] = logits[i] > high[0] ? logits[i] : high[0];
      odd[0] += logits[i] - logits[i];
    }
    return high[0] + odd[0];
  }
  R x, y;
  std::memcpy(&x, logits, sizeof x);
  R high0 = x, odd0 = x - x, high1 = x, odd1 = odd0;  // two of each: half the wait for the one before
  for (std::size_t i = N; i < classes; i += 2 * N) {
    std::memcpy(&x, logits + (i + N < classes ? i : classes - N), sizeof x);
    std::memcpy(&y, logits + (i + 2 * N < classes ? i + N : classes - N), sizeof y);
    high0 = x > high0 ? x : high0, odd0 += x - x;
    high1 = y > high1 ? y : high1, odd1 += y - y;
  }
  high0 = high1 > high0 ? high1 : high0, odd0 += odd1;
  std::memcpy(high, &high0, sizeof high0);
  std::memcpy(odd, &odd0, sizeof odd0);
  for (std::size_t half = N / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) {
      high[l] = high[l + half] > high[l] ? high[l + half] : high[l];
      odd[l] += odd[l + half];
    }
  }
  return high[0] + odd[0];
}

// The first index at which a row holds `value`, which it does.
template <class Real>
RRISE_INLINE std::size_t first_index(const Real* logits, std::size_t classes, Real value) noexcept {
  std::size_t i = 0;
  for (; i + kTile < classes; i += kTile) {
    int here = 0;
    for (std::size_t l = 0; l < kTile; ++l) here |= logits[i + l] == value;
    if (here) break;
  }
  while (i + 1 < classes && logits[i] != value) ++i;
  return i;
}

// Add exp(block[l] - largest), l < 32, to the 8 lanes of sum: place l goes to lane l mod 8 as (0 + 16) + (8 + 24).
template <class V, class Real>
RRISE_INLINE void add_terms(const Real* block, double largest, V* sum) noexcept {
  constexpr std::size_t L = lanes_of<V>;
  for (std::size_t l = 0; l < 8; l += L) {
    const V t0 = exp_nonpositive<V>(load<V>(block + l) - largest);
    const V t2 = exp_nonpositive<V>(load<V>(block + l + 16) - largest);
    const V t1 = exp_nonpositive<V>(load<V>(block + l + 8) - largest);
    const V t3 = exp_nonpositive<V>(load<V>(block + l + 24) - largest);
    sum[l / L] += (t0 + t2) + (t1 + t3);
  }
}

// The same for a block that ends after `here` terms, or that holds the label's own term (at `own`, if below 32): a term
// that is not there is exp(-inf) = 0, and adding 0 changes no bit.
template <class V, class Real>
RRISE_INLINE void add_some_terms(const Real* block, std::size_t here, std::size_t own, double largest,
                                 V* sum) noexcept {
  constexpr std::size_t L = lanes_of<V>;
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  double z[kTile];
  here = here < kTile ? here : kTile;
  for (std::size_t l = 0; l < here; ++l) z[l] = static_cast<double>(block[l]);
  for (std::size_t l = here; l < kTile; ++l) z[l] = nothing;
  if (own < kTile) z[own] = nothing;
  if (here > 16) return add_terms<V>(z, largest, sum);
  for (std::size_t l = 0; l < 8; l += L) {
    const V t0 = exp_nonpositive<V>(load<V>(z + l) - largest), t1 = exp_nonpositive<V>(load<V>(z + l + 8) - largest);
    sum[l / L] += t0 + t1;
  }
}

// Ask for `bytes` of memory at `ahead` bytes beyond p, so that the next row is there when this one is done. Only a hint:
// it may point beyond the last row.
template <std::size_t bytes>
RRISE_INLINE void prefetch(const void* p, std::size_t ahead) noexcept {
#if defined(__GNUC__)
  for (std::size_t b = 0; b < bytes; b += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(p) + ahead + b));
  }
#else
  (void)p, (void)ahead;
#endif
}

// The first largest logit of a row and its softmax probability, 1 / (1 + sum of exp(z_i - z_label) over the others).
//
// Range:     2 <= classes < 2^31, any finite logits.
// Max error: a term at distance d below the largest logit is within 2 + d units of 2^-53 relative, summing positive
//            terms adds at most classes/32 + 6; nothing cancels, so q and 1 - q (before q is rounded) both keep that
//            accuracy.
// Rounding:  to nearest, in a fixed order of summation: term i goes to place i mod 32, the 32 places fold to 8 lanes
//            ((0 + 16) + (8 + 24)), the lanes run along the row, then fold by halves. A term that is not there adds 0.
// NaN:       a NaN or an infinity anywhere in the row gives label -1 and q = NaN.
template <class V = double, class Real>
RRISE_INLINE Top top(const Real* logits, std::size_t classes) noexcept {
  const Real high = largest_finite<V>(logits, classes);
  if (!(high == high)) return {kAbstain, std::numeric_limits<double>::quiet_NaN()};
  const std::size_t label = first_index(logits, classes, high);
  const double largest = static_cast<double>(high);
  V lanes[8 / lanes_of<V>] = {};
  for (std::size_t i = 0; i < classes; i += kTile) {
    const std::size_t here = classes - i, own = label - i;  // unsigned: huge where label < i
    prefetch<kTile * sizeof(Real)>(logits + i, classes * sizeof(Real));
    if (here >= kTile && own >= kTile) {
      add_terms<V>(logits + i, largest, lanes);
    } else {
      add_some_terms<V>(logits + i, here, own, largest, lanes);
    }
  }
  double sum[8];
  std::memcpy(sum, lanes, sizeof sum);
  for (std::size_t l = 0; l < 4; ++l) sum[l] += sum[l + 4];
  return {static_cast<std::int64_t>(label), 1.0 / (1.0 + ((sum[0] + sum[2]) + (sum[1] + sum[3])))};
}

// top of up to kTile rows of at most 16 classes, a row in each lane: the same operations in the same order.
constexpr std::size_t kNarrow = 16;
template <class V, class Real>
RRISE_INLINE void top_narrow(const Real* logits, std::size_t rows, std::size_t classes, std::int64_t* label,
                             double* q) noexcept {
  constexpr std::size_t L = lanes_of<V>;
  double z[kNarrow][kTile], high[kTile], first[kTile], chance[kTile];
  const std::size_t padded = (rows + L - 1) / L * L;
  for (std::size_t l = 0; l < padded; ++l) {
    const Real* row = logits + (l < rows ? l : 0) * classes;
    for (std::size_t k = 0; k < classes; ++k) z[k][l] = static_cast<double>(row[k]);
  }
  for (std::size_t l = 0; l < padded; l += L) {
    V best = load<V>(z[0] + l), odd = best - best, index = {};
    for (std::size_t k = 1; k < classes; ++k) {
      const V x = load<V>(z[k] + l);
      index = x > best ? all<V>(static_cast<double>(k)) : index;
      best = x > best ? x : best;
      odd += x - x;
    }
    store(high + l, V(best + odd));  // NaN if a logit is not finite, see largest_finite
    store(first + l, index);
  }
  for (std::size_t l = 0; l < padded; ++l) {  // a label's own term becomes exp(-inf) = 0
    z[static_cast<std::size_t>(first[l])][l] = -std::numeric_limits<double>::infinity();
  }
  for (std::size_t l = 0; l < padded; l += L) {
    const V largest = load<V>(high + l);
    V sum[8] = {};
    for (std::size_t k = 0; k < classes; ++k) sum[k % 8] += exp_nonpositive<V>(load<V>(z[k] + l) - largest);
    for (std::size_t half = 4; half > 0; half /= 2) {
      for (std::size_t a = 0; a < half; ++a) sum[a] += sum[a + half];
    }
    store(chance + l, V(1.0 / (1.0 + sum[0])));
  }
  for (std::size_t l = 0; l < rows; ++l) {
    const bool finite = high[l] == high[l];
    label[l] = finite ? static_cast<std::int64_t>(first[l]) : kAbstain;
    q[l] = finite ? chance[l] : std::numeric_limits<double>::quiet_NaN();
  }
}

// top of up to kTile rows.
template <class V, class Real>
RRISE_INLINE void top_tile(const Real* logits, std::size_t rows, std::size_t classes, std::int64_t* label,
                           double* q) noexcept {
  if (classes <= kNarrow && rows >= 4) return top_narrow<V>(logits, rows, classes, label, q);
  for (std::size_t i = 0; i < rows; ++i) {
    const Top t = top<V>(logits + i * classes, classes);
    label[i] = t.label, q[i] = t.q;
  }
}

template <class V, class Real>
RRISE_INLINE void top_all(const Real* logits, std::size_t rows, std::size_t classes, std::int64_t* label,
                          double* q) noexcept {
  for (std::size_t i = 0; i < rows; i += kTile) {
    top_tile<V>(logits + i * classes, rows - i < kTile ? rows - i : kTile, classes, label + i, q + i);
  }
}

RRISE_DISPATCH(void top_rows(const float* logits, std::size_t rows, std::size_t classes, std::int64_t* label,
                             double* q),
               top_all<V>(logits, rows, classes, label, q);)
RRISE_DISPATCH(void top_rows(const double* logits, std::size_t rows, std::size_t classes, std::int64_t* label,
                             double* q),
               top_all<V>(logits, rows, classes, label, q);)

}  // namespace rrise

#endif  // RRISE_SOFTMAX_H
