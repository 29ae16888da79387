"""The comparison as one self-contained HTML file: readable anywhere, sent by mail, opened offline."""

from __future__ import annotations

import base64
import io
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rrise.evaluation import metrics
from rrise.evaluation.cascade_table import HEAD, cascades, explained
from rrise.evaluation.comparison import Comparison
from rrise.evaluation.contender import CalibrationView
from rrise.evaluation.tables import among_certified
from rrise.promise import complement, percent

SHOWN_IMAGES = 8
"""Images in each strip of the report."""


def write_report(
    comparison: Comparison,
    path: str | os.PathLike[str],
    *,
    title: str,
    images: NDArray[np.uint8],
    classes: Sequence[str],
    calibrations: Sequence[CalibrationView],
) -> Path:
    """Write the report and return its path; the file appears complete or not at all.

    Parameters
    ----------
    comparison : Comparison
    path : path
        The HTML file; replaced if it exists.
    title : str
        What was certified, such as the data set's name.
    images : uint8[B, H, W] or uint8[B, H, W, C]
        The test images, in the comparison's order.
    classes : sequence of str
        Names of the classes.
    calibrations : sequence of CalibrationView
        Curves with their calibration points, each named like the contender that uses it.

    Raises
    ------
    ImportError
        If matplotlib or jinja2 is missing.
    ValueError
        If images or names do not fit the comparison.
    """
    _check(comparison, images, classes, calibrations)
    try:
        import jinja2

        with _quiet_matplotlib():
            from rrise.evaluation import figures

            pictures = figures.all_figures(comparison, calibrations)
    except ModuleNotFoundError as error:
        raise ImportError(f"report: {error.name} is missing. pip install 'rrise[report]'") from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "share": _share,
        "percent": _percent,
        "number": _number,
        "duration": _duration,
        "complement": complement,
        "at_most": percent,
        "among_certified": among_certified,
        "plain": lambda value: f"{value:g}",
        "paid_back": _paid_back,
        "svg": lambda text: _data_uri("image/svg+xml", text.encode()),
    }
    source = resources.files("rrise.evaluation").joinpath("report.html.jinja").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        title=title,
        comparison=comparison,
        deployed=comparison.row(comparison.deployed),
        baseline=comparison.row(comparison.baseline),
        cascades=[line.cells() for line in cascades(comparison)],
        cascade_head=HEAD,
        cascade_words=explained(comparison),
        pictures=pictures,
        colours=_colours(comparison),
        strips=_strips(comparison, images, classes),
        provenance=list(_flat(comparison.provenance)),
        infinity=math.inf,
        break_evens={entry.name: entry for entry in comparison.costs.against},
        refutation_level=metrics.REFUTATION_LEVEL,
        lower_confidence=metrics.LOWER_CONFIDENCE,
    )
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _check(
    comparison: Comparison, images: NDArray[np.uint8], classes: Sequence[str], calibrations: Sequence[CalibrationView]
) -> None:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[0] != comparison.images:
        raise ValueError(
            f"images: expected uint8 of shape ({comparison.images}, H, W) or ({comparison.images}, H, W, C), got "
            f"{images.dtype} of {images.shape}. Give the test images, in the comparison's order."
        )
    if len(classes) != comparison.reference.shape[1]:
        raise ValueError(
            f"classes: expected {comparison.reference.shape[1]} names, got {len(classes)}. Give one for each count."
        )
    names = [contender.name for contender in comparison.contenders]
    for view in calibrations:
        if view.name not in names:
            raise ValueError(f"calibrations: expected names among {names}, got {view.name!r}. Name the contender.")


@contextmanager
def _quiet_matplotlib() -> Iterator[None]:
    """Keep matplotlib's notes on its cache folders and fonts away from the user's terminal."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _colours(comparison: Comparison) -> dict[str, tuple[str, str]]:
    from rrise.evaluation.drawing import DARK, style

    colours = {contender.name: style(comparison, contender.name)[0] for contender in comparison.contenders}
    return {name: (colour, DARK[colour]) for name, colour in colours.items()}


def _strips(comparison: Comparison, images: NDArray[np.uint8], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of example images: largest and smallest radii of the deployed certifier, and abstentions."""
    ours = comparison.contender(comparison.deployed)
    theirs = comparison.contender(comparison.baseline)
    # Ties (radii at the cap) are broken by the bound's source q, then by position, so that the choice never varies.
    order = np.lexsort((np.arange(comparison.images), ours.certificates.q, ours.certificates.p_lower))
    certified = order[~ours.certificates.abstained[order]]
    abstained = order[ours.certificates.abstained[order]]

    def card(index: int) -> dict[str, Any]:
        guess, truth = int(ours.predicted[index]), int(comparison.labels[index])
        return {
            "image": _data_uri("image/png", _png(images[index])),
            "guess": classes[guess] if guess >= 0 else "no answer",
            "truth": classes[truth],
            "wrong": guess != truth and not ours.certificates.abstained[index],
            "differs": guess != truth,
            "radius": None if ours.certificates.abstained[index] else float(ours.certificates.radius[index]),
            "baseline": None if theirs.certificates.abstained[index] else float(theirs.certificates.radius[index]),
        }

    strips = [
        ("Largest radii", certified[::-1][:SHOWN_IMAGES]),
        ("Smallest radii", certified[:SHOWN_IMAGES]),
        (f"No certificate ({abstained.size} images)", abstained[:SHOWN_IMAGES]),
    ]
    return [{"title": name, "cards": [card(int(i)) for i in chosen]} for name, chosen in strips if chosen.size]


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # matplotlib depends on it

    stream = io.BytesIO()
    Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image).save(stream, format="PNG")
    return stream.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in mapping.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _share(share: metrics.Share) -> str:
    return f"{100 * share.value:.1f}%" if share.total else "none"


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%" if math.isfinite(value) else "–"


def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"


def _paid_back(certificates: float | None) -> str:
    """Return a break-even for a table."""
    if certificates is None:
        return "–"
    return "never" if math.isinf(certificates) else f"{certificates:,.0f}"


def _duration(milliseconds: float) -> str:
    """Return a time to three significant digits, in the unit that suits its size."""
    value, unit = milliseconds * 1e3, "µs"
    if milliseconds >= 1000:
        value, unit = milliseconds / 1e3, "s"
    elif milliseconds >= 1:
        value, unit = milliseconds, "ms"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}\N{NO-BREAK SPACE}{unit}"
