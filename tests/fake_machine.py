"""A machine with GPUs, CUDA and one version of TensorRT, none of them real."""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fake_cuda import FakeDriver, FakeRuntime
from fake_tensorrt import GPU, make_module

from rrise.runtime.engines import tensorrt_module

VERSIONS = {"tensorrt 11": "11.4.0.106", "tensorrt 10": "10.16.1.11", "tensorrt-rtx": "1.7.1.116"}


def install(monkeypatch: pytest.MonkeyPatch, name: str, gpus: tuple[str, ...] = (GPU,)) -> SimpleNamespace:
    """Put driver, CUDA and one of `VERSIONS` in place; returns kind, module, runtime and the two `fake`s."""
    kind = name.split()[0]
    runtime = FakeRuntime()
    module = make_module(VERSIONS[name], runtime, rtx=kind == "tensorrt-rtx")
    no_driver = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda path: FakeDriver(gpus) if path == "libcuda.so.1" else no_driver(path))
    monkeypatch.setitem(sys.modules, tensorrt_module.KINDS[kind][0], module)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", runtime)
    monkeypatch.setattr(tensorrt_module, "_loaded", functools.cache(tensorrt_module._loaded.__wrapped__))
    return SimpleNamespace(kind=kind, version=VERSIONS[name], module=module, tensorrt=module.fake, cuda=runtime.fake)


@contextlib.contextmanager
def refused(error: type[Exception], said: str) -> Iterator[None]:
    """Expect a refusal: one line that says what was expected and what was got, and matches."""
    with pytest.raises(error, match=said) as caught:
        yield
    text = str(caught.value)
    assert ": expected " in text
    assert ", got" in text
    assert "\n" not in text
