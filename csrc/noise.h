// Noise named by (seed, stream, image id, draw, pixel) and by nothing else: counter-based, so no order of calls, batch,
// shard, thread or machine can change it. Header-only, no Python; nothing here throws, prints or allocates, but for
// GridNoise, which owns its tables.
//
//   Name name = {seed, stream, image_id, draw};
//   GridNoise grid(thresholds, count, lowest);         // the law of the integer noise, see grid_thresholds() in Python
//   grid_noise(grid.law(), name, pixels, out);         // int16 noise of one draw
//   grid_fill(grid.law(), batch, images, out);         // float32 (pixel + noise) / 255 of many images and draws
//   gaussian_fill(sigma, batch, images, out);          // float32 x + sigma N(0, 1)
//
// Random bits: Philox4x32-10 with key (seed low, seed high) and counter (block, draw, id low, id high | stream << 24),
// seed < 2^64, id < 2^56, stream < 2^8, draw < 2^32. A Philox block is four 32-bit words w0..w3.
//
// Grid noise of flat pixel j: hi16 is 16-bit lane j mod 8 of block j div 8 (lane l: word l div 2, its low half if l is
// even, its high half if odd); low48 = w0 << 16 | w1 >> 16 of block 0x80000000 | j; U = hi16 << 48 | low48;
// noise = lowest + #{i : threshold_i <= U}. Integers only.
//
// Gaussian noise of flat pixel j: block 0x40000000 | j div 4 gives two Box-Muller pairs, (w0, w1) pixels 0 and 1 of the
// four, (w2, w3) pixels 2 and 3: sqrt(-2 log((a + 1/2) / 2^32)) times cos and sin of 2 pi (b + 1/2) / 2^32.
// Block 0xC0000000 is no noise: rrise/views.py makes shifted and mirrored copies of an image from it.
// Sources: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3"; Box and Muller (1958).
#ifndef RRISE_NOISE_H
#define RRISE_NOISE_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "elementary.h"

namespace rrise {

// Flat pixels an image may have: keeps the three block ranges above apart.
constexpr std::uint64_t kMaxPixels = std::uint64_t{1} << 30;

struct Name {
  std::uint64_t seed;
  std::uint32_t stream;
  std::uint64_t image_id;
  std::uint32_t draw;
};

// B images of P pixels, D draws each; out has B * D * P elements in that order.
struct Batch {
  std::uint64_t seed;
  std::uint32_t stream;
  std::uint32_t first_draw;
  const std::uint64_t* image_ids;
  std::size_t images, draws, pixels;
};

// Pixels the loops work on at a time; a chunk's surplus over the image is computed and dropped.
constexpr std::size_t kChunk = 64;

// L Philox blocks side by side: word[w][l] is word w of block l.
template <std::size_t L>
struct Blocks {
  std::uint32_t word[4][L];
};

// Philox4x32-10 of one counter and key.
RRISE_INLINE void philox4x32(std::uint32_t c[4], std::uint32_t k0, std::uint32_t k1) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c[0], b = std::uint64_t{0xCD9E8D57u} * c[2];
    c[0] = static_cast<std::uint32_t>(b >> 32) ^ c[1] ^ k0;
    c[1] = static_cast<std::uint32_t>(b);
    c[2] = static_cast<std::uint32_t>(a >> 32) ^ c[3] ^ k1;
    c[3] = static_cast<std::uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

RRISE_INLINE void philox_block(const Name& name, std::uint32_t block, std::uint32_t out[4]) noexcept {
  out[0] = block;
  out[1] = name.draw;
  out[2] = static_cast<std::uint32_t>(name.image_id);
  out[3] = static_cast<std::uint32_t>(name.image_id >> 32) | name.stream << 24;
  philox4x32(out, static_cast<std::uint32_t>(name.seed), static_cast<std::uint32_t>(name.seed >> 32));
}

// Blocks first, first + 1, ..., first + L - 1.
template <std::size_t L>
RRISE_INLINE void philox_blocks(const Name& name, std::uint32_t first, Blocks<L>& out) noexcept {
  for (std::size_t l = 0; l < L; ++l) {
    std::uint32_t c[4];
    philox_block(name, first + static_cast<std::uint32_t>(l), c);
    out.word[0][l] = c[0], out.word[1][l] = c[1], out.word[2][l] = c[2], out.word[3][l] = c[3];
  }
}

// What the sampling loops read of a GridNoise. base[h] = lowest + #{i : threshold_i < h << 48}, h = 0..65536, so all U
// that begin with h give base[h] unless base[h + 1] differs: then thresholds number base[h] - lowest up to, not with,
// base[h + 1] - lowest decide.
struct GridLaw {
  const std::int16_t* base;
  const std::uint64_t* thresholds;
  std::int32_t lowest;
};

class GridNoise {
 public:
  // thresholds increase strictly; lowest >= -32768 and lowest + count <= 32767.
  GridNoise(const std::uint64_t* thresholds, std::size_t count, std::int32_t lowest)
      : thresholds_(thresholds, thresholds + count), base_(65537), lowest_(lowest) {
    std::size_t below = 0;
    for (std::size_t h = 0; h <= 65536; ++h) {
      while (below < count && thresholds_[below] >> 48 < h) ++below;
      base_[h] = static_cast<std::int16_t>(lowest + static_cast<std::int32_t>(below));
    }
  }
  GridLaw law() const noexcept { return {base_.data(), thresholds_.data(), lowest_}; }

 private:
  std::vector<std::uint64_t> thresholds_;
  std::vector<std::int16_t> base_;
  std::int32_t lowest_;
};

// The noise of pixel j, whose 16 leading bits do not decide it.
RRISE_INLINE std::int16_t grid_decide(const GridLaw& law, const Name& name, std::uint32_t j,
                                      std::uint32_t hi16) noexcept {
  std::uint32_t w[4];
  philox_block(name, 0x80000000u | j, w);
  const std::uint64_t u = std::uint64_t{hi16} << 48 | std::uint64_t{w[0]} << 16 | w[1] >> 16;
  std::int32_t i = law.base[hi16] - law.lowest;
  const std::int32_t end = law.base[hi16 + 1] - law.lowest;
  while (i < end && law.thresholds[i] <= u) ++i;
  return static_cast<std::int16_t>(law.lowest + i);
}

// The noise of pixels first .. first + 63 (first a multiple of 64).
RRISE_INLINE void grid_chunk(const GridLaw& law, const Name& name, std::uint32_t first,
                             std::int16_t out[kChunk]) noexcept {
  constexpr std::size_t L = kChunk / 8;
  Blocks<L> blocks;
  philox_blocks(name, first / 8, blocks);
  for (std::size_t l = 0; l < L; ++l) {
    for (std::size_t w = 0; w < 4; ++w) {
      for (std::size_t half = 0; half < 2; ++half) {
        const std::uint32_t h = blocks.word[w][l] >> (16 * half) & 0xffffu;
        const std::uint32_t j = static_cast<std::uint32_t>(8 * l + 2 * w + half);
        out[j] = law.base[h] == law.base[h + 1] ? law.base[h] : grid_decide(law, name, first + j, h);
      }
    }
  }
}

RRISE_CLONES static void grid_noise(GridLaw law, Name name, std::size_t pixels, std::int16_t* out) noexcept {
  std::int16_t chunk[kChunk];
  for (std::size_t j = 0; j < pixels; j += kChunk) {
    const std::size_t here = pixels - j < kChunk ? pixels - j : kChunk;
    grid_chunk(law, name, static_cast<std::uint32_t>(j), chunk);
    std::memcpy(out + j, chunk, here * sizeof(std::int16_t));
  }
}

// (pixel + noise) / 255 in float32: the sum is an exact integer, the division is rounded once.
RRISE_CLONES static void grid_fill(GridLaw law, Batch batch, const std::uint8_t* images, float* out) noexcept {
  std::int16_t chunk[kChunk];
  for (std::size_t b = 0; b < batch.images; ++b) {
    const std::uint8_t* image = images + b * batch.pixels;
    for (std::size_t d = 0; d < batch.draws; ++d) {
      const Name name = {batch.seed, batch.stream, batch.image_ids[b],
                         batch.first_draw + static_cast<std::uint32_t>(d)};
      for (std::size_t j = 0; j < batch.pixels; j += kChunk) {
        const std::size_t here = batch.pixels - j < kChunk ? batch.pixels - j : kChunk;
        grid_chunk(law, name, static_cast<std::uint32_t>(j), chunk);
        for (std::size_t i = 0; i < here; ++i) {
          out[i] = static_cast<float>(static_cast<std::int32_t>(image[j + i]) + chunk[i]) / 255.0f;
        }
        out += here;
      }
    }
  }
}

struct Pair {
  double cosine, sine;
};

// cos and sin of 2 pi (b + 1/2) / 2^32.
//
// Max error: 2^-52 absolute. The turn is reduced exactly, in integers, to [-1/8, 1/8], then Taylor to degrees 16 and 17
//            (remainder under 2.1e-18).
RRISE_INLINE Pair turn(std::uint32_t b) noexcept {
  const std::uint32_t quarter = (b + 0x20000000u) >> 30;
  const double x = (static_cast<double>(static_cast<std::int32_t>(b - (quarter << 30))) + 0.5) * 1.4629180792671596e-09;
  const double y = x * x;
  double s = 1.0 / 355687428096000.0;
  s = s * y - 1.0 / 1307674368000.0;
  s = s * y + 1.0 / 6227020800.0;
  s = s * y - 1.0 / 39916800.0;
  s = s * y + 1.0 / 362880.0;
  s = s * y - 1.0 / 5040.0;
  s = s * y + 1.0 / 120.0;
  s = s * y - 1.0 / 6.0;
  s = x + x * y * s;
  double c = 1.0 / 20922789888000.0;
  c = c * y - 1.0 / 87178291200.0;
  c = c * y + 1.0 / 479001600.0;
  c = c * y - 1.0 / 3628800.0;
  c = c * y + 1.0 / 40320.0;
  c = c * y - 1.0 / 720.0;
  c = c * y + 1.0 / 24.0;
  c = c * y - 0.5;
  c = 1.0 + y * c;
  // Odd quarters swap the two, quarters 1, 2 negate the cosine, 2, 3 the sine; by masks, so that loops vectorise.
  const std::uint64_t swap = (bits_of(c) ^ bits_of(s)) & (std::uint64_t{0} - (quarter & 1u));
  const std::uint64_t minus_cosine = std::uint64_t{(quarter + 1u) & 2u} << 62,
                      minus_sine = std::uint64_t{quarter & 2u} << 62;
  return {from_bits(bits_of(c) ^ swap ^ minus_cosine), from_bits(bits_of(s) ^ swap ^ minus_sine)};
}

// sigma times the normals of pixels first .. first + 63 (first a multiple of 64), in float64 rounded once to float32.
RRISE_INLINE void gaussian_chunk(double sigma, const Name& name, std::uint32_t first, float out[kChunk]) noexcept {
  constexpr std::size_t L = kChunk / 4;
  Blocks<L> blocks;
  philox_blocks(name, 0x40000000u | first / 4, blocks);
  for (std::size_t pair = 0; pair < 2; ++pair) {
    const std::uint32_t* a = blocks.word[2 * pair];
    const std::uint32_t* b = blocks.word[2 * pair + 1];
    double square[L], scale[L], cosine[L], sine[L];
    for (std::size_t l = 0; l < L; ++l) {
      // (a + 1/2) / 2^32, exact: a is read through the mantissa of 2^52 + a.
      square[l] = -2.0 * log_positive((from_bits(0x4330000000000000ULL | a[l]) - 4503599627370495.5) * 0x1p-32);
    }
    for (std::size_t l = 0; l < L; ++l) scale[l] = sigma * std::sqrt(square[l]);
    for (std::size_t l = 0; l < L; ++l) {
      const Pair t = turn(b[l]);
      cosine[l] = t.cosine, sine[l] = t.sine;
    }
    for (std::size_t l = 0; l < L; ++l) {
      out[4 * l + 2 * pair] = static_cast<float>(scale[l] * cosine[l]);
      out[4 * l + 2 * pair + 1] = static_cast<float>(scale[l] * sine[l]);
    }
  }
}

// x + noise in float32: one rounding of the noise, one of the sum.
RRISE_CLONES static void gaussian_fill(double sigma, Batch batch, const float* images, float* out) noexcept {
  float chunk[kChunk];
  for (std::size_t b = 0; b < batch.images; ++b) {
    const float* image = images + b * batch.pixels;
    for (std::size_t d = 0; d < batch.draws; ++d) {
      const Name name = {batch.seed, batch.stream, batch.image_ids[b],
                         batch.first_draw + static_cast<std::uint32_t>(d)};
      for (std::size_t j = 0; j < batch.pixels; j += kChunk) {
        const std::size_t here = batch.pixels - j < kChunk ? batch.pixels - j : kChunk;
        gaussian_chunk(sigma, name, static_cast<std::uint32_t>(j), chunk);
        for (std::size_t i = 0; i < here; ++i) out[i] = image[j + i] + chunk[i];
        out += here;
      }
    }
  }
}

}  // namespace rrise

#endif  // RRISE_NOISE_H
