// From a camera's bytes to a network's planes: uint8 (N, H, W, C) to float32 (N, C, H, W) in [0, 1], in one pass over
// memory. Header-only, no Python.
//
//   pixels_to_planes(images, {n, h, w, c, image_stride, row_stride}, planes);
#ifndef RRISE_PLANES_H
#define RRISE_PLANES_H

#include <cstddef>
#include <cstdint>

#include "lanes.h"

namespace rrise {

// The shape of a batch, and the bytes from one image and one row to the next; the pixels of a row lie side by side.
struct Pixels {
  std::size_t images, height, width, channels;
  std::ptrdiff_t image_stride, row_stride;
};

// One row of C interleaved channels to C rows of planes, `plane` floats apart. v / 255 is rounded once, as numpy's
// float32 division is.
template <std::size_t C>
RRISE_INLINE void row_to_planes(const std::uint8_t* row, std::size_t width, std::size_t plane, float* out) noexcept {
  for (std::size_t x = 0; x < width; ++x) {
    for (std::size_t c = 0; c < C; ++c) out[c * plane + x] = static_cast<float>(row[C * x + c]) / 255.0f;
  }
}

RRISE_CLONES static void pixels_to_planes(const std::uint8_t* images, Pixels shape, float* out) noexcept {
  const std::size_t plane = shape.height * shape.width;
  for (std::size_t n = 0; n < shape.images; ++n) {
    for (std::size_t y = 0; y < shape.height; ++y) {
      const std::uint8_t* row = images + static_cast<std::ptrdiff_t>(n) * shape.image_stride +
                                static_cast<std::ptrdiff_t>(y) * shape.row_stride;
      float* to = out + n * shape.channels * plane + y * shape.width;
      if (shape.channels == 1) {
        row_to_planes<1>(row, shape.width, plane, to);
      } else if (shape.channels == 3) {
        row_to_planes<3>(row, shape.width, plane, to);
      } else {
        for (std::size_t x = 0; x < shape.width; ++x) {
          for (std::size_t c = 0; c < shape.channels; ++c) {
            to[c * plane + x] = static_cast<float>(row[shape.channels * x + c]) / 255.0f;
          }
        }
      }
    }
  }
}

}  // namespace rrise

#endif  // RRISE_PLANES_H
