"""Every name of TensorRT, TensorRT-RTX and cuda.bindings that rrise uses is there, with the parameters it passes.

The adapter touches nothing that the fakes have not (`test_tensorrt.py`, `test_tensorrt_build.py` run it against them);
here the fakes are held against NVIDIA's own modules: as recorded in tests/golden, and live in the slow tests, where
they can be imported (`make test-tensorrt` sees to TensorRT's).
For TensorRT's bindings that needs no GPU and no TensorRT: a dozen lines of C stand in for its libraries. Put the wheel
tensorrt-cu13-bindings (1.3 MB) into a folder with `pip install --no-deps --target FOLDER`, and name the folder in
RRISE_TENSORRT_BINDINGS.
"""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_cuda import FakeRuntime
from fake_machine import VERSIONS
from fake_tensorrt import make_module
from tensorrt_api import CLASSES, table

GOLDEN = Path(__file__).parent / "golden"
FILES = {"tensorrt 11": "11.4", "tensorrt 10": "10.16", "tensorrt-rtx": "rtx_1.7"}
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin")
MADE = ("Builder", "OnnxParser", "Runtime", "ILogger")
"""Classes that rrise calls; TensorRT makes the objects of all others."""
STUB = """
void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
void *getPluginRegistry(void) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
_Bool initLibNvInferPlugins(void *logger, const char *space) { return 1; }
"""


def recorded(name: str) -> dict:
    return json.loads((GOLDEN / f"tensorrt_api_{FILES[name]}.json").read_text())


def fake(name: str) -> SimpleNamespace:
    return make_module(VERSIONS[name], FakeRuntime(), rtx=name == "tensorrt-rtx")


def missing(module: SimpleNamespace, classes: dict) -> list[str]:
    """What a fake module has and the table has not: classes, members, or as many parameters of a method."""
    found = []
    for name, cls in vars(module).items():
        if not isinstance(cls, type):
            continue
        if name not in classes:
            found.append(name)
            continue
        for member in [*(m for m in dir(cls) if not m.startswith("_") and m not in dir(int)), "__init__"]:
            value = getattr(cls, member)
            if member == "__init__" and name not in MADE:
                continue
            if member not in classes[name]:
                found.append(f"{name}.{member}")
            elif inspect.isfunction(value):
                passed = list(inspect.signature(value).parameters)[1:]
                if len(passed) not in map(len, classes[name][member] or []):
                    found.append(f"{name}.{member}({', '.join(passed)})")
    return found


@pytest.mark.parametrize("name", VERSIONS)
def test_every_name_used_is_in_the_recorded_module(name: str) -> None:
    known = recorded(name)
    assert known["version"] == VERSIONS[name]
    assert missing(fake(name), known["classes"]) == []


def test_a_name_or_a_parameter_too_many_is_found() -> None:
    module, classes = fake("tensorrt 11"), recorded("tensorrt 11")["classes"]
    del classes["IExecutionContext"]["execute_async_v3"]
    classes["IExecutionContext"]["set_device_memory"] = [["memory"]]
    classes["OnnxParser"]["__init__"] = [["network"]]
    del classes["TensorIOMode"]
    assert sorted(missing(module, classes)) == [
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_device_memory(memory, size)",
        "OnnxParser.__init__(network, logger)",
        "TensorIOMode",
    ]


def test_what_tensorrt_11_dropped_is_not_used() -> None:
    flags = recorded("tensorrt 10")["classes"]["BuilderFlag"].keys() - recorded("tensorrt 11")["classes"]["BuilderFlag"]
    assert {"FP16", "BF16", "INT8"} <= flags
    sources = Path(__file__).parent.parent.glob("rrise/runtime/engines/*.py")
    assert not any(f"BuilderFlag.{flag}" in source.read_text() for source in sources for flag in flags)


@pytest.mark.slow
def test_tensorrt_rtx_itself_where_it_is_installed() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'rrise[rtx]'")
    if module.__version__ == VERSIONS["tensorrt-rtx"]:
        assert table(module) == recorded("tensorrt-rtx")
    assert missing(fake("tensorrt-rtx"), table(module)["classes"]) == []


@pytest.mark.slow
def test_cuda_bindings_where_they_are_installed() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings: pip install 'rrise[rtx]'")
    names = [name for name in dir(FakeRuntime) if name.startswith("cuda")]
    assert len(names) > 15
    for name in names:
        ours, theirs = getattr(FakeRuntime, name), getattr(runtime, name)
        if inspect.isfunction(ours):
            said = theirs.__doc__.partition("(")[2].partition(")")[0]  # such as "stream, mode: cudaStreamCaptureMode"
            count = len(said.split(",")) if said else 0
            assert count == len(inspect.signature(ours).parameters) - 1, f"{name}({said})"
        elif isinstance(ours, type):
            for member in ours:
                assert getattr(theirs, member.name) == member.value
        else:
            assert theirs == ours
    errors = {member.name: member.value for member in runtime.cudaError_t}
    assert (errors["cudaSuccess"], errors["cudaErrorMemoryAllocation"]) == (0, 2)


def with_stub_libraries(folder: Path, bindings: Path, *command: str) -> subprocess.CompletedProcess:
    """Run Python where `import tensorrt_bindings` finds the wheel in a folder and stubs of TensorRT's libraries."""
    (major,) = {entry.name.split("-")[1].split(".")[0] for entry in bindings.glob("tensorrt_*bindings-*.dist-info")}
    (folder / "stub.c").write_text(STUB)
    for name in LIBRARIES:
        library = folder / f"lib{name}.so.{major}"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, folder / "stub.c"], check=True)
    paths = [str(bindings), str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


@pytest.fixture
def bindings() -> Path:
    named = os.environ.get("RRISE_TENSORRT_BINDINGS")
    if not named:
        pytest.skip("needs NVIDIA's wheel tensorrt-cu13-bindings in a folder named by RRISE_TENSORRT_BINDINGS")
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler for the stub libraries")
    return Path(named)


@pytest.mark.slow
def test_tensorrt_s_own_bindings_over_stub_libraries(bindings: Path, tmp_path: Path) -> None:
    done = with_stub_libraries(tmp_path, bindings, str(Path(__file__).parent / "tensorrt_api.py"), "tensorrt_bindings")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(CLASSES) - found["classes"].keys() == {"DynamicShapesKernelSpecializationStrategy"}
    name = f"tensorrt {found['version'].split('.')[0]}"
    if found["version"] == VERSIONS[name]:
        assert found == recorded(name)
    assert missing(fake(name), found["classes"]) == []


@pytest.mark.slow
def test_the_adapter_over_tensorrt_s_own_bindings_says_that_tensorrt_does_not_start(
    bindings: Path, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, ctypes, tensorrt_bindings\n"
        "from fake_cuda import FakeDriver, FakeRuntime\n"
        "from rrise.runtime.engines.tensorrt import TensorRtEngine\n"
        "from rrise.runtime.engines.tensorrt_build import build_plan\n"
        "sys.modules['tensorrt'] = tensorrt_bindings\n"
        "sys.modules['cuda.bindings.runtime'] = FakeRuntime()\n"
        "ctypes.CDLL = lambda path: FakeDriver()\n"
        "for start in (lambda: TensorRtEngine(b'plan'), lambda: build_plan('tensorrt', b'', input_shape=(1, 2, 2))):\n"
        "    try:\n        start()\n    except RuntimeError as error:\n        print(error)\n"
    )
    done = with_stub_libraries(tmp_path, bindings, str(program))
    assert done.returncode == 0, done.stderr
    version = re.findall(r"expected tensorrt (\S+) to start, got: no reason", done.stdout)
    assert len(version) == 2, done.stdout
