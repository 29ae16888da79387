// A libFuzzer target: bytes become a curve, a noise level and rows of logits; what the kernel answers is held to what
// every certificate promises. fuzz/README.md says how to run it; tests/test_fuzz_kernel.py replays the corpus.
//
// Layout of the bytes (what is missing reads as 0):
//   1 byte   bit 0: float64 logits, else float32; bit 1: a rising curve; bits 2 to 7: rows - 1
//   1 byte   classes - 2
//   1 byte   knots - 2
//   8 bytes  sigma, float64; made positive and finite
//   2 x 8 a knot, then the logits until the bytes end, then those from the start again
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "radius.h"

#define HOLDS(condition)                                                     \
  do {                                                                       \
    if (!(condition)) {                                                      \
      std::fprintf(stderr, "line %d: broken: %s\n", __LINE__, #condition);   \
      std::abort();                                                          \
    }                                                                        \
  } while (0)

namespace {

class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  template <class T>
  T next() {
    T value{};
    const std::size_t here = size_ - at_ < sizeof value ? size_ - at_ : sizeof value;
    if (here > 0) std::memcpy(&value, data_ + at_, here);
    at_ += here;
    return value;
  }
  bool ended() const { return at_ == size_; }
  void rewind() { at_ = 0; }

 private:
  const std::uint8_t* data_;
  std::size_t size_, at_ = 0;
};

// A strictly increasing q from 0 to 1, and p of any finite value up to 1e300 (rising if asked).
void make_curve(Bytes& bytes, std::size_t size, bool rising, std::vector<double>& q, std::vector<double>& p) {
  q.assign(size, 0.0), p.assign(size, 0.0);
  double total = 0.0;
  for (std::size_t j = 0; j < size; ++j) {
    const double step = std::fabs(bytes.next<double>()), bound = bytes.next<double>();
    total += std::isfinite(step) && step < 1e6 && step > 1e-6 ? step : 1.0;
    q[j] = total;
    p[j] = std::fabs(bound) <= 1e300 ? bound : 0.5;
    if (rising && j > 0 && p[j] < p[j - 1]) p[j] = p[j - 1];
  }
  const double first = q[0];
  for (double& x : q) x = (x - first) / (total - first);
  q[0] = 0.0, q[size - 1] = 1.0;
  for (std::size_t j = 1; j < size; ++j) {  // steps too small to tell apart: an even grid instead
    if (!(q[j - 1] < q[j])) {
      for (std::size_t i = 0; i < size; ++i) q[i] = static_cast<double>(i) / static_cast<double>(size - 1);
      break;
    }
  }
}

template <class Real>
void check(const std::vector<Real>& logits, std::size_t rows, std::size_t classes, const rrise::Curve& curve,
           bool rising, double sigma) {
  std::vector<std::int64_t> label(rows), top_label(rows);
  std::vector<double> q(rows), p_lower(rows), radius(rows), top_q(rows);
  rrise::certify_rows(logits.data(), rows, classes, curve, sigma,
                      {label.data(), q.data(), p_lower.data(), radius.data()});
  rrise::top_rows(logits.data(), rows, classes, top_label.data(), top_q.data());
  double highest = 0.0;  // of all knots, clamped as the curve is
  for (std::size_t j = 0; j < curve.size; ++j) highest = curve.p[j] > highest ? curve.p[j] : highest;
  highest = highest < 1.0 ? highest : 1.0;
  const double largest_radius = rrise::radius(1.0, sigma);
  for (std::size_t i = 0; i < rows; ++i) {
    const Real* row = logits.data() + i * classes;
    bool finite = true;
    std::size_t first = 0;
    for (std::size_t k = 0; k < classes; ++k) {
      finite = finite && std::isfinite(row[k]);
      first = row[k] > row[first] ? k : first;
    }
    HOLDS((label[i] == -1) == (radius[i] == 0.0));
    HOLDS((p_lower[i] > 0.5 && sigma * rrise::probit_down(p_lower[i]) > 0.0) || label[i] == -1);
    HOLDS(std::isfinite(radius[i]) && radius[i] >= 0.0 && radius[i] <= largest_radius);
    HOLDS(p_lower[i] >= 0.0 && p_lower[i] <= highest);
    HOLDS(radius[i] <= sigma * rrise::probit_down(p_lower[i]));
    HOLDS(std::isnan(q[i]) == !finite && std::isnan(top_q[i]) == !finite);
    if (!finite) {
      HOLDS(label[i] == -1 && top_label[i] == -1 && p_lower[i] == 0.0);
    } else {
      HOLDS(q[i] > 0.0 && q[i] <= 1.0 && q[i] == top_q[i]);
      HOLDS(q[i] * static_cast<double>(classes) > 1.0 - 1e-12);  // the largest of K probabilities
      HOLDS(top_label[i] == static_cast<std::int64_t>(first));
      HOLDS(label[i] == -1 || label[i] == top_label[i]);
      HOLDS(p_lower[i] == rrise::curve_down(curve, q[i]));
      HOLDS(!rising || p_lower[i] <= rrise::curve_down(curve, 1.0));
    }
    // One row by itself, in one lane: the same bits.
    const rrise::Certificate alone = rrise::certify(row, classes, curve, sigma);
    HOLDS(alone.label == label[i] && alone.radius == radius[i] && alone.p_lower == p_lower[i]);
    HOLDS(alone.q == q[i] || (std::isnan(alone.q) && std::isnan(q[i])));
  }
  for (std::size_t i = 0; rising && i < rows; ++i) {  // a larger q has no smaller bound, nor radius
    for (std::size_t j = 0; j < rows; ++j) {
      HOLDS(!(q[i] <= q[j]) || p_lower[i] <= p_lower[j]);
      HOLDS(!(p_lower[i] <= p_lower[j]) || radius[i] <= radius[j] * (1.0 + 24 * 0x1p-53));
    }
  }
}

template <class Real>
void run(Bytes& bytes, std::size_t rows, std::size_t classes, const rrise::Curve& curve, bool rising, double sigma) {
  std::vector<Real> logits(rows * classes);  // exactly as long as it must be: a sanitizer sees the first byte beyond
  for (Real& z : logits) {
    if (bytes.ended()) bytes.rewind();
    z = bytes.next<Real>();
  }
  check(logits, rows, classes, curve, rising, sigma);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const std::uint8_t flags = bytes.next<std::uint8_t>();
  const std::size_t rows = (flags >> 2) + 1u, classes = bytes.next<std::uint8_t>() + 2u;
  const std::size_t knots = bytes.next<std::uint8_t>() + 2u;
  const bool rising = (flags & 2) != 0;
  double sigma = std::fabs(bytes.next<double>());
  if (!(sigma > 0.0 && std::isfinite(sigma))) sigma = 0.5;
  std::vector<double> q, p;
  make_curve(bytes, knots, rising, q, p);
  const rrise::Curve curve = {q.data(), p.data(), knots};
  if (size == 0) return 0;
  if ((flags & 1) != 0) {
    run<double>(bytes, rows, classes, curve, rising, sigma);
  } else {
    run<float>(bytes, rows, classes, curve, rising, sigma);
  }
  return 0;
}
