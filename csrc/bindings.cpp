// rrise._C: the certification kernel (radius.h) and the noise samplers (noise.h) as Python functions of numpy arrays.
// Checks come first and are made here; the loops then run without the GIL on memory that is neither copied nor
// converted.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "noise.h"
#include "planes.h"
#include "radius.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

std::string shape_of(const py::array& a) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i)
    text += std::to_string(a.shape(i)) + (a.ndim() == 1 ? "," : i + 1 < a.ndim() ? ", " : "");
  return text + ")";
}

// The object as an array of rank `rank` whose memory can be read as it lies.
py::array plain_array(const py::object& object, const char* name, const char* expected, int rank) {
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(std::string(name) + ": expected an array of " + expected + ", got " +
                         std::string(py::str(py::type::of(object).attr("__name__"))) + ". Pass a numpy array.");
  }
  py::array a = py::reinterpret_borrow<py::array>(object);
  if (a.ndim() != rank) {
    throw py::value_error(std::string(name) + ": expected shape of " + expected + ", got " + shape_of(a) +
                          ". Reshape it.");
  }
  const int need = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((a.flags() & need) != need) {
    throw py::value_error(std::string(name) +
                          ": expected C-contiguous memory, got a strided or misaligned view. Pass " +
                          "numpy.ascontiguousarray(" + name + ").");
  }
  return a;
}

// Almost every array shares numpy's own descriptor of its type: comparing that first saves asking numpy each time.
template <class T>
bool holds(const py::array& a) {
  static const PyObject* const usual = py::dtype::of<T>().release().ptr();
  return py::detail::array_proxy(a.ptr())->descr == usual || py::isinstance<py::array_t<T>>(a);
}

// A new array of `size` numbers; py::array_t's constructor makes the same in three allocations more.
template <class T>
py::array_t<T> new_array(py::ssize_t size) {
  const auto& numpy = py::detail::npy_api::get();
  Py_intptr_t shape[1] = {size};
  PyObject* a = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, py::dtype::of<T>().release().ptr(), 1, shape, nullptr,
                                            nullptr, 0, nullptr);
  if (a == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::array_t<T>>(a);
}

// Releases the GIL round work that lasts: handing it over costs as much as a small batch (about 0.1 us).
class ReleaseIf {
 public:
  explicit ReleaseIf(bool worth) : state_(worth ? PyEval_SaveThread() : nullptr) {}
  ~ReleaseIf() {
    if (state_ != nullptr) PyEval_RestoreThread(state_);
  }
  ReleaseIf(const ReleaseIf&) = delete;
  ReleaseIf& operator=(const ReleaseIf&) = delete;

 private:
  PyThreadState* state_;
};

// About 10 us of work in either loop.
constexpr std::size_t kLogitsWorthIt = 8192, kPixelsWorthIt = 65536;

[[noreturn]] void refuse_dtype(const py::array& a, const char* name, const char* expected) {
  throw py::type_error(std::string(name) + ": expected " + expected + ", got " + std::string(py::str(a.dtype())) +
                       ". Convert it explicitly; nothing is copied or cast here.");
}

template <class T>
const T* data_of(const py::array& a, const char* name, const char* expected) {
  if (!holds<T>(a)) refuse_dtype(a, name, expected);
  return static_cast<const T*>(a.data());
}

double positive(const py::object& object, const char* name) {
  const double x = PyFloat_AsDouble(object.ptr());
  if (x == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + ": expected a number, got " + std::string(py::repr(object)) +
                         ". Pass a float.");
  }
  if (!(x > 0.0 && x <= std::numeric_limits<double>::max())) {
    throw py::value_error(std::string(name) + ": expected a finite number above 0, got " +
                          std::string(py::repr(object)) + ". Pass the noise level in [0,1] pixel units.");
  }
  return x;
}

// 0 <= object <= largest.
std::uint64_t natural(const py::object& object, const char* name, std::uint64_t largest) {
  py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + ": expected an integer, got " + std::string(py::repr(object)) +
                         ". Pass an int.");
  }
  const unsigned long long x = PyLong_AsUnsignedLongLong(index.ptr());
  const bool failed = PyErr_Occurred() != nullptr;
  if (failed) PyErr_Clear();
  if (failed || x > largest) {
    throw py::value_error(std::string(name) + ": expected an integer from 0 to " + std::to_string(largest) + ", got " +
                          std::string(py::repr(object)) + ". Choose one in that range.");
  }
  return x;
}

// ---- certification -------------------------------------------------------------------------------------------------

void check_classes(const py::array& logits, py::ssize_t classes) {
  if (classes < 2 || classes > std::numeric_limits<std::int32_t>::max()) {
    throw py::value_error("logits: expected 2 to 2147483647 classes, got shape " + shape_of(logits) +
                          ". Pass one column a class.");
  }
}

py::array logits_of(const py::object& object) {
  py::array logits = plain_array(object, "logits", "float32[B, K] or float64[B, K]", 2);
  if (!holds<float>(logits) && !holds<double>(logits)) refuse_dtype(logits, "logits", "float32[B, K] or float64[B, K]");
  check_classes(logits, logits.shape(1));
  return logits;
}

void check_curve(const double* knots_q, std::size_t size, const double* knots_p, std::size_t size_p) {
  if (size < 2 || size_p != size) {
    throw py::value_error("knots: expected two arrays of one length, at least 2, got (" + std::to_string(size) +
                          ",) and (" + std::to_string(size_p) + ",). Pass the calibration's knots_q and knots_p.");
  }
  bool rising = knots_q[0] == 0.0 && knots_q[size - 1] == 1.0, bounded = true;
  for (std::size_t j = 1; j < size; ++j) rising = rising && knots_q[j - 1] < knots_q[j];
  for (std::size_t j = 0; j < size; ++j) bounded = bounded && std::fabs(knots_p[j]) <= 1e300;
  if (!rising) {
    throw py::value_error(
        "knots_q: expected strictly increasing numbers from 0.0 to 1.0, got others. Pass the calibration's knots_q.");
  }
  if (!bounded) {
    throw py::value_error(
        "knots_p: expected finite numbers of at most 1e300, got others. Pass the calibration's knots_p.");
  }
}

rrise::Curve curve_of(const py::array& q, const py::array& p) {
  const double* knots_q = data_of<double>(q, "knots_q", "float64[J]");
  const double* knots_p = data_of<double>(p, "knots_p", "float64[J]");
  const std::size_t size = static_cast<std::size_t>(q.shape(0));
  check_curve(knots_q, size, knots_p, static_cast<std::size_t>(p.shape(0)));
  return {knots_q, knots_p, size};
}

py::tuple certify_with(const py::array& logits, const rrise::Curve& curve, double sigma) {
  const py::ssize_t rows = logits.shape(0);
  const std::size_t count = static_cast<std::size_t>(rows), classes = static_cast<std::size_t>(logits.shape(1));
  auto label = new_array<std::int64_t>(rows);
  auto q = new_array<double>(rows), p_lower = new_array<double>(rows), radius = new_array<double>(rows);
  const rrise::Certificates out = {label.mutable_data(), q.mutable_data(), p_lower.mutable_data(),
                                   radius.mutable_data()};
  const bool single = holds<float>(logits);
  const void* data = logits.data();
  {
    const ReleaseIf release(count * classes >= kLogitsWorthIt);
    if (single) {
      rrise::certify_rows(static_cast<const float*>(data), count, classes, curve, sigma, out);
    } else {
      rrise::certify_rows(static_cast<const double*>(data), count, classes, curve, sigma, out);
    }
  }
  return py::make_tuple(std::move(label), std::move(q), std::move(p_lower), std::move(radius));
}

py::tuple certify(const py::object& logits_object, const py::object& knots_q_object, const py::object& knots_p_object,
                  const py::object& sigma_object) {
  const py::array logits = logits_of(logits_object);
  const py::array knots_q = plain_array(knots_q_object, "knots_q", "float64[J]", 1);
  const py::array knots_p = plain_array(knots_p_object, "knots_p", "float64[J]", 1);
  return certify_with(logits, curve_of(knots_q, knots_p), positive(sigma_object, "sigma"));
}

// A curve and a noise level, checked and copied once.
class Kernel {
 public:
  Kernel(const py::object& knots_q_object, const py::object& knots_p_object, const py::object& sigma_object)
      : sigma_(positive(sigma_object, "sigma")) {
    const py::array knots_q = plain_array(knots_q_object, "knots_q", "float64[J]", 1);
    const py::array knots_p = plain_array(knots_p_object, "knots_p", "float64[J]", 1);
    const double* q = data_of<double>(knots_q, "knots_q", "float64[J]");
    const double* p = data_of<double>(knots_p, "knots_p", "float64[J]");
    // The copies are checked, not the originals, which another thread may be writing.
    q_.assign(q, q + knots_q.shape(0));
    p_.assign(p, p + knots_p.shape(0));
    check_curve(q_.data(), q_.size(), p_.data(), p_.size());
  }

  py::tuple certify(const py::object& logits_object) const {
    return certify_with(logits_of(logits_object), curve(), sigma_);
  }

  py::tuple certify_one(const py::object& logits_object) const {
    const bool flat = py::isinstance<py::array>(logits_object) &&
                      py::reinterpret_borrow<py::array>(logits_object).ndim() == 1;
    const char* expected = flat ? "float32[K] or float64[K]" : "float32[1, K] or float64[1, K]";
    const py::array logits = plain_array(logits_object, "logits", expected, flat ? 1 : 2);
    const bool single = holds<float>(logits);
    if (!single && !holds<double>(logits)) refuse_dtype(logits, "logits", expected);
    check_classes(logits, logits.shape(flat ? 0 : 1));
    if (!flat && logits.shape(0) != 1) {
      throw py::value_error("logits: expected one row, got shape " + shape_of(logits) + ". Use certify for many.");
    }
    const std::size_t classes = static_cast<std::size_t>(logits.shape(flat ? 0 : 1));
    rrise::Certificate c;
    const rrise::Certificates out = {&c.label, &c.q, &c.p_lower, &c.radius};
    {
      const ReleaseIf release(classes >= kLogitsWorthIt);
      if (single) {
        rrise::certify_rows(static_cast<const float*>(logits.data()), 1, classes, curve(), sigma_, out);
      } else {
        rrise::certify_rows(static_cast<const double*>(logits.data()), 1, classes, curve(), sigma_, out);
      }
    }
    return py::make_tuple(c.label, c.q, c.p_lower, c.radius);
  }

 private:
  rrise::Curve curve() const { return {q_.data(), p_.data(), q_.size()}; }

  std::vector<double> q_, p_;
  double sigma_;
};

py::tuple top(const py::object& logits_object) {
  const py::array logits = logits_of(logits_object);
  const std::size_t rows = static_cast<std::size_t>(logits.shape(0)),
                    classes = static_cast<std::size_t>(logits.shape(1));
  auto label = new_array<std::int64_t>(logits.shape(0));
  auto q = new_array<double>(logits.shape(0));
  std::int64_t* label_out = label.mutable_data();
  double* q_out = q.mutable_data();
  const bool single = holds<float>(logits);
  const void* data = logits.data();
  {
    const ReleaseIf release(rows * classes >= kLogitsWorthIt);
    if (single) {
      rrise::top_rows(static_cast<const float*>(data), rows, classes, label_out, q_out);
    } else {
      rrise::top_rows(static_cast<const double*>(data), rows, classes, label_out, q_out);
    }
  }
  return py::make_tuple(std::move(label), std::move(q));
}

py::array_t<double> radius(const py::object& p_lower_object, const py::object& sigma_object) {
  const py::array p_lower = plain_array(p_lower_object, "p_lower", "float64[B]", 1);
  const double* p = data_of<double>(p_lower, "p_lower", "float64[B]");
  const double sigma = positive(sigma_object, "sigma");
  const py::ssize_t rows = p_lower.shape(0);
  py::array_t<double> result(rows);
  double* out = result.mutable_data();
  {
    py::gil_scoped_release release;
    for (py::ssize_t i = 0; i < rows; ++i) out[i] = rrise::radius(p[i], sigma);
  }
  return result;
}

// ---- images --------------------------------------------------------------------------------------------------------

void pixels_to_planes(const py::object& images_object, const py::object& out_object) {
  if (!py::isinstance<py::array>(images_object)) plain_array(images_object, "images", "uint8[N, H, W, C]", 4);
  const py::array images = py::reinterpret_borrow<py::array>(images_object);
  if (images.ndim() != 4) plain_array(images_object, "images", "uint8[N, H, W, C]", 4);
  if (!holds<std::uint8_t>(images)) refuse_dtype(images, "images", "uint8[N, H, W, C]");
  const py::ssize_t n = images.shape(0), h = images.shape(1), w = images.shape(2), c = images.shape(3);
  if (images.size() > 0 && ((c > 1 && images.strides(3) != 1) || (w > 1 && images.strides(2) != c))) {
    throw py::value_error(
        "images: expected the pixels of a row side by side in memory, got strides that skip or reverse them. Pass "
        "numpy.ascontiguousarray(images).");
  }
  py::array out = plain_array(out_object, "out", "float32[N, C, H, W]", 4);
  if (!holds<float>(out)) refuse_dtype(out, "out", "float32[N, C, H, W]");
  if (!out.writeable()) {
    throw py::value_error("out: expected a writable array, got a read-only one. Pass an array of your own.");
  }
  if (out.shape(0) != n || out.shape(1) != c || out.shape(2) != h || out.shape(3) != w) {
    throw py::value_error("out: expected float32[N, C, H, W] for images[N, H, W, C], got " + shape_of(out) + " for " +
                          shape_of(images) + ". Make them agree.");
  }
  const rrise::Pixels shape = {static_cast<std::size_t>(n), static_cast<std::size_t>(h), static_cast<std::size_t>(w),
                               static_cast<std::size_t>(c), images.strides(0),           images.strides(1)};
  const std::uint8_t* from = static_cast<const std::uint8_t*>(images.data());
  float* to = static_cast<float*>(out.mutable_data());
  const ReleaseIf release(static_cast<std::size_t>(images.size()) >= kPixelsWorthIt);
  rrise::pixels_to_planes(from, shape, to);
}

// ---- noise ---------------------------------------------------------------------------------------------------------

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

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of rrise: certificates from logits, and noise named by counters.";
  m.attr("__version__") = RRISE_VERSION;
  m.def("certify", &certify, "logits"_a, "knots_q"_a, "knots_p"_a, "sigma"_a,
        "(label, q, p_lower, radius) of each row of logits; label -1 and radius 0 where it abstains.");
  py::class_<Kernel>(m, "Kernel", "A calibration curve and a noise level, checked and copied once; immutable.")
      .def(py::init<const py::object&, const py::object&, const py::object&>(), "knots_q"_a, "knots_p"_a, "sigma"_a)
      .def("certify", &Kernel::certify, "logits"_a, "certify(logits, knots_q, knots_p, sigma) of this curve and sigma.")
      .def("certify_one", &Kernel::certify_one, "logits"_a,
           "(label, q, p_lower, radius) of one row, [K] or [1, K], as an int and three floats.");
  m.def("pixels_to_planes", &pixels_to_planes, "images"_a, "out"_a,
        "Write float32(v) / 255 of images uint8[N, H, W, C] into out float32[N, C, H, W].");
  m.def("top", &top, "logits"_a, "(label, q) of each row of logits: the first largest and its softmax probability.");
  m.def("radius", &radius, "p_lower"_a, "sigma"_a,
        "sigma * Phi^-1(p_lower), never above it; 0 where p_lower <= 1/2 or NaN.");
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
