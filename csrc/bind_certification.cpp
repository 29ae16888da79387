// Certificates (radius.h) and images (planes.h) as Python functions of numpy arrays. Checks come first and are made here.
#include <cmath>
#include <vector>

#include "arguments.hpp"
#include "planes.h"
#include "radius.h"

namespace py = pybind11;
using namespace py::literals;
using namespace rrise_python;

namespace {

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

}  // namespace

void register_certification(py::module_& m) {
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
}
