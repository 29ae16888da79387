"""Build of the compiled kernel ``rrise._C``; everything else is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

HERE = Path(__file__).parent
VERSION = (HERE / "rrise" / "VERSION").read_text().strip()

setup(
    ext_modules=[
        Pybind11Extension(
            "rrise._C",
            ["csrc/bindings.cpp"],
            include_dirs=["csrc"],
            depends=[f"csrc/{name}.h" for name in ("elementary", "lanes", "noise", "planes", "radius", "softmax")],
            define_macros=[("RRISE_VERSION", f'"{VERSION}"')],
            cxx_std=17,
            # Never -ffast-math: it lets the compiler drop the NaN checks a certificate rests on.
            extra_compile_args=["-O3", "-ffp-contract=off", "-Wall", "-Wextra"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
