"""Images in, certificates out: against a linear network whose certificate is known in 50 digits."""

import ast
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_engines import exact_certificate, linear_engine, write_bundle, write_engine

import rrise.runtime.certifier as certifier_module
from rrise.runtime import ABSTAIN, BundleError, Certificates, Certifier, Engine, load_bundle

KNOTS_Q, KNOTS_P = [0.0, 0.25, 0.6, 1.0], [0.0, 0.1, 0.55, 0.99]
# The first pixel sets the first logit, 16 x - 8: exact in float32 for pixels that are multiples of 1/256.
WEIGHTS = np.array([[16, 0, 0], [0, 16, 0], [0, 0, 16], [0, 0, 0]], np.float32)
BIAS = np.array([-8, -8, -8], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("certifier") / "bundle", linear_engine(WEIGHTS, BIAS))


@pytest.fixture(scope="module")
def certifier(folder: Path) -> Certifier:
    return Certifier.load(folder)


def images_of(*values: float) -> np.ndarray:
    """One image a value: the first pixel is the value, the next two are 1/2 (logits 0)."""
    images = np.full((len(values), 1, 2, 2), 0.5, np.float32)
    images[:, 0, 0, 0] = values
    return images


def pixel_for(q: float) -> float:
    """The first pixel at which the network answers class 0 with probability q (to a multiple of 2^-20)."""
    return round((np.log(2 * q / (1 - q)) + 8) / 16 * 2**20) / 2**20


@pytest.mark.parametrize(
    ("q", "p", "certified"),
    [
        pytest.param(0.40, 0.2928571428571429, False, id="below a half"),
        pytest.param(0.56, 0.4985714285714286, False, id="just below a half"),
        pytest.param(0.562, 0.5011428571428571, True, id="just above a half"),
        pytest.param(0.60, 0.55, True, id="at a knot"),
        pytest.param(0.80, 0.77, True, id="between knots"),
        pytest.param(0.999, 0.9889, True, id="high"),
    ],
)
def test_a_chosen_q_gives_the_certificate_worked_out_by_hand(
    certifier: Certifier, q: float, p: float, certified: bool
) -> None:
    got = certifier(images_of(pixel_for(q))).to_rows()[0]
    assert got["q"] == pytest.approx(q, abs=2e-5)
    assert got["p_lower"] == pytest.approx(p, abs=5e-5)
    if certified:
        radius = float(0.5 * mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1))
        assert (got["label"], got["radius"]) == (0, pytest.approx(radius, abs=2e-3))
    else:
        assert (got["label"], got["radius"]) == (ABSTAIN, 0.0)
    assert got["evaluations"] == 0


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 4), min_size=1, max_size=8))
def test_certificates_match_50_digits_and_never_exceed_them(certifier: Certifier, pixels: list) -> None:
    images = np.array(pixels, np.uint8).reshape(-1, 2, 2)
    logits = certifier.logits(images)
    np.testing.assert_allclose(logits, images.reshape(-1, 4) / 255 @ WEIGHTS + BIAS, atol=3e-6)
    for row, got in zip(logits, certifier(images).to_rows(), strict=True):
        label, q, p, radius = exact_certificate(row, KNOTS_Q, KNOTS_P, 0.5)
        assert abs(got["q"] - q) < 1e-14
        assert p - 1e-14 < got["p_lower"] <= p
        if abs(p - 0.5) < 1e-14:
            continue  # the bound, rounded down, may fall on the other side
        assert got["label"] == label
        assert radius - 1e-13 <= got["radius"] <= radius


def test_linear_oracle(tmp_path: Path) -> None:
    """A curve that is the truth for a linear classifier certifies its distance to the hyperplane.

    For f(x) = [w·x > 0], p = Φ(m/σ) with m = w·x/|w|. The surrogate's logit difference a·m has q = 1/(1 + exp(-a·m));
    the curve through (q(m), Φ(m/σ)) at many m gives the radius m, but for the bend of Φ between two knots.
    """
    sigma, slope, w = 0.5, 4.0, np.array([0.6, -0.3, 0.2, 0.1])
    norm = np.linalg.norm(w)
    engine = linear_engine(slope / norm * np.stack([w, 0 * w, 0 * w - 9], axis=1), np.array([0, 0, -9.0]))
    margins = np.linspace(-1.2, 1.2, 4001)
    q = [0.0, *(1 / (1 + np.exp(-slope * margins))).tolist(), 1.0]
    normal = [float(mpmath.ncdf(m / sigma)) for m in margins]
    p = [0.0, *np.minimum(normal, 0.99).tolist(), 0.99]
    images = np.random.default_rng(0).random((200, 1, 2, 2), dtype=np.float32)
    truth = images.reshape(-1, 4).astype(np.float64) @ w / norm
    got = Certifier.load(write_bundle(tmp_path / "b", engine, curve__knots_q=q, curve__knots_p=p))(images)
    inside = (truth > 0.01) & (truth < 1.1)
    assert inside.sum() > 50
    assert (got.label[inside] == 0).all()
    np.testing.assert_allclose(got.radius[inside], truth[inside], atol=2e-5)
    assert got.radius.max() <= sigma * float(mpmath.sqrt(2) * mpmath.erfinv(2 * 0.99 - 1))


@pytest.mark.parametrize(
    ("engine", "bad"),
    [
        pytest.param(linear_engine(np.ones((4, 3)), [-1, 1, 0.5], last=("Log",)), [0, 1], id="Log of a negative: NaN"),
        pytest.param(linear_engine(np.ones((4, 3)), [0, 1, 0.5], last=("Reciprocal",)), [0], id="1/0: infinity"),
    ],
)
def test_a_row_with_nan_or_infinity_abstains_and_no_other(engine: bytes, bad: list[int], tmp_path: Path) -> None:
    images = np.zeros((4, 1, 2, 2), np.float32)
    images[1:, 0, 0, 0] = 0.1, 0.9, 1.0
    images[2:, 0, 0, 1] = 1.0
    certifier = Certifier.load(write_bundle(tmp_path / "b", engine, curve__knots_p=[0.6, 0.7, 0.8, 0.9]))
    assert [row for row, logits in enumerate(certifier.logits(images)) if not np.isfinite(logits).all()] == bad
    got = certifier(images)
    assert np.flatnonzero(got.abstained).tolist() == bad
    assert (got.radius[bad] == 0).all()
    assert (got.p_lower[bad] == 0).all()
    assert np.isnan(got.q[bad]).all()
    assert (got.radius[~got.abstained] > 0).all()
    assert got.to_rows()[0]["q"] is None


def test_every_kind_of_image_gives_the_same_certificate(certifier: Certifier) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 2, 2), dtype=np.uint8)
    expected = certifier(images).to_rows()
    as_float = (images[:, None].astype(np.float64) / 255).astype(np.float32)
    for same in (images[..., None], as_float):
        assert certifier(same).to_rows() == expected
    for image, row in zip(images, expected, strict=True):
        got = certifier(image)
        assert len(got) == 1
        assert got.radius[0] == pytest.approx(row["radius"], abs=1e-6)


def test_one_image_as_plain_numbers(certifier: Certifier) -> None:
    for pixels in np.random.default_rng(4).integers(0, 256, (50, 2, 2), dtype=np.uint8):
        row = certifier(pixels).to_rows()[0]
        one = certifier.certify_one(pixels)
        assert one._asdict() == {key: row[key] for key in ("label", "q", "p_lower", "radius")}
        assert [type(value) for value in one] == [int, float, float, float]
    assert certifier.certify_one(images_of(0.9)) == certifier.certify_one(images_of(0.9)[:1])
    for several in (np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2, 2), np.uint8)):
        with pytest.raises(ValueError, match=f"image: expected one image, got {len(several)}"):
            certifier.certify_one(several)


def test_frames_are_read_as_they_lie_in_memory(certifier: Certifier) -> None:
    """Cropped, turned, mirrored or strided views of a frame give what their copies give."""
    frame = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    crop = frame[1:3, 2:4, 1]
    for view in (crop, crop[::-1], crop[:, ::-1], crop.T, frame[::3, ::4, 0], np.asfortranarray(crop)):
        assert certifier(view).to_rows() == certifier(view.copy()).to_rows()
        assert certifier(view[None, :, :, None]).to_rows() == certifier(view.copy()).to_rows()


def test_no_images_give_no_certificates(certifier: Certifier) -> None:
    for none in (np.empty((0, 2, 2), np.uint8), np.empty((0, 2, 2, 1), np.uint8), np.empty((0, 1, 2, 2), np.float32)):
        got = certifier(none)
        assert len(got) == 0
        assert got.to_rows() == []
        assert certifier.logits(none).shape == (0, 3)


def test_bad_images_are_refused_by_name(certifier: Certifier) -> None:
    with pytest.raises(ValueError, match=r"min -1 and max 0.5\. Undo any normalisation"):
        certifier(images_of(-1.0))
    with pytest.raises(TypeError, match="got float64"):
        certifier(images_of(0.5).astype(np.float64))


def test_many_threads_give_what_one_gives(folder: Path) -> None:
    certifier = Certifier.load(folder)
    batches = [np.random.default_rng(i).integers(0, 256, (1 + i % 7, 2, 2), dtype=np.uint8) for i in range(400)]
    serial = [certifier(batch).to_rows() for batch in batches]
    with ThreadPoolExecutor(16) as pool:
        parallel = [got.to_rows() for got in pool.map(certifier, batches)]
    assert parallel == serial
    assert len({row["radius"] for rows in serial for row in rows}) > 100


class Recorder(Engine):
    """An engine without a runtime: logits are the first three pixels; it notes the size of each batch."""

    kind, version, precision, device = "recorder", "1", "float32", "cpu"
    input_shape, num_classes = (1, 2, 2), 3

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append(len(batch))
        return np.ascontiguousarray(batch.reshape(-1, 4)[:, :3])


def test_a_huge_batch_runs_in_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Recorder()
    certifier = Certifier(load_bundle(folder), engine)
    images = np.random.default_rng(2).integers(0, 256, (2500, 2, 2), dtype=np.uint8)
    whole = certifier(images)
    assert engine.batches == [1024, 1024, 452]
    monkeypatch.setattr(certifier_module, "ROWS", 10_000)
    assert certifier(images).to_rows() == whole.to_rows()
    assert engine.batches[3:] == [2500]


@pytest.mark.parametrize("version", [1, 2])
def test_the_golden_bundle_certifies_as_it_always_did(version: int) -> None:
    images = np.array([[[255, 128], [128, 0]], [[192, 128], [0, 9]], [[128, 128], [128, 128]]], np.uint8)
    certifier = Certifier.load(Path(__file__).parent / "golden" / f"bundle-{version}")
    assert certifier.bundle.engine.onnx_sha256 == (certifier.bundle.engine.sha256 if version == 2 else "")
    assert (certifier.bundle.reference is not None) == (version == 2)
    got = certifier(images)
    assert got.label.tolist() == [0, 0, ABSTAIN]
    np.testing.assert_allclose(got.q, [0.99930817108376919, 0.98228310725276052, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(got.radius, [1.1493496209505748, 0.94418176433874114, 0], atol=1e-5)


def test_what_a_certifier_tells(certifier: Certifier, folder: Path) -> None:
    assert (certifier.sigma, certifier.input_shape, certifier.classes) == (0.5, (1, 2, 2), ("zero", "één", "two"))
    assert certifier.statement == load_bundle(folder).statement
    assert certifier.bundle.calibration.rank == 966
    assert certifier.bundle.sha256 == load_bundle(folder).sha256


def test_another_copy_of_the_engine_serves(folder: Path, tmp_path: Path) -> None:
    images = images_of(0.6, 0.9)
    expected = Certifier.load(folder)(images).to_rows()
    copy = write_engine(tmp_path / "engine", (folder / "engine.onnx").read_bytes())
    for path in (copy, str(copy / "engine.onnx")):
        assert Certifier.load(folder, engine=path)(images).to_rows() == expected
    assert Certifier.load(str(folder), threads=2)(images).to_rows() == expected


def test_another_engine_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_engine(tmp_path / "engine", linear_engine(WEIGHTS * 2, BIAS))
    with pytest.raises(
        BundleError, match=r"with sha256 .* got .* in .*engine.* only for the calibrated engine; re-run"
    ):
        Certifier.load(folder, engine=other)
    with pytest.raises(BundleError, match=r"bundle: expected a file .*absent.* got none"):
        Certifier.load(folder, engine=tmp_path / "absent")


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        pytest.param(b"junk", "an ONNX file, got", id="no engine"),
        pytest.param(
            linear_engine(WEIGHTS, BIAS, (1, 4, 1)), "images .1, 2, 2. as recorded, got 3 of .1, 4, 1.", id="shape"
        ),
        pytest.param(linear_engine(WEIGHTS[:, :2], BIAS[:2]), "3 logits .* got 2", id="classes"),
    ],
)
def test_a_bundle_around_another_network_is_refused(engine: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"bundle: expected .*{message}"):
        Certifier.load(write_bundle(tmp_path / "b", engine))


def test_threads_are_checked_before_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threads: expected an integer of at least 1, got 0") as caught:
        Certifier.load(tmp_path / "absent", threads=0)
    assert not isinstance(caught.value, BundleError)


def test_the_engine_is_opened_from_the_bytes_that_were_hashed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever swaps the file between check and use changes nothing."""
    mine = write_bundle(tmp_path / "b", (folder / "engine.onnx").read_bytes())
    read = certifier_module.read_bundle

    def read_then_swap(path: Path, public_key: None = None) -> tuple:
        result = read(path)
        (mine / "engine.onnx").write_bytes(linear_engine(WEIGHTS * 0, BIAS))
        return result

    monkeypatch.setattr(certifier_module, "read_bundle", read_then_swap)
    got = Certifier.load(mine)(images_of(0.9))
    assert got.to_rows() == Certifier.load(folder)(images_of(0.9)).to_rows()


PROBE = """
import sys
{before}
import rrise.runtime
import numpy as np
got = rrise.runtime.Certifier.load({folder!r})(np.full((1, 2, 2), 250, np.uint8))
assert len(got) == 1 and got.to_rows()
heavy = ["torch", "scipy", "ray", "timm", "sklearn", "pandas", "pyarrow", "matplotlib", "pydantic", "onnx", "sympy"]
print([name for name in heavy if name in sys.modules])
"""


def heavy_modules(folder: Path, before: str) -> list[str]:
    root = str(Path(certifier_module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(folder=str(folder), before=before)],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""  # a device's log stays clean
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_a_certificate_loads_nothing_heavy(folder: Path) -> None:
    assert heavy_modules(folder, before="") == []


def test_the_probe_would_see_torch(folder: Path) -> None:
    assert "torch" in heavy_modules(folder, before="import torch")


def rows(**changes: object) -> dict[str, np.ndarray]:
    columns: dict = {
        "label": np.array([2, ABSTAIN, ABSTAIN]),
        "radius": np.array([0.25, 0.0, 0.0]),
        "p_lower": np.array([0.7, 0.4, 0.0]),
        "q": np.array([0.8, 0.5, np.nan]),
        "evaluations": np.array([0, 100, 0]),
    }
    for name, value in changes.items():
        if isinstance(value, np.ndarray):
            columns[name] = value
        else:
            columns[name][0] = value
    return columns


def test_certificates_as_a_sequence() -> None:
    got = Certificates(**rows())
    assert len(got) == 3
    assert got.abstained.tolist() == [False, True, True]
    assert got.to_rows()[0] == {"label": 2, "radius": 0.25, "p_lower": 0.7, "q": 0.8, "evaluations": 0}
    assert got[-1].to_rows() == got[2:].to_rows() == [got.to_rows()[2]]
    assert got[got.abstained].to_rows() == got[np.array([1, 2])].to_rows() == got.to_rows()[1:]
    assert [row.to_rows()[0] for row in got] == got.to_rows()
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"expected a row below 3, got {index}"):
            got[index]
    with pytest.raises(AttributeError):
        got.label = got.label


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        pytest.param(
            {"label": np.array([2, -1, -1], np.int32)}, TypeError, "label of int64, got int32", id="label type"
        ),
        pytest.param(
            {"radius": np.zeros(3, np.float32)}, TypeError, "radius of float64, got float32", id="radius type"
        ),
        pytest.param({"q": np.zeros(2)}, ValueError, r"q of shape \(3,\), one axis, got \(2,\)", id="length"),
        pytest.param({"label": np.zeros((3, 1), np.int64)}, ValueError, "one axis", id="rank"),
        pytest.param({"label": -2}, ValueError, "in row 0", id="label -2"),
        pytest.param({"label": ABSTAIN}, ValueError, "in row 0", id="radius without label"),
        pytest.param({"radius": -0.1}, ValueError, "in row 0", id="negative radius"),
        pytest.param({"radius": np.nan}, ValueError, "in row 0", id="NaN radius"),
        pytest.param({"radius": np.inf}, ValueError, "in row 0", id="infinite radius"),
        pytest.param({"p_lower": 0.5}, ValueError, "in row 0", id="label at a half"),
        pytest.param({"p_lower": 1.1}, ValueError, "in row 0", id="p above 1"),
        pytest.param({"p_lower": np.nan}, ValueError, "in row 0", id="NaN p"),
        pytest.param({"evaluations": -1}, ValueError, "in row 0", id="evaluations"),
    ],
)
def test_certificates_that_cannot_be_are_refused(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Certificates(**rows(**changes))
