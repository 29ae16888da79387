// rrise._C: what it holds, one file a topic.
#include <pybind11/pybind11.h>

void register_certification(pybind11::module_& m);  // bind_certification.cpp
void register_noise(pybind11::module_& m);          // bind_noise.cpp

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of rrise: certificates from logits, and noise named by counters.";
  m.attr("__version__") = RRISE_VERSION;
  register_certification(m);
  register_noise(m);
}
