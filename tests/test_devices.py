"""A device that is not there is one sentence, whatever torch makes of it."""

from pathlib import Path

import pytest

from rrise.devices import usable_device
from rrise.recipe import load_recipe, run

torch = pytest.importorskip("torch")


def test_the_cpu_is_always_there() -> None:
    assert usable_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    "error", [AssertionError("Torch not compiled with CUDA enabled"), RuntimeError("No driver.\nX")]
)
def test_whatever_torch_raises_is_said(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "empty", refuse)
    said = str(error).splitlines()[0].rstrip(".")
    with pytest.raises(
        ValueError, match=rf"^device: expected one that torch can use here, got 'cuda' \({said}\)\. Use cpu"
    ):
        usable_device("cuda")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'gpu'"):
        usable_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("table", ["train", "sample"])
def test_a_run_on_a_gpu_that_is_not_there_says_what_to_do(table: str, tmp_path: Path) -> None:
    little = ["train.epochs=1", f"out={tmp_path / 'run'}", f"{table}.device=cuda"]
    with pytest.raises(ValueError, match="device: expected one that torch can use here, got 'cuda'"):
        run(load_recipe("digits", little), say=lambda _: None, progress=False)
