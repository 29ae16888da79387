"""The self-test tells a working engine from one that is not there or answers wrongly."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shared_run import small_recipe

from rrise import stages
from rrise.runtime.engines import Engine, EngineOptions
from rrise.runtime.engines.tensorrt_build import PlanConfig
from rrise.stages.selftest import SelftestConfig, _parity
from rrise.training.export import ExportConfig

Finished = tuple[Path, list[str]]


def test_without_a_driver_tensorrt_is_refused_before_any_work() -> None:
    """In a process of its own: TensorRT's runtime would end it where there is no driver."""
    command = [sys.executable, "-m", "rrise", "selftest", "--engine", "tensorrt"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("this machine has a GPU and TensorRT")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("rrise selftest: engine: expected ")


def test_unknown_engines_and_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"engine: expected one of onnxruntime, .*got 'tensorflow'"):
        SelftestConfig("tensorflow")
    with pytest.raises(ValueError, match=r"precision: expected one of float32, .*got 'int4'"):
        SelftestConfig("onnxruntime", "int4")


class Turned(Engine):
    """Another engine's logits, moved."""

    def __init__(self, engine: Engine, move: np.ndarray) -> None:
        self.engine, self.move = engine, move
        self.input_shape, self.num_classes = engine.input_shape, engine.num_classes

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.engine(batch) + self.move


@pytest.mark.slow
def test_parity_tells_rounding_from_another_function(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_recipe(finished[0])
    splits = stages.load_splits(recipe.data)
    stages.export(splits.train, ExportConfig(), recipe.plan, finished[0] / "surrogate", tmp_path / "tried")
    config, images = SelftestConfig(), splits.test.images
    assert _parity(tmp_path, config, EngineOptions(), images).startswith(
        "top probability within 0.0e+00 of onnxruntime"
    )
    from rrise.runtime import engines

    opened = engines.open_engine
    for move, said in ((1e-6, None), (0.05, "a difference of"), (10.0, "the same label for")):
        step = np.zeros(10, np.float32)
        step[3] = move
        monkeypatch.setattr(engines, "open_engine", lambda *a, step=step, **k: Turned(opened(*a, **k), step))
        if said is None:
            assert "the same label for 100.0%" in _parity(tmp_path, config, EngineOptions(), images)
            continue
        with pytest.raises(ValueError, match=f"engine: expected probabilities within 0.0001 .*{said}.*Do not deploy"):
            _parity(tmp_path, config, EngineOptions(), images)


@pytest.mark.slow
def test_an_engine_that_works_passes() -> None:
    try:
        import openvino  # noqa: F401

        config = SelftestConfig("openvino", "int8")
    except ImportError:
        config = SelftestConfig("onnxruntime", "int8")
    said: list[str] = []
    last = stages.selftest(config, PlanConfig(), EngineOptions(), say=said.append)
    assert last.startswith(f"selftest: ok, {config.engine} in int8")
    assert said[0].startswith(f"runtime: {config.engine} ")
    assert any(line.startswith("parity: top probability within ") for line in said)
    table = said[-1].splitlines()
    assert [line.split("|")[3].strip() for line in table[-2:]] == ["float32", "int8"]
