"""The README's commands run as they stand, and what it names exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of the step-by-step section have run, with `rrise` on the path."""
    folder = tmp_path_factory.mktemp("readme")
    command = folder / "bin" / "rrise"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rrise "$@"\n')
    command.chmod(0o755)
    (folder / "stdout").write_text(shell("\n".join(blocks("sh")), folder))
    return folder


def shell(script: str, folder: Path) -> str:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_verb_is_shown_and_runs(place: Path) -> None:
    shown = set(re.findall(r"^rrise (\w+)", "".join(blocks("sh")), re.MULTILINE))
    assert shown == {
        "train",
        "sample",
        "fit",
        "export",
        "calibrate",
        "evaluate",
        "inspect",
        "certify",
        "engines",
        "attack",
    }
    said = (place / "stdout").read_text()
    assert "What it does not say" in said
    assert "hand/evaluation/examples/0-" in said
    assert (place / "hand/evaluation/report.html").is_file()
    assert "break-even    after" in said
    assert "What the certificate does not cover" in said
    assert re.search(r"\| bundles-int8/scaled \| onnxruntime [\d.]+ \| int8 \|", said)
    assert "700 images × 500 draws in hand/counts/more (7 of 7 shards sampled now)" in said


@pytest.mark.slow
def test_the_embedding_example_runs(place: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.fullmatch(r"(\d 0\.\d+ 0\.\d+|no certificate: fall back)\n", done.stdout)


@pytest.mark.slow
def test_the_commands_of_several_noise_levels_run(place: Path) -> None:
    page = (ROOT / "docs" / "noise-levels.md").read_text()
    said = shell("".join(blocks("sh", page)), place)
    assert "sigma = 0.12, 0.25: heads on one network" in said
    assert "at one or more of sigma = 0.12, 0.25" in said
    given = "import numpy as np, rrise\nimages = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)\n"
    (example,) = blocks("python", page)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", given + example + "print(len(chosen), len(certifier.each(images)))"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "5 2\n"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"^make ([a-z -]+?) *(?:#|$)", text, re.MULTILINE) + re.findall(r"`make ([a-z-]+)`", text)
    assert {"demo", "test", "bench"} <= {target for line in named for target in line.split()} <= targets


def test_named_files_exist() -> None:
    named = re.findall(r"\| `(rrise/[\w/.]+)` \|", README) + re.findall(r"\]\(([\w/.]+)\)", README)
    assert len(named) >= 10
    for name in named:
        assert (ROOT / name).exists(), name
