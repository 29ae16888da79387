"""The paper's four settings: they load, name the networks they say, and their scaled runs say that they were scaled."""

from pathlib import Path

import numpy as np
import pytest

from rrise.recipe import load_recipe, run
from rrise.training.architectures import NetworkSpec, build_network

SETTINGS = {
    "fashion_mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "tiny_imagenet": (3, 64, 200),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("scale", [False, True])
def test_networks_have_the_parameters_that_the_recipe_states(name: str, scale: bool) -> None:
    recipe = load_recipe(name, scale=scale)
    channels, side, classes = SETTINGS[name]
    train = recipe.train
    spec = NetworkSpec(train.network, train.options, classes, (channels, side, side), train.mean, train.std)
    module = build_network(spec)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    text = (Path(__file__).parents[1] / "rrise" / "recipes" / f"{name}.toml").read_text()
    if scale:
        assert parameters < 1_000_000
    else:
        assert f"{parameters:,}" in text.replace("\n# ", " ")
    assert (recipe.train.sigma, recipe.sample.sigma) == (0.5, 0.25)
    assert (recipe.calibrate.beta, recipe.calibrate.gamma) == (0.001, 0.249)
    assert recipe.sample.n == (1_000 if scale else 10_000)
    assert recipe.fit.strategy == "head"
    assert recipe.out == f"runs/{name}" + "-scaled" * scale
    assert ("sample.n 1,000 instead of 10,000" in recipe.scale) == scale


def test_overrides_come_after_the_scale() -> None:
    recipe = load_recipe("cifar10", ["sample.n=7", "out=elsewhere"], scale=True)
    assert (recipe.sample.n, recipe.out, recipe.data.calibration) == (7, "elsewhere", 1000)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[scale.sample]\nnn = 3", r"recipe .* \[scale\]: unknown key sample.nn"),
        ("[scale.simple]\nn = 3", "unknown key scale.simple. Known: data, train"),
        ("[scale.sample]\nn = 0", r"\[scale\]: sample: n: expected"),
        ("[scale]\nn = 3", "unknown key scale.n"),
    ],
)
def test_a_wrong_scale_is_refused_even_where_it_is_not_used(table: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(f'out = "runs/x"\n{table}\n')
    for scale in (False, True):
        with pytest.raises(ValueError, match=said):
            load_recipe(str(tmp_path / "recipe.toml"), scale=scale)


def test_a_recipe_without_a_scale_says_so() -> None:
    with pytest.raises(ValueError, match=r"scale: expected a table \[scale\] in recipe digits"):
        load_recipe("digits", scale=True)


def test_the_report_of_a_scaled_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("train", 160), ("test", 20)):
        (tmp_path / "data" / "fashion_mnist").mkdir(parents=True, exist_ok=True)
        labels = np.arange(count) % 10
        pixels = rng.integers(0, 60, (count, 28, 28)) + 19 * labels[:, None, None]
        np.savez(tmp_path / "data" / "fashion_mnist" / f"{name}.npz", x=pixels.astype(np.uint8), y=labels)
    monkeypatch.chdir(tmp_path)
    little = ["data.train=100", "data.calibration=60", "data.test=20", "train.epochs=1", "sample.n=40"]
    little += ["calibrate.beta=0.05", "fit.epochs=[1]", "fit.folds=0", "fit.lr=[0.01]", "fit.weight_decay=[0.0]"]
    little += ["evaluate.n_reference=40", "evaluate.n_selection=20", "evaluate.latency_images=1"]
    report = run(load_recipe("fashion_mnist", little, scale=True), say=lambda _: None, progress=False)
    for place in (report, report.parent / "table.md", report.parent / "metrics.json"):
        assert "sample.n 1,000 instead of 10,000" in place.read_text()
    assert report.parts[:2] == ("runs", "fashion_mnist-scaled")
