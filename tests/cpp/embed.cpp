// A C++ program that uses the headers without Python, as an embedder would. It reads binary numbers from standard input
// and writes binary answers to standard output; tests/test_kernel.py holds them to those of rrise._C, bit for bit.
//
//   embed certify 32|64 K SIGMA   rows of K logits, float32 or float64 -> label, q, p_lower, radius (int64, 3 float64)
//   embed exp | log | probit      float64 -> float64
//   embed grid PIXELS             uint64 thresholds (symmetric) -> int16 noise, seed 2^40 + 1, stream 3, id 2^55 + 7,
//                                 draw 5
//   embed gaussian                float32 pixels of one image -> float32 image + noise, sigma 0.5, the same name
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "noise.h"
#include "radius.h"

template <class T>
static std::vector<T> read_all() {
  std::vector<T> values;
  T value;
  while (std::fread(&value, sizeof value, 1, stdin) == 1) values.push_back(value);
  return values;
}

template <class T>
static void write_all(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

template <class Real>
static void certify(std::size_t classes, double sigma) {
  const std::vector<Real> logits = read_all<Real>();
  const std::size_t rows = logits.size() / classes;
  const double knots_q[] = {0.0, 0.25, 0.6, 1.0}, knots_p[] = {-0.5, 0.2, 0.7, 0.99};
  std::vector<std::int64_t> label(rows);
  std::vector<double> q(rows), p_lower(rows), radius(rows);
  rrise::certify_rows(logits.data(), rows, classes, {knots_q, knots_p, 4}, sigma,
                      {label.data(), q.data(), p_lower.data(), radius.data()});
  write_all(label), write_all(q), write_all(p_lower), write_all(radius);
}

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "";
  const rrise::Name name = {(std::uint64_t{1} << 40) + 1, 3, (std::uint64_t{1} << 55) + 7, 5};
  if (std::strcmp(mode, "certify") == 0 && argc == 5) {
    const std::size_t classes = static_cast<std::size_t>(std::atoi(argv[3]));
    (std::atoi(argv[2]) == 32 ? certify<float> : certify<double>)(classes, std::atof(argv[4]));
  } else if (std::strcmp(mode, "exp") == 0 || std::strcmp(mode, "log") == 0 || std::strcmp(mode, "probit") == 0) {
    std::vector<double> values = read_all<double>();
    for (double& x : values) {
      x = *mode == 'e' ? rrise::exp_nonpositive(x) : *mode == 'l' ? rrise::log_positive(x) : rrise::probit_down(x);
    }
    write_all(values);
  } else if (std::strcmp(mode, "grid") == 0 && argc == 3) {
    const std::vector<std::uint64_t> thresholds = read_all<std::uint64_t>();
    const rrise::GridNoise grid(thresholds.data(), thresholds.size(),
                                -static_cast<std::int32_t>(thresholds.size() / 2));
    std::vector<std::int16_t> noise(static_cast<std::size_t>(std::atoi(argv[2])));
    rrise::grid_noise(grid.law(), name, noise.size(), noise.data());
    write_all(noise);
  } else if (std::strcmp(mode, "gaussian") == 0) {
    const std::vector<float> image = read_all<float>();
    std::vector<float> noisy(image.size());
    const std::uint64_t id = name.image_id;
    rrise::gaussian_fill(0.5, {name.seed, name.stream, name.draw, &id, 1, 1, image.size()}, image.data(), noisy.data());
    write_all(noisy);
  } else {
    std::fprintf(stderr, "usage: embed certify 32|64 K SIGMA | exp | log | probit | grid PIXELS | gaussian\n");
    return 2;
  }
  return 0;
}
