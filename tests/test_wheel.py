"""What is shipped: an sdist that builds from itself, and a wheel for each platform with what it needs and no more."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = (ROOT / "rrise" / "VERSION").read_text().strip()
PLATFORMS = {  # platform -> architectures, and the word of a build's name for it
    "linux": (["x86_64", "aarch64"], "manylinux"),
    "macos": (["x86_64", "arm64"], "macosx"),
    "windows": (["AMD64"], "win"),
}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from the sdist; with the build tools that are installed, so offline."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # a copy: a build leaves files in its folder
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist"), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = (list((place / "dist").glob(ending)) for ending in ("*.tar.gz", "*.whl"))
    return sdist, wheel


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(shipped: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(shipped[1]) as wheel:
        names = set(wheel.namelist())
        assert len(names) == len(wheel.namelist())
        kernel = [name for name in names if name.startswith("rrise/_C.") and not name.endswith(".pyi")]
        assert len(kernel) == 1
        binary = wheel.read(kernel[0])
    tops = {name.split("/")[0] for name in names}
    assert tops == {"rrise", f"rrise-{VERSION}.dist-info"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "rrise").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    data = {"VERSION", "py.typed", "_C.pyi", "evaluation/report.html.jinja"}
    data |= {f"recipes/{path.name}" for path in (ROOT / "rrise/recipes").glob("*.toml")}
    headers = {f"include/{path.name}" for path in (ROOT / "csrc").glob("*.h")}
    assert {f"rrise/{name}" for name in data | headers} <= names
    assert f"rrise-{VERSION}.dist-info/licenses/LICENSE" in names
    assert not [name for name in names if name.endswith((".cpp", ".so.dbg", ".pyc")) or "tests/" in name]
    for place in (ROOT, shipped[1].parent.parent, Path.home(), Path(sys.prefix)):
        assert f"{place}{os.sep}".encode() not in binary  # nothing of the machine that built it


@pytest.mark.slow
def test_the_sdist_holds_the_sources_and_their_tests(shipped: tuple[Path, Path]) -> None:
    with tarfile.open(shipped[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
        assert all(member.isfile() or member.isdir() for member in sdist.getmembers())
    for folder, pattern in (("csrc", "*.*"), ("rrise", "*.py"), ("tests", "*.py"), ("fuzz", "*.*"), ("docs", "*.md")):
        wanted = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern) if path.suffix != ".pyc"}
        assert wanted
        assert wanted <= names
    corpus = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "corpus").rglob("*.*") if path.is_file()}
    assert corpus <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or "__pycache__" in name]


@pytest.mark.slow
def test_the_wheel_runs_by_itself(shipped: tuple[Path, Path], tmp_path: Path) -> None:
    """Unpacked, in a place of its own, a bundle is certified: what `rrise` needs is in the wheel."""
    with zipfile.ZipFile(shipped[1]) as wheel:
        wheel.extractall(tmp_path)
    probe = (
        "import sys, numpy, rrise; c = rrise.Certifier.load(sys.argv[1]); "
        "print(rrise.__file__, rrise._C.__version__, c(numpy.zeros((1, *c.input_shape), numpy.float32)).label.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, str(ROOT / "tests" / "golden" / "bundle-1")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.stdout.strip() == f"{tmp_path / 'rrise' / '__init__.py'} {VERSION} (1,)", done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel judges wheels for Linux")
def test_auditwheel_finds_nothing_to_bundle(shipped: tuple[Path, Path]) -> None:
    pytest.importorskip("auditwheel", reason="auditwheel says which Linux a wheel runs on; it is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", str(shipped[1])], capture_output=True, text=True, check=True
    )
    said = " ".join(done.stdout.split())
    assert re.search(r'consistent with the following platform tag: "(manylinux|musllinux)_', said), said
    libraries = set(re.findall(r"(\S+\.so\S*) with versions", said))
    assert libraries <= {"libgcc_s.so.1", "libm.so.6", "libc.so.6", "libstdc++.so.6", "libpthread.so.0"}, said


@pytest.mark.parametrize("platform", PLATFORMS)
def test_cibuildwheel_builds_these(platform: str) -> None:
    """Its own reading of pyproject.toml; nothing is downloaded or built."""
    pytest.importorskip("cibuildwheel", reason="cibuildwheel reads its own options; it is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
    done = subprocess.run(
        [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform, str(ROOT)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    architectures, system = PLATFORMS[platform]
    wanted = {f"cp3{minor}-{system}_{arch.lower()}" for minor in range(10, 15) for arch in architectures}
    assert set(done.stdout.split()) == wanted


def test_each_platform_has_its_options_and_its_runner() -> None:
    yaml = pytest.importorskip("yaml")
    options: Mapping[str, Any] = PROJECT["tool"]["cibuildwheel"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8"))
    rows = workflow["jobs"]["wheels"]["strategy"]["matrix"]["include"]
    built = {(row["platform"], row["arch"]) for row in rows}
    assert built == {(platform, arch) for platform, (archs, _) in PLATFORMS.items() for arch in archs}
    for platform, (architectures, _) in PLATFORMS.items():
        assert options[platform]["archs"] == architectures
    steps = [step.get("run", "") for step in workflow["jobs"]["wheels"]["steps"]]
    assert any(re.search(r"cibuildwheel .*matrix\.platform.*matrix\.arch", step) for step in steps)
    assert workflow[True].keys() == {"workflow_dispatch", "push"}  # YAML 1.1 reads the key `on` as true


def test_the_tests_of_a_wheel_exist() -> None:
    options = PROJECT["tool"]["cibuildwheel"]
    commands = [*options["test-command"], *options["windows"]["test-command"]]
    named = re.findall(r"\{project\}/(\S+)", " ".join(commands))
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).is_file()] == []
