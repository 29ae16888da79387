"""The kernel's fuzz target without libFuzzer: its corpus and some thousand fixed random inputs, under sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
FLAGS = ["-std=c++17", "-O0", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-DRRISE_NO_CLONES"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(target: Path, kernel: Path, headers: Path) -> Path:
    assert COMPILER is not None
    sources = [str(kernel), str(ROOT / "fuzz" / "replay.cpp")]
    subprocess.run(
        [COMPILER, *FLAGS, *SANITIZERS, "-I", str(headers), *sources, "-o", str(target)], check=True, timeout=600
    )
    return target


def sanitizers_work(folder: Path) -> bool:
    command = [str(COMPILER), *SANITIZERS, "-x", "c++", "-", "-o", str(folder / "empty")]
    return (
        subprocess.run(command, input=b"int main() {}", capture_output=True, timeout=600, check=False).returncode == 0
    )


def replay(program: Path, count: int) -> subprocess.CompletedProcess[str]:
    seeds = sorted(str(path) for path in (ROOT / "tests" / "corpus" / "kernel").iterdir())
    assert len(seeds) > 15
    return subprocess.run([str(program), str(count), *seeds], capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(autouse=True)
def needs(tmp_path: Path) -> None:
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    if not sanitizers_work(tmp_path):
        pytest.skip("this compiler has no address and undefined-behaviour sanitizers")


@pytest.mark.slow
def test_the_corpus_and_random_inputs_break_nothing(tmp_path: Path) -> None:
    done = replay(build(tmp_path / "replay", ROOT / "fuzz" / "kernel.cpp", ROOT / "csrc"), 4000)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("if (!(high == high))", "if (false)"),  # a NaN is certified
        ("index = x > best ?", "index = x >= best ?"),  # of ties, the last
        ("return x > 0.0 ? from_bits(bits_of(x) - 1) : 0.0;", "return x * (1 + 0x1p-50);"),  # a radius rounded up
        ("p = p > lower ? p : lower;", "(void)lower;"),  # p falls just above a knot
        ("classes - N), sizeof x", "classes), sizeof x"),  # a read beyond the row
    ],
)
def test_the_target_finds_faults(good: str, bad: str, tmp_path: Path) -> None:
    headers = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", headers)
    changed = 0
    for header in headers.glob("*.h"):
        text = header.read_text()
        changed += text.count(good)
        header.write_text(text.replace(good, bad))
    assert changed == 1
    done = replay(build(tmp_path / "replay", ROOT / "fuzz" / "kernel.cpp", headers), 4000)
    assert done.returncode != 0
    assert "broken" in done.stderr or "Sanitizer" in done.stderr
