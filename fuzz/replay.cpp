// Runs a fuzz target without libFuzzer: each file named on the command line, then COUNT random inputs (always the same).
//
//   replay COUNT FILE...
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  std::vector<std::vector<std::uint8_t>> inputs;
  for (int i = 2; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  std::mt19937_64 random(1);
  const std::size_t seeds = inputs.size();
  for (long i = 0; argc > 1 && i < std::atol(argv[1]); ++i) {  // half from nothing, half a seed with bytes changed
    std::vector<std::uint8_t> input(random() % 600);
    if (i % 2 == 1 && seeds > 0) input = inputs[random() % seeds];
    const std::size_t changes = i % 2 == 1 ? 1 + random() % 8 : input.size();
    for (std::size_t c = 0; c < changes && !input.empty(); ++c) {
      input[i % 2 == 1 ? random() % input.size() : c] = static_cast<std::uint8_t>(random());
    }
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  for (const auto& input : inputs) LLVMFuzzerTestOneInput(input.data(), input.size());
  std::printf("%zu files\n", seeds);
  return 0;
}
