"""Build of the compiled kernel ``rrise._C``; everything else is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

HERE = Path(__file__).parent
VERSION = (HERE / "rrise" / "VERSION").read_text(encoding="utf-8").strip()

# Every sum and product is rounded once, on every machine: no -ffast-math, which drops the NaN checks a certificate
# rests on, and no fused multiply-add. /fp:precise is the same of MSVC, which on x86-64 fuses nothing under it.
FLAGS = {
    "msvc": ["/O2", "/fp:precise", "/W3"],
    "unix": ["-O3", "-ffp-contract=off", "-Wall", "-Wextra"],  # GCC and Clang
}


class BuildKernel(build_ext):
    """Compile with the flags of the compiler that was found."""

    def build_extensions(self):
        for extension in self.extensions:
            extension.extra_compile_args += FLAGS["msvc" if self.compiler.compiler_type == "msvc" else "unix"]
        super().build_extensions()


setup(
    ext_modules=[
        Pybind11Extension(
            "rrise._C",
            ["csrc/bindings.cpp", "csrc/bind_certification.cpp", "csrc/bind_noise.cpp"],
            include_dirs=["csrc"],
            depends=["csrc/arguments.hpp"]
            + [f"csrc/{name}.h" for name in ("elementary", "lanes", "noise", "planes", "radius", "softmax")],
            define_macros=[("RRISE_VERSION", f'"{VERSION}"')],
            cxx_std=17,
        )
    ],
    cmdclass={"build_ext": BuildKernel},
)
