"""`rrise attack` on a finished run: what it writes, what it refuses, and that it finds a certificate that is wrong."""

import json
import shutil
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest
from shared_run import small_recipe

from rrise import stages
from rrise.__main__ import main
from rrise.evaluation.attack_config import AttackConfig
from rrise.images import Splits
from rrise.runtime import load_bundle
from rrise.runtime.bundle_writing import save_bundle

Finished = tuple[Path, list[str]]
CONFIG = AttackConfig(images=12, steps=8, draws=4, halvings=3, n=200, threads=1)


@pytest.fixture(scope="module")
def splits(finished: Finished) -> Splits:
    return stages.load_splits(small_recipe(finished[0]).data)


def attack(run: Path, splits: Splits, out: Path, config: AttackConfig = CONFIG, **changed: Path) -> dict:
    places = {"bundle": run / "bundles/offset", "surrogate": run / "surrogate", "classifier": run / "classifier"}
    stages.attack(splits, config, **{**places, **changed}, out=out, progress=False)
    return json.loads((out / "attack.json").read_text())


def made_up(run: Path, out: Path, *, n: int = 100, p: float = 0.95, **provenance: str) -> Path:
    """A bundle of the run's engine whose curve claims the bound p wherever the engine looks."""
    bundle = load_bundle(run / "bundles" / "offset")
    required = {each.name for each in fields(bundle.calibration) if each.default is MISSING}
    facts = {name: value for name, value in vars(bundle.calibration).items() if name in required}
    calibration = facts | {"curve": "offset", "knots_q": [0.0, 1.0], "knots_p": [p, p]}
    save_bundle(
        out,
        engine_file=run / "engine" / bundle.engine.file,
        engine_spec=json.loads((run / "engine" / "engine.json").read_text()),
        calibration=calibration | {"n": n, "beta": 0.01, "gamma": 0.04},
        sigma=bundle.sigma,
        statement="A planted lie.",
        provenance=dict(bundle.provenance) | provenance,
    )
    return out


def test_the_verb_writes_what_it_found(finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = finished[0], tmp_path / "attack"
    config = [f"--{name}={getattr(CONFIG, name)}" for name in ("images", "steps", "draws", "halvings", "n", "threads")]
    config += ["--reach", "1", "1.5", "2", "12"]
    data = ["--data.train=300", "--data.calibration=150", "--data.test=40"]
    places = [f"--bundle={run}/bundles/offset", f"--surrogate={run}/surrogate", f"--classifier={run}/classifier"]
    assert main(["attack", *places, f"--out={out}", *config, *data]) == 0
    assert "What the certificate does not cover" in capsys.readouterr().out
    body = json.loads((out / "attack.json").read_text())
    assert body["schema"] == "rrise-attack/1"
    assert [(row["attack"], row["reach"]) for row in body["rows"]] == [
        (attack, reach) for reach in (1.0, 1.5, 2.0, 12.0) for attack in ("surrogate", "smoothed")
    ]
    flips = [row["surrogate_flips"]["count"] for row in body["rows"] if row["attack"] == "surrogate"]
    assert flips == sorted(flips)
    assert flips[-1] > 0  # twelve radii away something gives
    assert body["smallest"]["found"]["count"] >= flips[-1]
    assert 0 < body["smallest"]["least"] <= 12
    assert body["refuted"]["found"]["total"] == 12
    assert body["refuted"]["promised"] == pytest.approx(0.2 / 0.99)
    assert body["provenance"]["bundle"] == load_bundle(run / "bundles/offset").sha256
    assert main(["attack", *places, f"--out={out}", *config, *data]) == 1  # never over an earlier one
    assert "exists" in capsys.readouterr().err


def test_equal_runs_give_equal_figures(finished: Finished, splits: Splits, tmp_path: Path) -> None:
    few = replace(CONFIG, reach=(1.0,), restarts=2, halvings=1, n=50)
    first, again = (attack(finished[0], splits, tmp_path / name, few) for name in ("a", "b"))
    assert first == again


def test_certificates_that_lie_are_found_out(finished: Finished, splits: Splits, tmp_path: Path) -> None:
    """A curve that claims 0.9999 everywhere certifies 3.7 σ around every image: more than the smoothed label holds."""
    lie = made_up(finished[0], tmp_path / "lie", n=100_000, p=0.9999)
    found = attack(finished[0], splits, tmp_path / "attack", replace(CONFIG, reach=(1.0,), halvings=0), bundle=lie)
    assert found["refuted"]["found"]["count"] > 6
    assert found["refuted"]["exceeded"] is True
    assert "the certificates do not hold" in (tmp_path / "attack" / "attack.md").read_text()


def test_other_networks_than_the_bundles_are_refused(finished: Finished, splits: Splits, tmp_path: Path) -> None:
    run, out = finished[0], tmp_path / "attack"
    with pytest.raises(ValueError, match=r"surrogate: expected the one that the bundle was made from, sha256 \w+, got"):
        attack(run, splits, out, surrogate=run / "classifier")
    with pytest.raises(ValueError, match="classifier: expected the one that the bundle was made from"):
        attack(run, splits, out, classifier=run / "surrogate")
    onnx = shutil.copyfile(run / "engine" / "engine.onnx", tmp_path / "base.onnx")
    of_onnx = made_up(run, tmp_path / "bundle", classifier_sha256=load_bundle(run / "bundles/offset").engine.sha256)
    with pytest.raises(ValueError, match="a network that torch can differentiate, got the ONNX file"):
        attack(run, splits, out, bundle=of_onnx, classifier=onnx)
    assert not out.exists()


def test_seen_images_and_abstentions_are_refused(finished: Finished, splits: Splits, tmp_path: Path) -> None:
    run, out = finished[0], tmp_path / "attack"
    with pytest.raises(ValueError, match="test: expected images that had no part"):
        attack(run, replace(splits, test=splits.calibration), out)
    with pytest.raises(ValueError, match="test: expected images that had no part"):
        attack(run, replace(splits, test=splits.train), out)
    fewer = splits.calibration.take(range(100))  # the other 50 may be test images
    with pytest.raises(ValueError, match=r"calibration: expected the images that the bundle was calibrated on"):
        attack(run, replace(splits, calibration=fewer), out)
    nothing = made_up(run, tmp_path / "bundle", p=0.5)
    with pytest.raises(ValueError, match="images: expected one that the bundle certifies, got 12 abstentions"):
        attack(run, splits, out, bundle=nothing)
    with pytest.raises(ValueError, match="device: expected one that torch can use here, got 'nowhere'"):
        attack(run, splits, out, replace(CONFIG, device="nowhere"))
