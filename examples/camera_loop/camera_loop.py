"""Certify a stream of frames, each within a deadline; a frame without a certificate falls back.

    python camera_loop.py BUNDLE FRAMES [--deadline-ms 20] [--max-age-ms 200] [--fps 30]

Needs numpy, onnxruntime and rrise's kernel: no torch. FRAMES is a .npy array, uint8 (N, H, W) or (N, H, W, C), or a
folder of PNG files (these need Pillow).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as Overdue
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rrise import Certificates, Certifier
from rrise.images import read_images

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Action:
    """What is done about one frame.

    Parameters
    ----------
    kind : str
        ``certified``: label and radius are this frame's. ``held``: the label of the last certified frame, ``age_s``
        old; nothing is certified about this frame, so the radius is 0. ``stop``: no answer to rely on.
    why : str
        Why it is not certified: ``abstained``, ``late`` or ``refused`` (no image the bundle takes).
    label : int
        -1 for ``stop``.
    radius, age_s, latency_s : float
        ℓ2 in pixels of [0, 1]; seconds since the frame behind the label came; seconds to this action.
    """

    kind: str
    why: str
    label: int
    radius: float
    age_s: float
    latency_s: float


class CertifiedLoop:
    """Gives an action for each frame, at the deadline at the latest.

    One thread certifies while the loop waits for it until the deadline, so a slow or stuck engine cannot hold up the
    fallback. A certificate that comes late is dropped: it is about a frame that has gone.
    """

    def __init__(self, certifier: Callable[[Frame], Certificates], deadline_s: float, max_age_s: float) -> None:
        self._certifier = certifier
        self._deadline_s, self._max_age_s = deadline_s, max_age_s
        self._thread = ThreadPoolExecutor(1, "certifier")
        self._running: Future[Certificates] | None = None
        self._last: tuple[int, float] | None = None

    def __call__(self, frame: Frame) -> Action:
        """Return what to do about a frame that came just now."""
        came = time.monotonic()
        try:
            certificate = self._certificate(frame, came + self._deadline_s)
        except Overdue:
            return self._fallback("late", came)
        except (TypeError, ValueError):  # not an image of the kind this bundle was calibrated for
            return self._fallback("refused", came)
        if certificate.abstained[0]:
            return self._fallback("abstained", came)
        label = int(certificate.label[0])
        self._last = label, came
        return Action("certified", "", label, float(certificate.radius[0]), 0.0, time.monotonic() - came)

    def _certificate(self, frame: Frame, due: float) -> Certificates:
        before = [self._running] if self._running else []
        if wait(before, due - time.monotonic()).not_done:
            raise Overdue
        # A camera's driver may reuse its buffer while a late pass still reads it.
        self._running = self._thread.submit(self._certifier, frame.copy())
        found = self._running.result(max(0.0, due - time.monotonic()))
        if time.monotonic() > due:
            raise Overdue
        return found

    def _fallback(self, why: str, came: float) -> Action:
        now = time.monotonic()
        if self._last is not None and now - self._last[1] <= self._max_age_s:
            label, then = self._last
            return Action("held", why, label, 0.0, now - then, now - came)
        return Action("stop", why, -1, 0.0, 0.0, now - came)

    def close(self) -> None:
        """End the thread; a pass that is running is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def frames_of(source: Path, fps: float) -> Iterator[Frame]:
    """Yield the frames of an array or a folder, as a camera of so many frames a second would; 0: without a pause."""
    frames = np.load(source, mmap_mode="r") if source.suffix == ".npy" else read_images([source])[1]
    due = time.monotonic()
    for frame in frames:
        yield np.asarray(frame)
        if fps:
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))


def summary(actions: list[Action], deadline_s: float) -> str:
    """Return three lines about a run."""
    kinds, reasons = Counter(action.kind for action in actions), Counter(action.why for action in actions)
    p50, p99 = np.percentile([1000 * action.latency_s for action in actions], [50, 99])
    return "\n".join(
        [
            f"{len(actions)} frames: " + ", ".join(f"{kinds[kind]} {kind}" for kind in ("certified", "held", "stop")),
            "fell back: " + ", ".join(f"{reasons[why]} {why}" for why in ("abstained", "late", "refused")),
            f"latency: p50 {p50:.2f} ms, p99 {p99:.2f} ms, deadline {1000 * deadline_s:g} ms",
        ]
    )


def main() -> None:
    """Run the loop over all frames and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--deadline-ms", type=float, default=20.0, help="from a frame to its action")
    parser.add_argument("--max-age-ms", type=float, default=200.0, help="how old a held answer may be before a stop")
    parser.add_argument("--fps", type=float, default=0.0, help="frames a second; 0: as fast as the loop goes")
    arguments = parser.parse_args()

    certifier = Certifier.load(arguments.bundle)
    channels, height, width = certifier.input_shape
    certifier(np.zeros((height, width, channels), np.uint8))  # the first pass of an engine is slow
    loop = CertifiedLoop(certifier, arguments.deadline_ms / 1000, arguments.max_age_ms / 1000)
    try:
        actions = [loop(frame) for frame in frames_of(arguments.frames, arguments.fps)]
    finally:
        loop.close()
    print(summary(actions, arguments.deadline_ms / 1000))


if __name__ == "__main__":
    main()
