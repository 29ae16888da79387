"""Every example runs as its README says, and what it prints is right."""

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from own_processes import Run, descendants, free_ports, wait_for
from PIL import Image

from rrise import Certifier
from rrise.images import DataConfig, load_splits
from rrise.runtime import prepare_images

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SHAPE = (1, 8, 8)


def module(path: str) -> ModuleType:
    """A file of the examples, imported by itself."""
    name = f"example_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    sys.modules[name] = found = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    spec.loader.exec_module(found)
    return found


def python(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def bundle(finished: tuple[Path, list[str]]) -> Path:
    return finished[0] / "bundles/scaled"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return load_splits(DataConfig()).test.images[:200]


def test_the_table_names_every_example() -> None:
    table = re.findall(r"^\| \[(\w+)\]\(\1/README\.md\) \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))
    for path in EXAMPLES.rglob("README.md"):
        for name in re.findall(r"examples/[\w/]+\.\w+", path.read_text()):
            assert (ROOT / name).is_file(), (path, name)


# Camera loop


CAMERA = "camera_loop/camera_loop.py"
WITHOUT_TORCH = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print("heavy:", [name for name in ("torch", "scipy", "ray", "timm", "sklearn") if name in sys.modules])
"""


def counts(said: str) -> dict[str, int]:
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", said.partition("latency")[0])}


@pytest.mark.slow
def test_the_camera_loop_certifies_what_the_certifier_does_without_torch(
    bundle: Path, images: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "frames.npy", images)
    limits = ("--deadline-ms", 60_000, "--max-age-ms", 60_000)
    done = python("-c", WITHOUT_TORCH, EXAMPLES / CAMERA, bundle, tmp_path / "frames.npy", *limits)
    assert done.stdout.endswith("heavy: []\n"), done.stderr
    # One image a pass, as the loop does: the last bits may depend on the batch.
    abstained = np.array([Certifier.load(bundle)(image).abstained[0] for image in images])
    expected = {"frames": 200, "certified": int((~abstained).sum()), "abstained": int(abstained.sum())}
    found = counts(done.stdout)
    assert 0 < found["certified"] < 200
    assert found == expected | {"held": found["held"], "stop": found["stop"], "late": 0, "refused": 0}
    assert found["stop"] == int(np.argmin(abstained))  # frames before the first certified one have nothing to hold
    p50, p99 = map(float, re.search(r"p50 ([\d.]+) ms, p99 ([\d.]+) ms", done.stdout).groups())
    assert 0 < p50 <= p99


@pytest.mark.slow
def test_the_camera_loop_survives_deadlines_and_frames_that_cannot_be_met(
    bundle: Path, finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    pictures = finished[0] / "evaluation/examples"
    late = python(EXAMPLES / CAMERA, bundle, pictures, "--deadline-ms", 1e-6)
    none = dict.fromkeys(("certified", "held", "abstained", "refused"), 0)
    assert counts(late.stdout) == none | dict.fromkeys(("frames", "stop", "late"), 6)
    np.save(tmp_path / "large.npy", np.zeros((4, 9, 9), np.uint8))
    refused = python(EXAMPLES / CAMERA, bundle, tmp_path / "large.npy")
    assert counts(refused.stdout)["refused"] == 4, refused.stderr


@pytest.mark.slow
def test_a_stuck_engine_does_not_hold_up_the_fallback() -> None:
    camera, stuck = module(CAMERA), threading.Event()

    def certify(frame: np.ndarray) -> SimpleNamespace:
        if frame[0, 0] == 1:
            stuck.wait(600)
        return SimpleNamespace(abstained=[frame[0, 0] == 2], label=[int(frame[0, 0])], radius=[0.5])

    def frame(value: int) -> np.ndarray:
        return np.full((8, 8), value, np.uint8)

    # Frames that are answered have all the time in the world, and those that never are next to none.
    loop = camera.CertifiedLoop(certify, deadline_s=600, max_age_s=600)
    first = loop(frame(7))
    assert (first.kind, first.label, first.radius) == ("certified", 7, 0.5)
    abstained = loop(frame(2))
    assert (abstained.kind, abstained.why, abstained.label, abstained.radius) == ("held", "abstained", 7, 0.0)
    assert abstained.age_s > 0
    loop._deadline_s = 0.05
    for _ in range(2):  # the pass that is stuck, and a frame that waits for it in vain
        late = loop(frame(1))
        assert (late.kind, late.why, late.label) == ("held", "late", 7)
        assert late.latency_s >= 0.05
    loop._max_age_s = late.age_s
    old = loop(frame(1))
    assert (old.kind, old.why, old.label) == ("stop", "late", -1)
    stuck.set()
    loop._deadline_s = 600
    again = loop(frame(7))
    assert (again.kind, again.label) == ("certified", 7)
    loop.close()


# Audited camera


AUDITED = "audited_camera/audited_camera.py"


@pytest.mark.slow
def test_the_audited_camera_counts_every_frame_and_goes_on_after_a_restart(
    bundle: Path,
    images: np.ndarray,
    finished: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    frames, state = tmp_path / "frames.npy", tmp_path / "audit.json"
    np.save(frames, images)
    fast = ("--rate", 0.5, "--n", 100, "--budget", 1000, "--state", state, "--metrics", tmp_path / "metrics.txt")
    served = []
    for light in (1.0, 0.3):
        command = (AUDITED, bundle, finished[0] / "classifier", frames, *fast, "--dim", light)
        monkeypatch.setattr(sys, "argv", [*map(str, command)])
        module(AUDITED).main()
        said = capsys.readouterr().out
        by = {who: int(count) for count, who in re.findall(r"(\d+) by (monte carlo|none|surrogate)", said)}
        assert sum(by.values()) == 200
        assert min(by.values()) > 0
        audited, of, dropped, failed = map(
            int, re.search(r"audit: (\d+) of (\d+) audited: .* (\d+) dropped, (\d+) failed", said).groups()
        )
        assert (dropped, failed) == (0, 0)
        assert 0.3 * of < audited < 0.7 * of
        assert "gets a wrong certificate with probability at most 20.31%" in said
        served.append(of)
    assert served == [200, 400]
    assert "certificates are wrong" not in said
    assert "rrise_audit_served_total 400.0" in (tmp_path / "metrics.txt").read_text()


# Ray Serve


def png(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def as_json(pixels: object) -> bytes:
    return json.dumps({"pixels": pixels}).encode()


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
BAD = {
    "nothing": (b"", "a PNG, JPEG or .npy file, or JSON"),
    "text": (b"hello", "a PNG, JPEG or .npy file, or JSON"),
    "large png": (png(np.zeros((9, 9), np.uint8)), "a picture of 8 x 8 pixels"),
    "huge png": (png(np.zeros((9000, 9000), np.uint8)), "a picture of 8 x 8 pixels"),
    "16 bits": (png(PIXELS.astype(np.uint16)), "an 8-bit grey"),
    "colour": (png(np.zeros((8, 8, 3), np.uint8)), r"images: expected uint8 images"),
    "cut png": (png(PIXELS)[:60], "Pillow cannot read"),
    "cut npy": (npy(PIXELS)[:-1], r"a \.npy file of uint8 or float32"),
    "long npy": (npy(PIXELS) + b"\0", r"a \.npy file of uint8 or float32"),
    "boastful npy": (npy(PIXELS).replace(b"(8, 8)", b"(9**9,)"), r"a \.npy file of uint8 or float32"),
    "giant npy": (npy(PIXELS).replace(b"(8, 8), }      ", b"(999999999,), }"), r"a \.npy file of uint8 or float32"),
    "pickle": (npy(np.array([{}], dtype=object)), r"a \.npy file of uint8 or float32"),
    "float64": (npy(PIXELS / 255), r"a \.npy file of uint8 or float32"),
    "two images": (npy(np.stack([PIXELS, PIXELS])), "one image a request, got 2"),
    "normalised": (npy(np.full((1, 1, 8, 8), -1, np.float32)), r"pixels in \[0,1\], got min -1"),
    "not a number": (npy(np.full((1, 1, 8, 8), np.nan, np.float32)), "got NaN"),
    "no json": (b"{", "expected JSON"),
    "no pixels": (b'{"image": []}', "expected JSON"),
    "ragged": (as_json([[1, 2], [3]]), "expected JSON"),
    "deep": (b'{"pixels": ' + b"[" * 100_000, "expected JSON"),
    "fractions": (as_json((PIXELS / 255).tolist()), "integers from 0 to 255"),
    "too bright": (as_json((PIXELS.astype(int) + 200).tolist()), "integers from 0 to 255"),
    "enormous": (as_json([[10**30] * 8] * 8), "integers from 0 to 255"),
}


@pytest.fixture(scope="module")
def decoding() -> ModuleType:
    return module("ray_serve/decoding.py")


def test_each_form_of_an_image_is_the_same_image(decoding: ModuleType) -> None:
    expected = prepare_images(PIXELS, SHAPE)
    bodies = [png(PIXELS), npy(PIXELS), npy(PIXELS[..., None]), npy(expected), as_json(PIXELS.tolist())]
    for body in bodies:
        found = decoding.decode(body, SHAPE)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
    colour = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    found = decoding.decode(png(colour), (3, 6, 5))
    np.testing.assert_array_equal(found, prepare_images(colour, (3, 6, 5)))


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_no_image_is_refused_in_words(decoding: ModuleType, body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        decoding.decode(body, SHAPE)
    assert len(str(caught.value)) < 600


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, dict]:
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@contextmanager
def served(bundle: Path, stop_by: signal.Signals) -> Iterator[int]:
    """A port where the bundle is served; afterwards nothing of it lives."""
    before = {each.pid for each in descendants()}
    (port,) = free_ports(1)
    command = [sys.executable, EXAMPLES / "ray_serve/serve_bundle.py", bundle, "--port", port]
    with Run(command, env=ENVIRONMENT | {"RAY_worker_niceness": "0"}) as run:
        wait_for(lambda: run.said == f"serving {bundle} at http://127.0.0.1:{port}/certify\n", "server", run)
        yield port
        run.process.send_signal(stop_by)
        assert (run.status(), run.complained) == (0, "")
    wait_for(lambda: {each.pid for each in descendants()} <= before, "end of all that the server started")


@pytest.mark.slow
def test_a_bundle_served_over_http_gives_the_certifiers_answers_in_batches(bundle: Path, images: np.ndarray) -> None:
    certifier = Certifier.load(bundle)
    bad = list(BAD.values())
    with served(bundle, signal.SIGINT) as port:
        status, health = ask(port, "GET", "/health")
        assert (status, health) == (200, {"status": "ok", "bundle_sha256": certifier.bundle.sha256})
        forms = [png, npy, lambda pixels: as_json(pixels.tolist())]
        bodies = [forms[number % 3](image) for number, image in enumerate(images[:96])]
        mixed = [body for number, good in enumerate(bodies) for body in (good, bad[number % len(bad)][0])]
        with ThreadPoolExecutor(24) as pool:  # a bad request beside each good one
            answers = list(pool.map(lambda body: ask(port, "POST", "/certify", body), mixed))
        for number, (status, answer) in enumerate(answers[1::2]):
            assert status == 400
            assert re.search(bad[number % len(bad)][1], answer["detail"])
        assert {status for status, _ in answers[::2]} == {200}
        good = [answer for _, answer in answers[::2]]
        expected = certifier(images[:96])
        for name in ("radius", "p_lower", "q"):
            np.testing.assert_allclose([answer[name] for answer in good], getattr(expected, name), atol=1e-5)
        assert [answer["label"] for answer in good] == expected.label.tolist()
        assert {-1} < set(expected.label.tolist())  # some abstain, some do not
        for answer in good:
            assert answer["class"] == (None if answer["label"] < 0 else certifier.classes[answer["label"]])
            assert answer["bundle_sha256"] == certifier.bundle.sha256
        assert 1 < max(answer["batch_size"] for answer in good) <= 32
        assert ask(port, "POST", "/certify", bytes(17 * 2**20))[0] == 413
        assert ask(port, "GET", "/certify")[0] == 405
        assert ask(port, "GET", "/statement")[1]["statement"] == certifier.statement


@pytest.mark.slow
def test_no_bundle_is_served_from_a_folder_that_is_none(tmp_path: Path) -> None:
    done = python(EXAMPLES / "ray_serve/serve_bundle.py", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"serve_bundle: bundle: expected a file .*\n", done.stderr)


# Classifiers of one's own


def shell(script: str, out: Path) -> str:
    """Run a script of the examples with `rrise` on the path and return what it said."""
    command = out / "bin/rrise"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rrise "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", EXAMPLES / script, out / "run"], env=ENVIRONMENT | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def certified_labels_are_right(out: Path, said: str, least: float) -> None:
    rows = re.findall(r"new_images\.npy\[(\d+)\] +(\d|abstain) ", said)
    truth = np.load(out / "run/new_labels.npy")
    right = [label == str(truth[int(row)]) for row, label in rows if label != "abstain"]
    assert len(rows) == 40
    assert len(right) >= least * 40
    assert np.mean(right) > 0.9


@pytest.mark.slow
def test_own_pytorch_model(tmp_path: Path) -> None:
    said = shell("own_pytorch_model/run.sh", tmp_path)
    assert "my_model:build, 14,826 parameters" in said
    assert "got 241 of 500 that had" in said
    certified_labels_are_right(tmp_path, said, least=0.8)


@pytest.mark.slow
def test_onnx_base_classifier(tmp_path: Path) -> None:
    said = shell("onnx_base_classifier/run.sh", tmp_path)
    assert "of which an ONNX file has no record, got none" in said
    provenance = Certifier.load(tmp_path / "run/bundles/scaled").bundle.provenance
    assert provenance["classifier_images"] == "named by the user"
    certified_labels_are_right(tmp_path, said, least=0.6)
    (holds,) = re.findall(r"^\| rrise scaled +\| +95\.095% \| +([\d.]+)% of 397", said, re.MULTILINE)
    assert float(holds) >= 95.095
