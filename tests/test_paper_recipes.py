"""The recipes of the paper's settings: what they say, how they are scaled down, and that the report says so."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from shared_run import small_recipe

from rrise.__main__ import main
from rrise.calibration.conformal import calibrate
from rrise.calibration.settings import CalibrateConfig
from rrise.evaluation.settings import EvaluateConfig
from rrise.images import DataConfig, Splits, load_splits
from rrise.recipe import Recipe, load_recipe, run
from rrise.recipe_tables import built_in, overlaid
from rrise.runtime import open_engine
from rrise.runtime.certifier import Certifier
from rrise.stages.calibrate import score
from rrise.targets.store import CountStore
from rrise.training.networks import NetworkSpec, build_network

SHAPES = {
    "fashion_mnist": (10, (1, 28, 28)),
    "cifar10": (10, (3, 32, 32)),
    "cifar100": (100, (3, 32, 32)),
    "tiny_imagenet": (200, (3, 64, 64)),
}
PARAMETERS = {
    "fashion_mnist": (4_321_938, 78_010),
    "cifar10": (11_173_962, 310_186),
    "cifar100": (4_135_648, 321_796),
    "tiny_imagenet": (5_427_080, 340_072),
}
TINY = """
out = "runs/tiny"
data = { source = "digits", train = 200, calibration = 100, test = 20 }
sample = { n = 400, sigma = 0.5 }
[variants.quiet]
sample = { sigma = 0.125 }
[scale]
data = { train = 100 }
sample = { n = 50 }
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "tiny.toml"


def parameters(recipe: Recipe, name: str) -> int:
    classes, shape = SHAPES[name]
    train = recipe.train
    mean, std = (values * shape[0] if len(values) == 1 else values for values in (train.mean, train.std))
    network = build_network(NetworkSpec(train.network, dict(train.options), classes, shape, mean, std))
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("scaled", [False, True], ids=["full", "scaled"])
@pytest.mark.parametrize("name", SHAPES)
def test_networks_have_the_parameters_that_their_recipe_states(name: str, scaled: bool) -> None:
    count = parameters(load_recipe(name, scaled=scaled), name)
    assert count == PARAMETERS[name][scaled]
    assert f"{count:,} parameters" in resources.files("rrise.recipes").joinpath(f"{name}.toml").read_text()


@pytest.mark.parametrize("name", SHAPES)
def test_the_settings_are_the_papers(name: str) -> None:
    recipe, low = load_recipe(name), load_recipe(name, variant="low-noise")
    assert (recipe.train.sigma, recipe.sample.sigma) == (0.5, 0.25)
    assert (low.train.sigma, low.sample.sigma) == (0.25, 0.10)
    for found in (recipe, low):
        assert (found.sample.n, found.calibrate.alpha, found.calibrate.guarantee) == (10_000, 0.25, "marginal")
        assert (found.fit.network, found.data.targets, found.scale) == ("", 0, "")
    assert low.out == f"{recipe.out}-low-noise"
    assert load_recipe(name, ["calibrate.alpha=0.05"]).calibrate.alpha == 0.05


@pytest.mark.parametrize("scaled", [False, True], ids=["full", "scaled"])
@pytest.mark.parametrize("name", SHAPES)
def test_all_recipes_make_certificates_as_large_as_they_can_be(name: str, scaled: bool) -> None:
    """All weights, fitted to few draws of many views; ten times Monte Carlo's draws; a shape and a cascade."""
    recipe = load_recipe(name, scaled=scaled)
    assert (recipe.fit.strategy, recipe.targets.n, recipe.targets.flip) == ("full", 4, True)
    assert recipe.fit.settings(recipe.targets.views)[0].epochs == recipe.targets.views >= 20
    assert recipe.calibrate.draws(recipe.sample.n) == 10 * recipe.sample.n
    assert (recipe.data.shaping, recipe.calibrate.cascade) == (min(1000, recipe.data.train // 10), 0.9)


@pytest.mark.parametrize("variant", ["", "low-noise"])
@pytest.mark.parametrize("name", SHAPES)
def test_scaled_settings_are_those_of_a_laptop(name: str, variant: str) -> None:
    full, scaled = load_recipe(name, variant=variant), load_recipe(name, variant=variant, scaled=True)
    assert (scaled.data.fitted >= 7650, scaled.sample.n) == (True, 1000)
    assert scaled.data.calibration == scaled.data.test == (2000 if SHAPES[name][0] == 10 else 1000)
    assert {scaled.train.device, scaled.sample.device, scaled.fit.device} == {"cpu"}
    assert scaled.out == f"{full.out}-scaled"
    for same in ("targets", "calibrate", "export"):
        assert getattr(scaled, same) == getattr(full, same)
    assert (scaled.train.sigma, scaled.sample.sigma, scaled.evaluate.radii) == (
        full.train.sigma, full.sample.sigma, full.evaluate.radii,
    )  # fmt: skip
    assert scaled.scale.startswith("scaled down: ")
    assert "1,000 of 10,000 noisy draws (n)" in scaled.scale
    assert "10,000 of 100,000 draws of a calibration image" in scaled.scale
    assert f"{scaled.train.epochs} of {full.train.epochs} epochs" in scaled.scale
    assert f"{scaled.data.calibration:,} of 4,000 calibration images" in scaled.scale


def test_what_comes_later_wins(tiny: Path) -> None:
    recipe = load_recipe(str(tiny), ["sample.n=25"], variant="quiet", scaled=True)
    assert (recipe.sample.n, recipe.sample.sigma, recipe.data.train, recipe.data.calibration) == (25, 0.125, 100, 100)
    assert (
        recipe.scale == "scaled down: 100 of 200 training images, 100 of 200 target images, 25 of 400 noisy draws (n), "
        "250 of 4,000 draws of a calibration image"
    )
    assert recipe.out == "runs/tiny-quiet-scaled"
    assert load_recipe(str(tiny), ["out=elsewhere"], scaled=True).out == "elsewhere"


def test_a_scale_that_is_undone_says_so(tiny: Path) -> None:
    undone = load_recipe(str(tiny), ["sample.n=400", "data.train=200"], scaled=True)
    assert undone.scale == "scaled down in nothing: every setting is the recipe's own"


def test_an_unscaled_recipe_is_as_its_tables_say(tiny: Path) -> None:
    recipe = load_recipe(str(tiny))
    assert (recipe.sample.n, recipe.data.train, recipe.out, recipe.scale) == (400, 200, "runs/tiny", "")


def test_options_are_replaced_as_a_whole() -> None:
    tree = {"train": {"network": "a", "options": {"depth": 2, "dim": 3}}, "out": "x"}
    assert overlaid(tree, {"train": {"options": {"width": 4}}}) == {
        "train": {"network": "a", "options": {"width": 4}}, "out": "x",
    }  # fmt: skip
    assert tree["train"]["options"] == {"depth": 2, "dim": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[scale.data]\ntrian = 5", r"unknown key scale\.data\.trian\. Known: source,"),
        ("[scale]\ncolour = 5", r"unknown key scale\.colour\. Known: out, data,"),
        ("[scale.sample]\nn = 0", r"scale\.sample: n: expected 1 to"),
        ("[variants.loud.sample]\nsigmaa = 2", r"unknown key variants\.loud\.sample\.sigmaa\. Known: sigma, n,"),
        ("[variants]\nloud = 2", r"\[variants\.loud\] to be a table of settings, got 2"),
        ("scale = 'half'", r"\[scale\] to be a table of settings, got 'half'"),
        ("[colour]\n[scale.data]\ntrain = 5", r"unknown key colour\."),
    ],
    ids=["key", "table", "value", "variant's key", "variant no table", "scale no table", "the recipe's own"],
)
@pytest.mark.parametrize("scaled", [False, True], ids=["full", "scaled"])
def test_what_is_wrong_in_a_scale_or_variant_is_named(tmp_path: Path, text: str, message: str, scaled: bool) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(f'out = "runs/wrong"\n{text}')
    with pytest.raises(ValueError, match=message):
        load_recipe(str(path), scaled=scaled)


@pytest.mark.parametrize(
    ("source", "overrides", "settings", "message"),
    [
        ("digits", [], {"scaled": True}, r"expected a \[scale\] table in recipe digits, got none"),
        ("digits", [], {"variant": "loud"}, r"recipe digits's variants \(none\), got 'loud'"),
        ("cifar10", [], {"variant": "loud"}, r"variants \(low-noise\), got 'loud'"),
        ("cifar10", ["scale.sample.n=5"], {}, r"got one of \[scale\]\. Set the setting itself"),
        ("cifar10", ["scale=half"], {"scaled": True}, r"got one of \[scale\]"),
        ("digits", ["data.targets=901"], {}, r"targets: expected 0 \(all\) to train=900 images, got 901"),
        (
            "digits",
            ["data.profile=900"],
            {},
            r"profile: expected -1, 0, or images beside targets=all others among train",
        ),
        ("digits", ["data.targets=800", "data.profile=101"], {}, r"beside targets=800 among train=900, got 101"),
        ("digits", ["data.profile=-2"], {}, r"profile: expected -1, 0, or images beside .* got -2"),
        ("digits", ["calibrate.n=-1"], {}, r"calibrate: n: expected 0 or a number of draws, got -1"),
        ("digits", ["evaluate.n_larger=-2"], {}, r"n_larger: expected -1 \(choose\), 0 \(none\) or more draws, got -2"),
        ("digits", ["targets.n=-1"], {}, r"n: expected 0 \(n of all other images\) or a number of draws, got -1"),
    ],
)
def test_bad_requests(source: str, overrides: list[str], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(source, overrides, **settings)


def test_targets_are_the_first_training_images() -> None:
    all_of_them, some = (load_splits(DataConfig(train=90, targets=count)) for count in (0, 30))
    assert all_of_them.targets is all_of_them.train
    assert some.train.ids.tolist() == all_of_them.train.ids.tolist()
    assert some.targets.ids.tolist() == some.train.ids[:30].tolist()
    assert "90 training (30 of them targets), 500 calibration" in some.summary()
    assert "90 training, 500" in all_of_them.summary()
    assert Splits(some.train, some.calibration, some.test).targets is some.train


def test_the_profile_may_be_images_after_the_targets() -> None:
    some, none = (load_splits(DataConfig(train=90, targets=30, profile=count)) for count in (20, 0))
    assert some.profile.ids.tolist() == some.train.ids[30:50].tolist()
    assert none.profile.ids.tolist() == none.targets.ids.tolist()
    rest = load_splits(DataConfig(train=90, profile=20))
    assert (rest.targets.ids.tolist(), rest.profile.ids.tolist()) == (
        rest.train.ids[:70].tolist(), rest.train.ids[70:].tolist(),
    )  # fmt: skip
    assert "90 training (70 of them targets, 20 for the curve's shape), 500 calibration" in rest.summary()


@pytest.mark.parametrize(
    ("train", "targets", "shaping", "fitted"),
    [(900, 0, 200, 700), (900, 700, 200, 700), (900, 701, 0, 701), (900, 900, 0, 900), (800, 0, 200, 600),
     (799, 0, 0, 799), (5_000, 0, 500, 4_500), (50_000, 0, 1000, 49_000), (50_000, 2_500, 1000, 2_500), (9, 0, 0, 9)],
)  # fmt: skip
def test_some_training_images_fit_nothing_unless_told_otherwise(
    train: int, targets: int, shaping: int, fitted: int
) -> None:
    config = DataConfig(train=train, targets=targets)
    assert config.profile == -1
    assert (config.shaping, config.fitted) == (shaping, fitted)


def test_draws_of_the_three_kinds_are_told_apart() -> None:
    usual, own = CalibrateConfig(), CalibrateConfig(n=700, profile_n=50)
    assert (usual.draws(1000), usual.profile_draws(1000)) == (10_000, 1000)
    assert (own.draws(1000), own.profile_draws(1000)) == (700, 50)
    config = EvaluateConfig()
    assert config.draws(1000) == {"selection": 100, "estimation": 10_000, "reference": 10_000}
    assert config.larger(1000) == 10_000
    none = EvaluateConfig(n_larger=0)
    assert (none.larger(1000), none.draws(1000)["estimation"]) == (0, 1000)
    assert EvaluateConfig(n_larger=1001).draws(1000)["estimation"] == 1001
    with pytest.raises(ValueError, match=r"n_larger: expected more draws than sample\.n = 1000, or 0 .*, got 1000"):
        EvaluateConfig(n_larger=1000).draws(1000)


@pytest.mark.slow
def test_many_targets_of_few_draws_and_a_profile_of_all(tmp_path: Path) -> None:
    more = (
        "data.targets=200", "data.profile=60", "targets.n=20", "calibrate.profile_n=50", "evaluate.n_reference=50",
    )  # fmt: skip
    run(small_recipe(tmp_path / "run", *more), say=lambda line: None, progress=False)
    stores = {name: CountStore.open(tmp_path / "run/counts" / name) for name in ("train", "profile", "calibration")}
    drawn = {name: (len(table := store.table()), set(table.n.tolist())) for name, store in stores.items()}
    assert drawn == {"train": (200, {20}), "profile": (60, {50}), "calibration": (150, {300})}
    splits = load_splits(small_recipe(tmp_path / "run", *more).data)
    assert set(stores["profile"].table().ids.tolist()) == set(splits.profile.ids.tolist())
    body = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    costs = {name: body["costs"][name] for name in ("targets", "profile", "calibration")}
    assert costs == {
        "targets": {"images": 200, "evaluations": 200 * 20},
        "profile": {"images": 60, "evaluations": 60 * 50},
        "calibration": {"images": 150, "evaluations": 150 * 300},
    }
    assert body["costs"]["break_even"] == -(-(200 * 20 + 60 * 50 + 150 * 300) // (120 - 1))
    engine = open_engine(tmp_path / "run/engine")
    calibration, profile = (
        score(engine, images, stores[name])
        for name, images in (("calibration", splits.calibration), ("profile", splits.profile))
    )
    config, shape = small_recipe(tmp_path / "run", *more).calibrate, (profile.q, 6 * profile.k, 6 * profile.n)
    expected = calibrate(
        calibration.q, calibration.k, calibration.n, beta=config.beta, gamma=config.gamma, profile=shape
    )
    curve = Certifier.load(tmp_path / "run/bundles/scaled").bundle.curve
    np.testing.assert_allclose(curve.knots_p, expected.knots_p, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_run_says_that_it_was_scaled_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    folder = Path("data/fashion_mnist")
    folder.mkdir(parents=True)
    for name, count in (("train", 200), ("test", 40)):
        labels = np.arange(count) % 10  # the brighter, the higher: easy enough to be certified
        images = labels[:, None, None] * 25 + random.integers(0, 25, (count, 28, 28))
        np.savez(folder / f"{name}.npz", x=images.astype(np.uint8), y=labels)
    shrunk = [
        "data.train=120", "data.targets=60", "data.calibration=60", "data.test=12", "sample.n=50", "targets.views=2",
        "execution.threads=1", "calibrate.alpha=0.4", "calibrate.cascade=0.5", "evaluate.n_reference=40",
        "evaluate.n_selection=10", "evaluate.latency_images=1", "evaluate.latency_repeats=1",
    ]  # fmt: skip
    flags = [part for setting in shrunk for part in ("--set", setting)]
    assert main(["run", "fashion_mnist", "--scale", "--variant", "low-noise", *flags]) == 0
    out = Path("runs/fashion_mnist-low-noise-scaled")
    said = capsys.readouterr().out
    scale = load_recipe("fashion_mnist", shrunk, variant="low-noise", scaled=True).scale
    assert "120 of 50,000 training images, 60 of 49,000 target images" in scale
    assert "50 of 10,000 noisy draws (n)" in scale
    assert scale in said
    table = (out / "evaluation/table.md").read_text()
    assert table.startswith(f"**S{scale[1:]}.**\n\nCertified accuracy of 12 test images")
    assert json.loads((out / "evaluation/metrics.json").read_text())["provenance"]["scale"] == scale
    assert "60 of 49,000 target images" in (out / "evaluation/report.html").read_text()
    counts = CountStore.open(out / "counts/train")
    facts = counts.manifest
    assert (facts.images, facts.views, facts.n, facts.sigma) == (60, 2, 4, 0.1)
    network = json.loads((out / "classifier/network.json").read_text())
    assert network["facts"]["training"]["sigma"] == 0.25
    assert len(np.load(out / "classifier/training_ids.npy")) == 120
    again: list[str] = []
    run(
        load_recipe("fashion_mnist", [*shrunk, "calibrate.alpha=0.5"], variant="low-noise", scaled=True),
        say=again.append, progress=False,
    )  # fmt: skip
    made = [line.split(":")[0] for line in again[2:] if not line.endswith("done before, kept")]
    assert set(made) == {
        "calibrate",
        "rival-calibrate",
        "evaluate",
    }  # the stricter levels cost neither training nor draws


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.calibration=130"], r"calibration: expected at least \d+ images for gamma 0\.028 .*got 130"),
        (["data.calibration=50", "calibrate.cascade=0"], r"calibration: expected at least 113 images for gamma 0\.04 "),
        (["calibrate.alpha=0.001"], r"alpha: expected at least \d+ images and \d+ draws of each for 0\.001, got 500"),
        (["calibrate.n=5"], r"n: expected at least 7 draws at beta 0\.01 to certify anything, got 5"),
        (["evaluate.n_larger=500"], r"n_larger: expected more draws than sample\.n = 1000"),
    ],
)
def test_what_a_recipe_cannot_end_in_is_refused_before_anything_is_made(
    settings: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(load_recipe("digits", [*settings, f"out={tmp_path / 'run'}"]), say=lambda line: None, progress=False)
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'data/cifar10/train\.npz' is no file or folder here.*data\.source"):
        run(load_recipe("cifar10", scaled=True), say=lambda _: None, progress=False)


def test_the_help_lists_the_recipes_and_says_what_a_scale_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert built_in() == ["cifar10", "cifar100", "digits", "fashion_mnist", "tiny_imagenet"]
    assert "built-in name: cifar10, cifar100, digits, fashion_mnist, tiny_imagenet" in said
    assert "fewer images, draws and epochs, or a smaller network, for a laptop; the report says what was shrunk" in said
