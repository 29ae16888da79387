// Certificates without Python: the curve of a bundle, logits from standard input, one certificate a line.
//
//   certify BUNDLE/bundle.json < logits.txt
//
// Input:  one image a line, its K logits as decimal numbers with spaces between them.
// Output: label, q, p_lower and radius; label -1 and radius 0 to abstain. Real numbers read back to the same double.
// What is wrong is said in one line on standard error, with exit code 1, and no further certificate is printed.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "radius.h"

namespace {

// What a certificate is computed from; every number checked as radius.h demands.
struct Calibration {
  double sigma;
  std::vector<double> knots_q, knots_p;
};

std::string text_of(const std::string& path) {
  constexpr std::size_t largest = std::size_t{4} << 20;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("expected a readable file, got " + path + ". Pass BUNDLE/bundle.json.");
  std::string text(largest + 1, '\0');
  file.read(&text[0], static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > largest) throw std::runtime_error("expected at most 4 MiB, got more. Pass BUNDLE/bundle.json.");
  return text;
}

Calibration read_bundle(const std::string& path) {
  const nlohmann::json bundle = nlohmann::json::parse(text_of(path));
  const std::string format = bundle.at("format").get<std::string>();
  if (format.rfind("rrise-bundle/", 0) != 0) {
    throw std::runtime_error("format: expected rrise-bundle/..., got another. Pass BUNDLE/bundle.json.");
  }
  if (bundle.contains("extra_passes")) {
    throw std::runtime_error("extra_passes: expected a curve of q alone, got one of q and noisy passes. Use another.");
  }
  const nlohmann::json& curve = bundle.at("curve");
  const Calibration c = {bundle.at("sigma").get<double>(), curve.at("knots_q").get<std::vector<double>>(),
                         curve.at("knots_p").get<std::vector<double>>()};
  if (!(c.sigma > 0.0 && std::isfinite(c.sigma))) {
    throw std::runtime_error("sigma: expected a finite number above 0, got another. Calibrate again.");
  }
  const std::vector<double>&q = c.knots_q, &p = c.knots_p;
  bool rising = q.size() >= 2 && q.size() == p.size() && q.front() == 0.0 && q.back() == 1.0, bounds = true;
  for (std::size_t j = 1; rising && j < q.size(); ++j) rising = q[j - 1] < q[j];
  for (const double x : p) bounds = bounds && x >= 0.0 && x < 1.0;
  if (!rising) {
    throw std::runtime_error(
        "curve.knots_q: expected numbers rising from 0.0 to 1.0, as many as knots_p, got others. Calibrate again.");
  }
  if (!bounds) throw std::runtime_error("curve.knots_p: expected bounds in [0, 1), got others. Calibrate again.");
  return c;
}

// A line's numbers; NaN and infinities are numbers here, and the kernel abstains on them.
std::vector<double> logits_of(const std::string& line, std::size_t number) {
  std::vector<double> logits;
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    char* end = nullptr;
    logits.push_back(std::strtod(word.c_str(), &end));
    if (*end != '\0') {
      throw std::runtime_error("logits: expected numbers, got something else in line " + std::to_string(number) +
                               ". Put spaces between them.");
    }
  }
  return logits;
}

void certify_lines(const Calibration& calibration) {
  const rrise::Curve curve = {calibration.knots_q.data(), calibration.knots_p.data(), calibration.knots_q.size()};
  std::size_t classes = 0, number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    const std::vector<double> logits = logits_of(line, ++number);
    if (number == 1) classes = logits.size();
    if (classes < 2 || logits.size() != classes) {
      throw std::runtime_error("logits: expected as many in each line, at least 2, got " +
                               std::to_string(logits.size()) + " in line " + std::to_string(number) +
                               ". Write one image a line.");
    }
    const rrise::Certificate c = rrise::certify(logits.data(), classes, curve, calibration.sigma);
    std::printf("%lld %.17g %.17g %.17g\n", static_cast<long long>(c.label), c.q, c.p_lower, c.radius);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "certify: expected one argument, got %d. Pass BUNDLE/bundle.json.\n", argc - 1);
    return 1;
  }
  try {
    certify_lines(read_bundle(argv[1]));
  } catch (const std::exception& error) {
    std::string text = error.what();  // may quote the file
    for (char& c : text) c = c >= ' ' && c <= '~' ? c : '?';
    std::fprintf(stderr, "certify: %s\n", text.c_str());
    return 1;
  }
  return 0;
}
