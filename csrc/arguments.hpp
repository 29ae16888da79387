// Arguments of rrise._C: numpy arrays that are read as they lie in memory, neither copied nor converted, and numbers in
// range; anything else is refused in one line that names it. For the bindings alone: the headers *.h know no Python.
#ifndef RRISE_ARGUMENTS_HPP
#define RRISE_ARGUMENTS_HPP

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <string>

namespace rrise_python {

namespace py = pybind11;

inline std::string shape_of(const py::array& a) {
  std::string text = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i)
    text += std::to_string(a.shape(i)) + (a.ndim() == 1 ? "," : i + 1 < a.ndim() ? ", " : "");
  return text + ")";
}

// The object as an array of rank `rank` whose memory can be read as it lies.
inline py::array plain_array(const py::object& object, const char* name, const char* expected, int rank) {
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

[[noreturn]] inline void refuse_dtype(const py::array& a, const char* name, const char* expected) {
  throw py::type_error(std::string(name) + ": expected " + expected + ", got " + std::string(py::str(a.dtype())) +
                       ". Convert it explicitly; nothing is copied or cast here.");
}

template <class T>
const T* data_of(const py::array& a, const char* name, const char* expected) {
  if (!holds<T>(a)) refuse_dtype(a, name, expected);
  return static_cast<const T*>(a.data());
}

inline double positive(const py::object& object, const char* name) {
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
inline std::uint64_t natural(const py::object& object, const char* name, std::uint64_t largest) {
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

}  // namespace rrise_python

#endif  // RRISE_ARGUMENTS_HPP
