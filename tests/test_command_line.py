"""The command line: help with the base install, one-line errors, exit codes, and one mistake for each verb."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_engines import engine_spec, linear_engine, write_bundle

from rrise.__main__ import main
from rrise.runtime.bundle_writing import save_bundle

VERBS = (
    "run",
    "train",
    "sample",
    "fit",
    "export",
    "calibrate",
    "certify",
    "evaluate",
    "engines",
    "attack",
    "selftest",
    "inspect",
    "sign",
    "keygen",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a linear network on 2×2 images: bright is class 1."""
    folder = tmp_path_factory.mktemp("linear")
    engine = folder / "engine.onnx"
    engine.write_bytes(linear_engine([[-5.0, 5.0]] * 4, [10.0, -10.0]))
    save_bundle(
        folder / "bundle",
        engine_file=engine,
        engine_spec=engine_spec(engine.read_bytes(), input_shape=[1, 2, 2], num_classes=2, classes=["dark", "bright"]),
        calibration={
            "curve": "offset",
            "knots_q": [0.0, 0.5, 1.0],
            "knots_p": [0.0, 0.25, 0.9],
            "guarantee": "marginal",
            "beta": 0.001,
            "gamma": 0.049,
            "eta": 0.0,
            "n": 1000,
            "images": 500,
            "rank": 477,
            "t": 0.1,
        },
        sigma=0.25,
        statement="A statement.",
        provenance={"seed": 0},
    )
    return folder / "bundle"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "pictures.npy"
    np.save(path, np.array([[[255, 255], [255, 255]], [[0, 0], [0, 0]], [[128, 127], [127, 128]]], np.uint8))
    return path


def test_certify_prints_a_table(bundle: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", str(bundle), str(images)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "label", "radius", "p", ">=", "q"]
    assert [line.split()[1] for line in lines[1:4]] == ["bright", "dark", "abstain"]
    assert float(lines[3].split()[2]) == 0
    assert "A statement." in lines[-2]
    assert "attacker" in lines[-1]


def test_certify_prints_json(bundle: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", str(bundle), str(images), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["statement"] == "A statement."
    assert [row["label"] for row in answer["certificates"]] == [1, 0, -1]
    assert 0.31 < answer["certificates"][0]["radius"] <= 0.25 * 1.2815515655446004


def test_a_terminal_without_mathematics_is_no_error(bundle: Path, images: Path) -> None:
    """As a pipe on Windows: its encoding has no ℓ."""
    done = subprocess.run(
        [sys.executable, "-m", "rrise", "certify", str(bundle), str(images)],
        capture_output=True,
        env={**_paths(), "PYTHONIOENCODING": "cp1252"},
    )
    assert done.returncode == 0, done.stderr
    assert rb"radius: \u21132, pixels" in done.stdout


def test_inspect(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(bundle)]) == 0
    text = capsys.readouterr().out
    for part in ("A statement.", "What it does not say", "P(certified)", "beta: 0.001", "verified"):
        assert part in text
    assert main(["inspect", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sigma"] == 0.25


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"certified": 400}, "Among certified inputs alone: at most 6.822% can be wrong, 4.905% divided by the 71.9%"),
        ({"certified": 20}, "Among certified inputs alone it promises nothing: 4.905% may be wrong, of the 1.33%"),
        (
            {"guarantee": "training-conditional"},
            "Among certified inputs alone: at most 4.905% / P(certified) can be wrong",
        ),
        ({"guarantee": "certified", "certified": 400}, ""),
    ],
)
def test_inspect_says_what_a_promise_leaves_among_certificates(
    facts: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {f"calibration__{key}": value for key, value in ({"images": 500, "rank": 480} | facts).items()}
    folder = write_bundle(tmp_path / "b", linear_engine(np.eye(4, 3), np.zeros(3)), **changes)
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert said in shown
    assert ("Among certified" in shown) == bool(said)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "recipe: expected a TOML file or one of"),
        (["run", "digits", "--set", "fit.strategi=head"], "unknown key fit.strategi"),
        (["train", "--out", "OUT", "--data.source", "nothing.npz"], "nothing.npz"),
        (["train", "--out", "OUT", "--data.train", "5000"], "1797|1796|1795"),
        (["sample", "--classifier", "OUT", "--out", "OUT", "--sigma", "0"], "sigma"),
        (["sample", "--classifier", "OUT", "--out", "OUT"], "OUT"),
        (["fit", "--classifier", "OUT", "--counts", "OUT", "--out", "NEW"], "OUT"),
        (["export", "--surrogate", "OUT", "--out", "NEW"], "OUT"),
        (["calibrate", "--engine", "OUT", "--counts", "OUT", "--out", "NEW"], "OUT"),
        (["calibrate", "--engine", "OUT", "--counts", "OUT", "--out", "NEW", "--beta", "2"], "beta"),
        (["certify", "OUT", "OUT/x.png"], "bundle"),
        (["evaluate", "--bundles", "OUT", "--classifier", "OUT", "--counts", "OUT", "--out", "NEW"], "bundles"),
        (["engines", "OUT", "--out", "NEW"], "bundles: expected folders written by"),
        (["engines", "OUT", "--out", "NEW", "--threads", "0"], "threads: expected an integer of at least 1, got 0"),
        (["export", "--surrogate", "OUT", "--out", "NEW", "--precision", "int4"], "precision: expected one of float32"),
        (["selftest", "--engine", "nothing"], "engine: expected one of onnxruntime"),
        (["inspect", "OUT"], "inspect: expected a folder with one of"),
    ],
    ids=lambda value: "-".join(value[:1] + value[-2:]) if isinstance(value, list) else None,
)
def test_one_mistake_each(
    arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import re

    there = tmp_path / "there"
    there.mkdir()
    (there / "x.png").write_bytes(b"no picture")
    places = {"OUT": str(there), "NEW": str(tmp_path / "new"), "OUT/x.png": str(there / "x.png")}
    assert main([places.get(argument, argument) for argument in arguments]) == 1
    error = capfd.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    assert error.startswith(f"rrise {arguments[0]}: ")
    assert re.search(message.replace("OUT", re.escape(str(there))), error), error
    assert not (tmp_path / "new").exists()
    assert [path.name for path in there.iterdir()] == ["x.png"]


def test_inspecting_a_damaged_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bundle.json", "engine.json", "network.json", "manifest.json"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text('{"format": ')
        assert main(["inspect", str(folder)]) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_images_that_do_not_fit(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((3, 3), np.uint8))
    assert main(["certify", str(bundle), str(wrong)]) == 1
    assert "expected" in capsys.readouterr().err
    np.save(wrong, np.full((2, 2), -1.5))
    assert main(["certify", str(bundle), str(wrong)]) == 1
    assert "float64" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"rrise {verb}" in text.split("example:")[1]


def test_help_needs_numpy_only() -> None:
    """Every third-party import but numpy is made to fail; the help must not notice."""
    probe = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in ("rrise", "numpy") and root not in sys.stdlib_module_names:
            raise ImportError(f"{name} is not in the base install")
sys.meta_path.insert(0, Refuse())
from rrise.__main__ import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
try:
    import torch
except ImportError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-S", "-c", probe], capture_output=True, text=True, env=_paths())
    assert done.stdout.strip().endswith("refused"), done.stderr
    assert all(verb in done.stdout for verb in VERBS)


def _paths() -> dict[str, str]:
    """-S skips editable-install hooks, which import more than numpy; the paths are given instead."""
    import os

    import rrise

    places = [str(Path(rrise.__file__).parent.parent), str(Path(np.__file__).parent.parent)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["train", "--out", "never"]) == 1
    assert "sklearn is missing. pip install 'rrise[train]'" in capsys.readouterr().err


def test_ctrl_c_exits_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rrise.recipe.load_recipe", interrupt)
    assert main(["run", "digits"]) == 130
    assert "goes on from there" in capsys.readouterr().err


def test_traceback_on_request() -> None:
    with pytest.raises(FileNotFoundError):
        main(["run", "nothing", "--traceback"])


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["smooth"])
    assert stop.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "draws"),
    [
        (["--split", "calibration"], 10_000),
        (["--split", "calibration", "--n", "300"], 300),
        (["--split", "train"], 1000),
        (["--split", "profile"], 1000),
        (["--split", "test", "--stream", "estimation"], 1000),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else str(value),
)
def test_the_split_decides_how_many_draws_are_usual(
    flags: list[str], draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rrise import stages

    asked: list[int] = []

    def noted(splits: Any, split: str, config: Any, *places: Any, **more: Any) -> str:
        asked.append(config.n)
        return "noted"

    monkeypatch.setattr(stages, "sample", noted)
    assert main(["sample", "--classifier", "none", "--out", "nowhere", *flags]) == 0
    assert asked == [draws]


def test_a_plan_takes_the_draws_of_what_it_does_not_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    from rrise import stages

    asked: list[Any] = []
    monkeypatch.setattr(stages, "plan", lambda *places, draws, **_: asked.append(draws) or "planned")
    flags = ["--draws.targets", "4", "--draws.calibration", "5000", "--draws.monte-carlo", "500"]
    assert main(["sample", "--classifier", "none", "--out", "nowhere", "--plan", *flags]) == 0
    assert (asked[0].targets, asked[0].calibration, asked[0].monte_carlo) == (4, 5000, 500)
