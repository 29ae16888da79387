"""The report: one file that needs nothing else, says what the comparison says, and survives extreme results."""

import base64
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import reference_evaluation as world

from rrise.evaluation.costs import Sampled
from rrise.evaluation.latency import Latency
from rrise.evaluation.report import write_report
from rrise.promise import percent
from rrise.runtime.certificates import Certificates

ROOT = Path(__file__).parents[1]
LATENCY = Latency((0.02, 0.0213, 0.03), (44.0, 48.2, 51.0), images=20, repeats=3)
CLASSES = ("zero", "one", "two", "three")


def write(path, comparison=None, **changes):
    comparison = comparison or world.comparison(latency=LATENCY)
    rng = np.random.default_rng(0)
    settings = {
        "title": "Test <images> & noise",
        "images": rng.integers(0, 256, (comparison.images, 8, 8), dtype=np.uint8),
        "classes": CLASSES,
        "calibrations": world.calibrations(),
    } | changes
    return write_report(comparison, path, **settings)


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.sources, self.words, self.open = [], [], [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "img", "source", "br", "link"):
            self.open.append(tag)
        self.sources += [(tag, value) for name, value in attrs if name in ("src", "srcset", "href", "data", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report") / "report.html").read_text(encoding="utf-8")


def test_page_is_well_formed_and_loads_nothing(html):
    page = Page(html)
    assert page.open == []
    assert page.sources
    assert all(value.startswith("data:image/") for _, value in page.sources)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html


def test_page_says_what_the_comparison_says(html):
    comparison = world.comparison()
    text = Page(html).text
    deployed, baseline = comparison.row("scaled"), comparison.row("Monte Carlo")
    assert (
        f"On 60 test images, one forward pass with the scaled curve certifies an average radius of "
        f"{deployed.average_certified_radius:.3f}, {100 * deployed.relative_radius:.0f}% of the "
        f"{baseline.average_certified_radius:.3f} that Monte Carlo reaches with 250 noisy forward passes" in text
    )
    for row in comparison.rows:
        assert row.statement in text
        assert f"at most {percent(row.conditional_bound)}, which is {percent(row.error)} divided by" in text
        for share in row.certified_accuracy:
            assert f"{100 * share:.1f}%" in text
        for share in (row.coverage.overall, row.coverage.certified):
            assert f"{100 * share.value:.1f}% of {share.total}" in text
    assert "21.3 µs" in text
    assert "48.2 ms" in text
    assert "paid back after 402 certificates" in text
    assert "engine sha256 " + "a" * 64 in text
    assert "seeds: sampling 1" in text
    assert "On a shifted stream it promises nothing." in text


def table(html, label):
    """Return the cells of a table's body, row by row."""
    body = re.search(rf'aria-label="{label}">.*?<tbody>(.*?)</tbody>', html, re.DOTALL).group(1)
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    return [[Page(cell).text for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def test_costs_have_a_row_for_each_certifier(tmp_path):
    latency = replace(LATENCY, others_ms={"B2 input-specific": (20.0, 24.1, 26.0)}, offline_seconds=840.0)
    html = write(tmp_path / "report.html", world.many(latency=latency)).read_text(encoding="utf-8")
    ours, theirs = "21.3 µs 20.0 µs – 30.0 µs", "48.2 ms 44.0 ms – 51.0 ms"
    assert table(html, "Costs") == [
        ["scaled", "100,000", "1", ours, "–", "–"],
        ["offset", "100,000", "1", "–", "–", "–"],
        ["B4 JS surrogate", "100,000", "1", "–", "–", "–"],
        ["B1 Monte Carlo", "0", "250", theirs, "402", "17,436"],  # 840 s / (48.2 ms - 21.3 µs)
        ["B2 input-specific", "0", "170", "24.1 ms 20.0 ms – 26.0 ms", "592", "34,886"],
        ["B3 adaptive", "0", "110", "–", "918", "–"],
    ]
    text = Page(html).text
    assert "Targets, fit and calibration took 840 s." in text
    assert "When it is paid back in time" in text
    for name in ("B4 JS surrogate", "B1 Monte Carlo", "B2 input-specific", "B3 adaptive"):
        assert f"Promise of {name}." in text
        assert len([row for row in table(html, "Coverage") if row[0] == name]) == 1


def test_a_larger_budget_has_a_row_and_a_column(tmp_path):
    comparison = world.with_larger(latency=LATENCY)
    html = write(tmp_path / "report.html", comparison).read_text(encoding="utf-8")
    rows = table(html, "Certified accuracy")
    assert [row[0] for row in rows] == ["scaled", "offset", "Monte Carlo", "Monte Carlo, n = 2,000"]
    for row, cells in zip(comparison.rows, rows, strict=True):
        assert cells[-3:-1] == [f"{100 * row.relative_radius:.0f}%", f"{100 * row.relative_to_larger:.0f}%"]
    assert "Relative to Monte Carlo, n = 2,000" in Page(html).text
    assert table(html, "Costs")[-1] == ["Monte Carlo, n = 2,000", "0", "2,050", "–", "142"]
    assert comparison.costs.words in Page(html).text
    assert "Relative to Monte Carlo, n" not in Page(write(tmp_path / "other.html").read_text(encoding="utf-8")).text


@pytest.mark.slow
def test_costs_without_times(tmp_path):
    html = write(tmp_path / "report.html", world.many()).read_text(encoding="utf-8")
    assert table(html, "Costs")[3:] == [
        ["B1 Monte Carlo", "0", "250", "402"],
        ["B2 input-specific", "0", "170", "592"],
        ["B3 adaptive", "0", "110", "918"],
    ]
    assert "When it is paid back in time" not in Page(html).text


def test_shares_stand_above_what_they_prove(html):
    comparison = world.comparison()
    for row, cells in zip(comparison.rows, table(html, "Certified accuracy"), strict=True):
        pairs = zip(row.certified_accuracy, row.certified_accuracy_lower, strict=True)
        assert cells[2:6] == [f"{100 * share:.1f}% ≥ {100 * lower:.1f}%" for share, lower in pairs]


def test_a_scaled_down_run_says_so_first(tmp_path, html):
    assert "Scaled down" not in Page(html).text
    provenance = {"scale": "scaled down: n = 200 <draws>, 60 of 10,000 images"}
    small = write(tmp_path / "report.html", world.comparison(provenance=provenance))
    page = small.read_text(encoding="utf-8")
    assert "Scaled down: n = 200 <draws>, 60 of 10,000 images. On 60 test images" in Page(page).text
    assert "<draws>" not in page


def test_no_two_certifiers_look_alike():
    from rrise.evaluation.drawing import style  # not above: two tests import this module bare

    comparison = world.many()
    looks = [style(comparison, contender.name) for contender in comparison.contenders]
    assert len({colour for colour, _ in looks}) == len(looks) == 6


def test_break_evens_far_apart_and_never_are_both_told():
    from rrise.evaluation.cost_figures import break_even, break_even_seconds

    times = {"B2 input-specific": (1.0, 1.0213, 1.1), "B3 adaptive": (0.01, 0.02, 0.03)}
    comparison = world.many(latency=replace(LATENCY, others_ms=times, offline_seconds=100.0))
    drawn = break_even_seconds(comparison).light
    for words in ("B1 Monte Carlo: after 2,076", "B2 input-specific: after 100,000", "B3 adaptive: never", "10,000"):
        assert f">{words}<" in drawn
    assert ">0<" not in drawn  # logarithmic axes: the two lie 48 times apart
    assert ">0<" in break_even(comparison).light
    assert break_even_seconds(world.many(latency=LATENCY)) is None


def test_coverage_by_confidence_shows_every_bin_with_its_count():
    from rrise.evaluation.coverage_figures import by_confidence

    comparison = world.many()
    drawn = by_confidence(comparison)
    text = [node.text for node in ElementTree.fromstring(drawn.light).iter() if node.text and node.text.strip()]
    for ours, theirs in zip(
        comparison.row("scaled").coverage_by_bin, comparison.row("B1 Monte Carlo").coverage_by_bin, strict=True
    ):
        assert text.count(f"{ours.low:g}–") == 1
        assert str(ours.holds.total) in text
        assert str(theirs.holds.total) in text
    assert "promised 95%" in text


def test_title_is_escaped(html):
    assert "Test &lt;images&gt; &amp; noise" in html
    assert "<images>" not in html


def test_every_figure_is_an_svg_in_both_themes_with_words(html):
    themes = re.findall(
        r'<source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)"><img src="([^"]+)" alt="([^"]+)"', html
    )
    assert len(themes) == 10
    for dark, light, alt in themes:
        pictures = [base64.b64decode(uri.partition("base64,")[2]).decode() for uri in (dark, light)]
        assert pictures[0] != pictures[1]
        for picture in pictures:
            assert ElementTree.fromstring(picture).tag.endswith("svg")
            labels = [node.text for node in ElementTree.fromstring(picture).iter() if node.text and node.text.strip()]
            assert len(labels) > 5  # text stays text: readable by search and by screen readers
        assert len(alt) > 20


def test_strips_show_the_extreme_images_once_each(html):
    made, labels, _ = world.contenders()
    radius = made[0].certificates.radius
    shown = re.findall(r"<b(?: class=\"wrong\")?>[^<]+</b><span>(\S+) \((\S+)\)</span>", html)
    largest = [float(first) for first, _ in shown[:8]]
    assert largest == pytest.approx(sorted(radius, reverse=True)[:8], abs=6e-4)
    smallest = [float(first) for first, _ in shown[8:16]]
    assert smallest == pytest.approx(sorted(radius[radius > 0])[:8], abs=6e-4)
    assert all(first == "none" for first, _ in shown[16:])
    assert labels.size == 60


@pytest.mark.slow
def test_same_data_give_the_same_page(tmp_path, html):
    assert write(tmp_path / "again.html").read_text(encoding="utf-8") == html


@pytest.mark.parametrize("channels", [1, 3])
def test_images_with_channels_and_no_latency(tmp_path, channels):
    comparison = world.comparison(latency=None)
    images = np.zeros((60, 5, 7, channels), dtype=np.uint8)
    text = Page(write(tmp_path / "report.html", comparison, images=images).read_text(encoding="utf-8")).text
    assert "faster on this machine" not in text
    assert "Time for a certificate" not in text


@pytest.mark.parametrize("q", [0.3, np.nan])
def test_a_certifier_that_never_certifies_is_reported_all_the_same(tmp_path, q):
    made, labels, reference = world.contenders()
    nothing = Certificates(
        label=np.full(60, -1),
        radius=np.zeros(60),
        p_lower=np.zeros(60),
        q=np.full(60, q),
        evaluations=np.zeros(60, dtype=np.int64),
    )
    predicted = np.full(60, -1) if np.isnan(q) else made[0].predicted
    empty = replace(made[0], certificates=nothing, predicted=predicted)
    idle = replace(made[2], certificates=replace(nothing, evaluations=np.full(60, 250)))
    comparison = world.compare(
        [empty, idle],
        labels,
        reference,
        deployed="scaled",
        baseline="Monte Carlo",
        radii=world.RADII,
        sigma=world.SIGMA,
        targets=Sampled(),
        calibration=Sampled(),
    )
    html = write(tmp_path / "report.html", comparison, calibrations=[]).read_text(encoding="utf-8")
    text = Page(html).text
    assert "No certificate (60 images)" in text
    assert not {"nan", "inf"} & set(re.findall(r"\w+", text.lower()))


def test_calibration_images_without_an_answer_are_not_called_misses():
    from rrise.evaluation.calibration_figures import calibration_curve  # not above: two tests import this module bare

    view = world.calibrations()[0]
    comparison = world.comparison()
    before = calibration_curve(comparison, view)
    gaps = replace(view, q=np.append(view.q, np.nan), p_lower=np.append(view.p_lower, 0.0))
    assert calibration_curve(comparison, gaps) == before
    misses = np.count_nonzero(view.p_lower < np.interp(view.q, view.knots_q, view.knots_p))
    assert misses
    assert f"below ({misses})" in before.light


def test_long_names_fit(tmp_path):
    names = ("scaled curve, training-conditional at 99%", "offset " * 8, "Monte Carlo with a fixed budget of draws")
    comparison = world.comparison(names=names)
    write(tmp_path / "report.html", comparison, calibrations=world.calibrations(names[:2]))


@pytest.mark.slow
def test_many_points_keep_the_page_small(tmp_path):
    comparison = world.comparison(images=6_000)
    path = write(tmp_path / "report.html", comparison)
    assert path.stat().st_size < 4_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((59, 8, 8), np.uint8)}, r"images: expected uint8 of shape \(60, H, W\)"),
        ({"images": np.zeros((60, 8, 8))}, "images: expected uint8 .* got float64"),
        ({"classes": ("a", "b")}, "classes: expected 4 names, got 2"),
        ({"calibrations": world.calibrations(("other",))}, "calibrations: expected names among"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "report.html", **change)
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write(path, title="another")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_its_remedy(tmp_path, missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "sys.path.append('tests'); import test_report\n"
        "try: test_report.write('never.html')\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == f"report: {missing} is missing. pip install 'rrise[report]'"


@pytest.mark.slow
def test_report_is_silent_and_leaves_pyplot_alone(tmp_path):
    """Even where matplotlib cannot keep its caches and would say so."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    code = (
        "import sys, pathlib; sys.path.append('tests'); import test_report\n"
        f"test_report.write(pathlib.Path({str(tmp_path)!r}) / 'report.html')\n"
        "print('matplotlib.pyplot' in sys.modules, 'matplotlib' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"MPLCONFIGDIR": str(blocked / "config"), "HOME": str(tmp_path), "PATH": ""},
    )
    assert done.stdout.strip() == "False True"
    assert done.stderr == ""
