"""The report as a browser shows it: complete, no wider than the window, readable in both colour schemes.

Needs Chromium (``apt-get install chromium``) and is skipped where there is none. No network: the page loads nothing.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import reference_evaluation as world

from rrise.evaluation.latency import Latency
from rrise.evaluation.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium"),
]

WIDTHS = (390, 1280)
SECTIONS = [
    "What is certified",
    "Is the promise kept",
    "In pictures",
    "Some of the images",
    "What it costs",
    "The guarantee, in words",
    "Provenance",
]
LATENCY = Latency(
    (0.02, 0.0213, 0.03),
    (44.0, 48.2, 51.0),
    images=20,
    repeats=3,
    others_ms={"B2 input-specific": (20.0, 24.1, 26.0), "B3 adaptive": (4.0, 9.3, 21.0)},
    offline_seconds=840.0,
)
SCALE = "scaled down: 60 of 10,000 test images, n = 200 of 10,000 noisy draws"

MEASURE = """
const found = {};
addEventListener("load", async () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, images = [...page.images];
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    const width = frame.contentWindow.innerWidth;
    // What lies beyond the right edge, unless it is in a box that scrolls by itself.
    const beyond = [...page.querySelectorAll("main *")].filter(node =>
      !node.closest(".scroll") && node.getBoundingClientRect().right > width + 0.5).map(node => node.outerHTML);
    found[width] = {
      scroll: page.documentElement.scrollWidth,
      beyond: beyond.map(text => text.slice(0, 80)),
      titles: [...page.querySelectorAll("h2")].map(node => node.textContent),
      figures: [...page.querySelectorAll("figure")].map(node => [
        node.querySelector("h3").textContent, node.querySelector("img").naturalWidth, node.offsetHeight]),
      broken: images.filter(image => !image.naturalWidth).length,
      images: images.length,
      rows: [...page.querySelectorAll('[aria-label="Costs"] tbody th')].map(node => node.textContent),
      scale: page.querySelector(".scale").innerText,
    };
  }
  document.body.textContent = JSON.stringify(found);
});
"""


def chromium(folder, *flags):
    """Run the browser once with a profile of its own; return what it wrote to stdout and stderr."""
    quiet = ("quic", "background-networking", "component-update", "sync", "gpu", "default-apps", "extensions")
    command = [BROWSER, "--headless", "--no-sandbox", "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr"]
    command += [f"--disable-{name}" for name in quiet]
    profile = folder / "profile"
    done = subprocess.run(
        [*command, f"--user-data-dir={profile}", *map(str, flags)], capture_output=True, timeout=600, check=True
    )
    shutil.rmtree(profile, ignore_errors=True)
    return done.stdout.decode(), done.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    # The longest unbroken word that a page has: hashes, and names that users choose.
    comparison = world.many(latency=LATENCY, provenance={"scale": SCALE, "bundle" * 12: "f" * 128})
    rng = np.random.default_rng(0)
    return write_report(
        comparison,
        path,
        title="Test of a rather long title, σ = 0.25",
        images=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8),
        classes=("zero", "one", "two", "three"),
        calibrations=world.calibrations(),
    )


def frames(page, widths=WIDTHS):
    """Return a page that holds another one at several widths; no window of a browser is as narrow as a telephone."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)  # it forbids the script beside it too
    inner = html.escape(page, quote=True)
    return "".join(f'<iframe srcdoc="{inner}" style="border:0;width:{w}px;height:900px"></iframe>' for w in widths)


def measured(page, tmp_path):
    outer = tmp_path / "frames.html"
    outer.write_text(
        f"<!doctype html><meta charset=utf-8><body style='margin:0'>{frames(page)}<script>{MEASURE}</script>",
        encoding="utf-8",
    )
    dom, _ = chromium(tmp_path, "--virtual-time-budget=20000", "--dump-dom", outer.as_uri())
    body = re.search(r"<body[^>]*>(.*?)</body>", dom, re.DOTALL)
    return {int(width): facts for width, facts in json.loads(html.unescape(body.group(1))).items()}


def test_every_part_is_there_and_nothing_is_wider_than_the_window(report, tmp_path):
    page = report.read_text(encoding="utf-8")
    found = measured(page, tmp_path)
    assert sorted(found) == sorted(WIDTHS)
    for width, facts in found.items():
        assert facts["scroll"] <= width
        assert facts["beyond"] == []
        assert facts["titles"] == SECTIONS
        assert [title for title, _, _ in facts["figures"]] == [
            "Certified accuracy",
            "Radius, image by image",
            "Certified-radius distribution",
            "Distribution of radii",
            "Is the promise kept?",
            "Coverage by confidence",
            "Calibration curve: scaled",
            "Calibration curve: offset",
            "How well the surrogate predicts",
            "When the offline work is paid back",
            "When it is paid back in time",
        ]
        assert all(natural > 100 and height > 150 for _, natural, height in facts["figures"])
        assert facts["broken"] == 0
        assert facts["images"] > 11 + 16  # figures, and two full strips of test images
        assert facts["rows"] == [
            "scaled", "offset", "B4 JS surrogate", "B1 Monte Carlo", "B2 input-specific", "B3 adaptive",
        ]  # fmt: skip
        assert facts["scale"] == f"S{SCALE[1:]}."


def test_the_measurement_sees_what_is_too_wide(report, tmp_path):
    wide = '<p style="width: 800px">too wide</p></main>'
    found = measured(report.read_text(encoding="utf-8").replace("</main>", wide), tmp_path)
    assert found[390]["scroll"] > 390
    assert any("too wide" in text for text in found[390]["beyond"])
    assert found[1280]["beyond"] == []


@pytest.mark.parametrize(("scheme", "flags"), [("light", ()), ("dark", ("--blink-settings=preferredColorScheme=0",))])
def test_page_is_drawn_in_both_colour_schemes_without_complaint(report, tmp_path, scheme, flags):
    from PIL import Image

    shot = tmp_path / "page.png"
    _, said = chromium(tmp_path, *flags, f"--screenshot={shot}", "--window-size=1280,2600", Path(report).as_uri())
    assert "CONSOLE" not in said  # refused resources, parse errors
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert pixels.shape == (2600, 1280, 3)
    brightness = pixels.mean(axis=2)
    assert (np.median(brightness) > 230) == (scheme == "light")
    assert (np.median(brightness) < 50) == (scheme == "dark")
    # Text and lines all the way down: ink of the scheme in nearly every band of the page.
    ink = np.abs(brightness - np.median(brightness)) > 100
    bands = ink.reshape(26, 100, 1280).any(axis=(1, 2))
    assert bands.mean() > 0.9
    assert np.unique(pixels.astype(np.uint32) @ np.array([1, 256, 65536], dtype=np.uint32)).size > 100
