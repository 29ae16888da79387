"""The comparison: its table follows from the data alone, and times stay out of it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import reference_evaluation as world

from rrise.calibration.bounds import clopper_pearson
from rrise.evaluation import latency as latency_module
from rrise.evaluation import metrics
from rrise.evaluation.latency import Latency, measure_latency, timing_as_json
from rrise.evaluation.settings import EvaluateConfig
from rrise.evaluation.tables import as_json, as_markdown

MANY = Latency(
    (1.0, 2.0, 3.0),
    (100.0, 200.0, 300.0),
    images=5,
    repeats=2,
    others_ms={"B2 input-specific": (90.0, 102.0, 110.0)},
    offline_seconds=98.85,
)
SLOW = Latency((1.0, 2.0, 3.0), (100.0, 200.0, 300.0), images=5, repeats=2)


def test_rows_hold_the_metrics_of_their_certifier():
    comparison = world.comparison()
    made, labels, reference = world.contenders()
    for contender, row in zip(made, comparison.rows, strict=True):
        assert row.name == contender.name
        assert row.average_certified_radius == metrics.average_certified_radius(contender.certificates, labels)
        assert row.abstention == metrics.abstention_rate(contender.certificates)
        assert row.coverage == metrics.coverage(contender.certificates, contender.predicted, reference)
        assert list(row.certified_accuracy) == list(
            metrics.certified_accuracy(contender.certificates, labels, world.RADII)
        )
        certified = round(row.coverage.overall.total * (1 - row.abstention))
        share = float(clopper_pearson(certified, row.coverage.overall.total, 0.01))
        assert row.conditional_bound == pytest.approx(world.ALPHA / share)
        assert row.conditional_bound > world.ALPHA / (1 - row.abstention)  # of which the truth is below half the time


def test_cost_and_ratio_are_against_the_baseline():
    comparison = world.comparison()
    scaled, offset, monte_carlo = comparison.rows
    assert (scaled.forward_passes, offset.forward_passes, monte_carlo.forward_passes) == (1, 1, 50 + world.N)
    assert monte_carlo.relative_radius == 1
    assert scaled.relative_radius == scaled.average_certified_radius / monte_carlo.average_certified_radius
    assert comparison.costs.break_even == -(-100_000 // (250 - 1))


def test_a_larger_budget_is_a_second_measure():
    comparison = world.with_larger()
    scaled, _, few, many = comparison.rows
    assert (few.forward_passes, many.forward_passes) == (250, 2050)
    assert (few.relative_radius, many.relative_to_larger) == (1, 1)
    assert scaled.relative_radius == scaled.average_certified_radius / few.average_certified_radius
    assert scaled.relative_to_larger == scaled.average_certified_radius / many.average_certified_radius
    assert few.relative_to_larger == 1 / many.relative_radius < 1
    found = {entry.name: entry.evaluations for entry in comparison.costs.against}
    assert found == {"Monte Carlo": -(-290_000 // 249), "Monte Carlo, n = 2,000": -(-290_000 // 2049)}
    assert [contender.name for contender in comparison.drawn] == ["scaled", "offset", "Monte Carlo"]
    body = json.loads(as_json(comparison))
    assert (body["baseline"], body["larger_baseline"]) == ("Monte Carlo", "Monte Carlo, n = 2,000")
    assert body["certifiers"][0]["relative_to_larger"] == scaled.relative_to_larger
    text = as_markdown(comparison)
    assert "ratio to Monte Carlo; of larger: to Monte Carlo, n = 2,000." in text
    assert f" {scaled.relative_radius:.3f} |     {scaled.relative_to_larger:.3f} |" in text
    without = world.comparison()
    assert "of larger" not in as_markdown(without)
    assert json.loads(as_json(without))["larger_baseline"] is None
    assert without.rows[0].relative_to_larger is None
    with pytest.raises(ValueError, match=r"larger: expected one of .*, got 'nobody'"):
        world.with_larger(larger="nobody")


def test_what_was_paid_once_is_one_line():
    said = (
        "Paid once: 400 targets × 200 draws, 50 images of the curve's shape × 200 draws, 100 calibration images × "
        "2,000 draws, 290,000 noisy evaluations in all, and the fit. Monte Carlo pays 250 evaluations for each image, "
        "with the larger budget 2,050."
    )
    comparison = world.with_larger()
    assert comparison.costs.words == said
    assert f"\n\n{said}\n\n" in as_markdown(comparison)
    costs = json.loads(as_json(comparison))["costs"]
    assert costs["calibration"] == {"images": 100, "evaluations": 200_000}
    assert comparison.costs.offline == 290_000


def test_break_even_is_against_every_monte_carlo_certifier():
    comparison = world.many(latency=MANY)
    found = {entry.name: entry for entry in comparison.costs.against}
    assert list(found) == ["B1 Monte Carlo", "B2 input-specific", "B3 adaptive"]
    for name, passes in (("B1 Monte Carlo", 250), ("B2 input-specific", 170), ("B3 adaptive", 110)):
        assert found[name].evaluations_each == passes
        assert found[name].evaluations == -(-100_000 // (passes - 1))
    assert found["B1 Monte Carlo"].evaluations == comparison.costs.break_even
    assert found["B1 Monte Carlo"].seconds == 500  # 98.85 s / (0.2 s - 0.002 s)
    assert found["B2 input-specific"].seconds == 989  # 98.85 s / (0.102 s - 0.002 s)
    assert found["B2 input-specific"].seconds_each == pytest.approx(0.102)
    assert found["B3 adaptive"].seconds is None  # not timed
    assert comparison.milliseconds("scaled") == MANY.single_pass_ms
    assert comparison.milliseconds("B1 Monte Carlo") == MANY.monte_carlo_ms
    assert comparison.milliseconds("B2 input-specific") == (90.0, 102.0, 110.0)
    assert comparison.milliseconds("offset") is None
    assert all(entry.seconds is None for entry in world.many(latency=SLOW).costs.against)
    for row in comparison.rows:
        against = comparison.row("B1 Monte Carlo").average_certified_radius
        assert row.relative_radius == row.average_certified_radius / against


def test_rows_hold_what_is_proved_of_the_population():
    made, labels, _ = world.contenders()
    for contender, row in zip(made, world.comparison().rows, strict=True):
        lower = metrics.certified_accuracy_lower(
            contender.certificates, labels, world.RADII, error=world.ALPHA, confidence=0.99
        )
        assert list(row.certified_accuracy_lower) == lower.tolist()
        assert 0 < row.certified_accuracy_lower[0] < row.certified_accuracy[0] - world.ALPHA
        assert sum(b.holds.total for b in row.coverage_by_bin) == np.count_nonzero(contender.certificates.p_lower > 0)


def test_times_of_a_stranger_are_refused():
    with pytest.raises(
        ValueError, match=r"latency: expected times of contenders among .*, got \['B2 input-specific'\]"
    ):
        world.comparison(latency=MANY)


def test_times_stay_out_of_the_table_and_the_scale_is_in_it():
    timed, untimed = world.many(latency=MANY), world.many(latency=None)
    assert as_json(timed) == as_json(untimed)
    assert as_markdown(timed) == as_markdown(untimed)
    body = json.loads(as_json(timed))
    assert body["costs"]["against"][1] == {"name": "B2 input-specific", "evaluations_each": 170.0, "evaluations": 592.0}
    small = world.many(provenance={"scale": "scaled down: 60 of 10,000 images"})
    assert json.loads(as_json(small))["provenance"]["scale"] == small.scale == "scaled down: 60 of 10,000 images"
    assert as_markdown(small) == "**Scaled down: 60 of 10,000 images.**\n\n" + as_markdown(untimed)
    times = json.loads(timing_as_json(MANY, timed.costs.against))
    assert times["offline_seconds"] == 98.85
    assert times["others_ms"] == {"B2 input-specific": [90.0, 102.0, 110.0]}
    assert [entry["certificates"] for entry in times["break_even"]] == [500, 989, None]


def test_the_promise_is_kept_in_a_world_whose_curve_is_safe():
    # The surrogate errs by 0.03 (one standard deviation): a drop of 0.12 is safe, of 0.0 it is broken half the time.
    comparison = world.comparison(images=400)
    assert comparison.row("offset").coverage.overall.value > 0.98
    _, labels, reference = world.contenders(400)
    _, _, guess, q = world.truth(1, 400)
    bare = world.single_pass(*world.curve(0.0), q, guess)
    assert metrics.coverage(bare, guess, reference).overall.value < 0.8
    assert labels.size == 400


def test_equal_runs_give_equal_text_whatever_the_times():
    first, second = world.comparison(latency=None), world.comparison(latency=SLOW)
    assert as_markdown(first) == as_markdown(second)
    assert as_json(first) == as_json(second)
    assert as_json(world.comparison(images=59)) != as_json(first)


def test_json_holds_every_number_with_its_unit_and_null_for_the_undefined():
    made, labels, reference = world.contenders()
    comparison = world.comparison()
    body = json.loads(as_json(comparison))
    assert body["schema"] == "rrise-metrics/1"
    assert body["radius_unit"] == "l2 distance, pixel values in [0, 1]"
    assert body["images"] == labels.size == 60
    assert [row["name"] for row in body["certifiers"]] == [contender.name for contender in made]
    row = body["certifiers"][0]
    assert row["coverage"]["overall"] == {
        "count": comparison.rows[0].coverage.overall.count,
        "total": reference.shape[0],
    }
    assert body["provenance"]["seeds"] == {"data": 0, "sampling": 1}
    assert body["lower_confidence"] == 0.99
    assert len(row["certified_accuracy_lower"]) == len(world.RADII)
    assert row["coverage_by_bin"][1]["low"] == 0.5
    assert row["coverage_by_bin"][1]["holds"]["total"] == comparison.rows[0].boundary.mass.count
    free = json.loads(as_json(world.comparison(deployed="Monte Carlo")))
    assert free["costs"]["break_even"] is None


def test_markdown_is_a_table_to_the_eye_too():
    text = as_markdown(world.comparison())
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len(table) == 5
        assert len({len(line) for line in table}) == 1
        assert len({line.count("|") for line in table}) == 1
    assert "| Monte Carlo |    250 |" in text
    assert "**scaled.** Promise of scaled." in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"deployed": "best"}, r"deployed: expected one of \['scaled', 'offset', 'Monte Carlo'\], got 'best'"),
        ({"baseline": "x"}, "baseline: expected one of"),
        ({"names": ("a", "a", "b")}, "contenders: expected different names"),
    ],
)
def test_unknown_and_repeated_names_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        world.comparison(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radii": ()}, "radii"),
        ({"radii": (0.0, -0.1)}, "radii"),
        ({"radii": (0.2, 0.1)}, "radii: expected increasing"),
        ({"radii": (0.0, float("nan"))}, "radii"),
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": -0.1}, "alpha"),
        ({"n_selection": 0}, "n_selection"),
        ({"n_reference": 0}, "n_reference"),
        ({"latency_images": 0}, "latency_images"),
        ({"latency_repeats": 0}, "latency_repeats"),
    ],
)
def test_config_names_the_field_it_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**change)


def test_default_config_is_valid():
    assert len(EvaluateConfig().radii) == 6


def test_latency_is_measured_by_turns_on_every_image(monkeypatch):
    clock, calls = [0], []
    monkeypatch.setattr(latency_module.time, "perf_counter_ns", lambda: clock[0])

    def runner(name, nanoseconds):
        def run(image):
            calls.append((name, image))
            clock[0] += nanoseconds * (1 + image)

        return run

    others = {"B3": runner("third", 500_000)}
    third = measure_latency(runner("one", 10_000), runner("many", 3_000_000), images=1, repeats=2, others=others)
    assert third.others_ms == {"B3": (0.5, 0.5, 0.5)}
    assert (third.single_pass_ms[1], third.monte_carlo_ms[1], third.offline_seconds) == (0.01, 3.0, None)
    calls.clear()
    measured = measure_latency(runner("one", 10_000), runner("many", 3_000_000), images=3, repeats=2)
    assert measured.single_pass_ms[1] == pytest.approx(0.02)
    assert measured.monte_carlo_ms == pytest.approx((3.0, 6.0, 9.0), rel=0.3)
    assert measured.ratio == pytest.approx(300)
    timed = calls[2:]
    for name in ("one", "many"):
        assert sorted(image for which, image in timed if which == name) == [0, 0, 1, 1, 2, 2]
    assert [which for which, _ in timed[:4]] == ["one", "many", "many", "one"]
    turns = [{which for which, _ in timed[i : i + 2]} for i in range(0, len(timed), 2)]
    assert all(turn == {"one", "many"} for turn in turns)
    body = json.loads(timing_as_json(measured))
    assert body["schema"] == "rrise-timing/1"
    assert body["ratio"] == pytest.approx(300)


def test_latency_of_nothing_is_refused():
    with pytest.raises(ValueError, match="latency: expected at least 1 image and 1 repeat, got 0 and 1"):
        measure_latency(int, int, images=0, repeats=1)


@pytest.mark.parametrize(("module", "heavy"), [("settings", False), ("comparison", False), ("figures", True)])
def test_the_config_loads_with_the_base_install(module, heavy):
    code = (
        f"import sys, rrise.evaluation.{module}; print(sorted({{'scipy', 'torch', 'matplotlib'}} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert (found != "[]") is heavy


def test_predicted_classes_of_an_abstention_are_kept():
    made, _, _ = world.contenders()
    abstained = made[1].certificates.abstained
    assert abstained.any()
    assert np.all(made[1].predicted[abstained] >= 0)
