// The noise samplers (noise.h) as Python functions of numpy arrays. Checks come first and are made here; the loops then run
// without the GIL.
#include <cstring>

#include "arguments.hpp"
#include "noise.h"

namespace py = pybind11;
using namespace py::literals;
using namespace rrise_python;

namespace {

constexpr std::uint64_t kMaxSeed = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kMaxId = (std::uint64_t{1} << 56) - 1;
constexpr std::uint64_t kMaxDraw = (std::uint64_t{1} << 32) - 1;
constexpr std::uint64_t kMaxStream = 255;

py::array_t<std::uint32_t> philox4x32(const py::object& counter_object, const py::object& key_object) {
  const py::array counter = plain_array(counter_object, "counter", "uint32[4]", 1);
  const py::array key = plain_array(key_object, "key", "uint32[2]", 1);
  const std::uint32_t* c = data_of<std::uint32_t>(counter, "counter", "uint32[4]");
  const std::uint32_t* k = data_of<std::uint32_t>(key, "key", "uint32[2]");
  if (counter.shape(0) != 4 || key.shape(0) != 2) {
    throw py::value_error("counter and key: expected 4 and 2 words, got " + shape_of(counter) + " and " +
                          shape_of(key) + ". Pass uint32[4] and uint32[2].");
  }
  py::array_t<std::uint32_t> result(4);
  std::uint32_t* out = result.mutable_data();
  std::memcpy(out, c, 4 * sizeof *out);
  rrise::philox4x32(out, k[0], k[1]);
  return result;
}

// The arguments that both fill functions share. The arrays must outlive the Batch.
rrise::Batch batch_of(const py::array& images, const py::array& ids, const py::array& out, const py::object& first_draw,
                      const py::object& seed, const py::object& stream) {
  const std::uint64_t* image_ids = data_of<std::uint64_t>(ids, "ids", "uint64[B]");
  if (!holds<float>(out)) refuse_dtype(out, "out", "float32[B, D, P]");
  if (!out.writeable())
    throw py::value_error("out: expected a writable array, got a read-only one. Pass an array of your own.");
  if (ids.shape(0) != images.shape(0) || out.shape(0) != images.shape(0) || out.shape(2) != images.shape(1)) {
    throw py::value_error("out: expected images[B, P], ids[B] and out[B, D, P], got " + shape_of(images) + ", " +
                          shape_of(ids) + " and " + shape_of(out) + ". Make B and P agree.");
  }
  if (static_cast<std::uint64_t>(images.shape(1)) > rrise::kMaxPixels) {
    throw py::value_error("images: expected at most " + std::to_string(rrise::kMaxPixels) + " pixels an image, got " +
                          std::to_string(images.shape(1)) + ". Use smaller images.");
  }
  for (py::ssize_t b = 0; b < ids.shape(0); ++b) {
    if (image_ids[b] > kMaxId) {
      throw py::value_error("ids: expected numbers below 2^56, got " + std::to_string(image_ids[b]) +
                            ". Use rrise.data.image_ids.");
    }
  }
  const std::uint64_t first = natural(first_draw, "first_draw", kMaxDraw),
                      draws = static_cast<std::uint64_t>(out.shape(1));
  if (draws > kMaxDraw + 1 - first) {
    throw py::value_error("first_draw: expected draws below 2^32, got " + std::to_string(first) + " + " +
                          std::to_string(draws) + ". Use another seed or stream.");
  }
  return {natural(seed, "seed", kMaxSeed),           static_cast<std::uint32_t>(natural(stream, "stream", kMaxStream)),
          static_cast<std::uint32_t>(first),         image_ids,
          static_cast<std::size_t>(images.shape(0)), static_cast<std::size_t>(draws),
          static_cast<std::size_t>(images.shape(1))};
}

rrise::GridNoise make_grid(const py::object& thresholds_object, const py::object& lowest_object) {
  const py::array thresholds = plain_array(thresholds_object, "thresholds", "uint64[T]", 1);
  const std::uint64_t* t = data_of<std::uint64_t>(thresholds, "thresholds", "uint64[T]");
  const py::ssize_t count = thresholds.shape(0);
  for (py::ssize_t i = 1; i < count; ++i) {
    if (t[i - 1] > t[i]) {
      throw py::value_error("thresholds: expected numbers that never fall, got a fall at index " + std::to_string(i) +
                            ". Use rrise.targets.noise.grid_thresholds.");
    }
  }
  const long lowest = PyLong_AsLong(lowest_object.ptr());
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error("lowest: expected an integer, got " + std::string(py::repr(lowest_object)) + ". Pass an int.");
  }
  if (lowest < -32768 || lowest > 32767 || count > 32767 - lowest) {
    throw py::value_error("lowest: expected noise within int16, got " + std::to_string(lowest) + " to " +
                          std::to_string(lowest + count) + ". Use a smaller sigma.");
  }
  return rrise::GridNoise(t, static_cast<std::size_t>(count), static_cast<std::int32_t>(lowest));
}

py::array_t<std::int16_t> grid_noise(const rrise::GridNoise& grid, const py::object& seed, const py::object& image_id,
                                     const py::object& draw, const py::object& pixels, const py::object& stream) {
  const rrise::Name name = {
      natural(seed, "seed", kMaxSeed), static_cast<std::uint32_t>(natural(stream, "stream", kMaxStream)),
      natural(image_id, "image_id", kMaxId), static_cast<std::uint32_t>(natural(draw, "draw", kMaxDraw))};
  const std::uint64_t count = natural(pixels, "pixels", rrise::kMaxPixels);
  py::array_t<std::int16_t> result(static_cast<py::ssize_t>(count));
  std::int16_t* out = result.mutable_data();
  {
    py::gil_scoped_release release;
    rrise::grid_noise(grid.law(), name, count, out);
  }
  return result;
}

void grid_fill(const rrise::GridNoise& grid, const py::object& images_object, const py::object& ids_object,
               const py::object& first_draw, const py::object& seed, const py::object& stream,
               const py::object& out_object) {
  const py::array images = plain_array(images_object, "images", "uint8[B, P]", 2);
  const std::uint8_t* pixels = data_of<std::uint8_t>(images, "images", "uint8[B, P]");
  const py::array ids = plain_array(ids_object, "ids", "uint64[B]", 1);
  py::array out = plain_array(out_object, "out", "float32[B, D, P]", 3);
  const rrise::Batch batch = batch_of(images, ids, out, first_draw, seed, stream);
  float* noisy = static_cast<float*>(out.mutable_data());
  py::gil_scoped_release release;
  rrise::grid_fill(grid.law(), batch, pixels, noisy);
}

void gaussian_fill(const py::object& images_object, const py::object& ids_object, const py::object& sigma_object,
                   const py::object& first_draw, const py::object& seed, const py::object& stream,
                   const py::object& out_object) {
  const py::array images = plain_array(images_object, "images", "float32[B, P]", 2);
  const float* pixels = data_of<float>(images, "images", "float32[B, P]");
  const py::array ids = plain_array(ids_object, "ids", "uint64[B]", 1);
  py::array out = plain_array(out_object, "out", "float32[B, D, P]", 3);
  const double sigma = positive(sigma_object, "sigma");
  const rrise::Batch batch = batch_of(images, ids, out, first_draw, seed, stream);
  float* noisy = static_cast<float*>(out.mutable_data());
  py::gil_scoped_release release;
  rrise::gaussian_fill(sigma, batch, pixels, noisy);
}

}  // namespace

void register_noise(py::module_& m) {
  m.def("philox4x32", &philox4x32, "counter"_a, "key"_a, "One block of Philox4x32-10.");
  m.def("gaussian_fill", &gaussian_fill, "images"_a, "ids"_a, "sigma"_a, "first_draw"_a, "seed"_a, "stream"_a, "out"_a,
        "Write x + sigma * N(0, 1) of draws first_draw, first_draw + 1, ... into out[B, D, P].");
  py::class_<rrise::GridNoise>(m, "GridNoise",
                               "Integer noise lowest + #{i : thresholds[i] <= U}, U uniform on 64 bits.")
      .def(py::init(&make_grid), "thresholds"_a, "lowest"_a)
      .def("noise", &grid_noise, "seed"_a, "image_id"_a, "draw"_a, "pixels"_a, "stream"_a,
           "The noise of one draw of one image.")
      .def("fill", &grid_fill, "images"_a, "ids"_a, "first_draw"_a, "seed"_a, "stream"_a, "out"_a,
           "Write (pixel + noise) / 255 of draws first_draw, first_draw + 1, ... into out[B, D, P].");
}
