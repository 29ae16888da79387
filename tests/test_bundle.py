"""The bundle format: what is written loads, byte for byte as docs/bundle.md says, and nothing else loads."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference_engines import bundle_content, canonical, engine_spec, linear_engine, sealed, write_bundle

from rrise.promise import promise, rounded_up
from rrise.runtime import BundleError, load_bundle, save_bundle
from rrise.runtime.bundle import read_files, read_levels
from rrise.runtime.bundle_schema import ExtraPasses

ENGINE = linear_engine(np.eye(4, 3), np.zeros(3))
OTHER = linear_engine(np.eye(4, 3) * 2, np.zeros(3))
BINS = [{"start": 0.5, "images": 100, "rank": 99, "t": 0.25}, {"start": 0.75, "images": 500, "rank": 483, "t": 1.5}]
GOLDEN = Path(__file__).parent / "golden" / "bundle-1"


def refusal(folder: Path) -> str:
    """The message with which a folder is refused, checked for its shape."""
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    text = str(caught.value)
    assert text.startswith("bundle: expected ")
    assert ", got " in text
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 500 + len(str(folder))
    return text


def arguments(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """What save_bundle takes, from the same numbers as the reference's bundle.json."""
    content = bundle_content(ENGINE)
    (tmp_path / "engine.onnx").write_bytes(ENGINE)
    curve = {key: np.array(content["curve"][key]) for key in ("knots_q", "knots_p")}
    return {
        "engine_file": tmp_path / "engine.onnx",
        "engine_spec": engine_spec(ENGINE),
        "calibration": content["calibration"] | curve | {"curve": "scaled", "n": np.int64(1000)},
        "sigma": np.float64(0.5),
        "statement": content["statement"],
        "provenance": content["provenance"],
    } | changes


def test_saved_bytes_are_those_of_the_specification(tmp_path: Path) -> None:
    saved = save_bundle(tmp_path / "runs" / "bundle", **arguments(tmp_path))
    assert sorted(os.listdir(tmp_path / "runs")) == ["bundle"]  # no temporary folder stays
    assert sorted(os.listdir(tmp_path / "runs" / "bundle")) == ["bundle.json", "engine.onnx"]
    assert (tmp_path / "runs" / "bundle" / "engine.onnx").read_bytes() == ENGINE
    content = bundle_content(ENGINE, limits=saved.limits)
    assert (tmp_path / "runs" / "bundle" / "bundle.json").read_bytes() == canonical(content)
    assert "exchangeable with the calibration images" in saved.limits


def test_optional_facts_of_a_calibration_are_kept(tmp_path: Path) -> None:
    facts = {"certified": 640, "bins": BINS, "priors": [0.5, 0.25, 0.25], "effective": 812.5}
    written = write_bundle(tmp_path / "b", ENGINE, **{f"calibration__{key}": value for key, value in facts.items()})
    record = load_bundle(written).calibration
    assert (record.certified, record.priors, record.effective) == (640, (0.5, 0.25, 0.25), 812.5)
    assert [vars(b) for b in record.bins] == BINS
    given = arguments(tmp_path)
    saved = save_bundle(tmp_path / "again", **(given | {"calibration": given["calibration"] | facts}))
    assert saved.calibration == record


def test_a_bundle_loads_as_it_was_written(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path / "b", ENGINE))
    content = bundle_content(ENGINE)
    assert bundle.sha256 == content["sha256"]
    assert (bundle.sigma, bundle.statement, bundle.limits) == (0.5, content["statement"], content["limits"])
    assert bundle.provenance == content["provenance"]
    optional = {"certified": None, "bins": (), "priors": (), "effective": None, "shared_draws": False}
    assert vars(bundle.calibration) == content["calibration"] | optional
    assert bundle.engine.classes == ("zero", "één", "two")
    assert bundle.engine.input_shape == (1, 2, 2)
    assert bundle.curve.knots_q.tolist() == content["curve"]["knots_q"]
    assert bundle.curve.knots_p.tolist() == content["curve"]["knots_p"]
    with pytest.raises(ValueError, match="read-only"):
        bundle.curve.knots_p[0] = 1


@given(
    sigma=st.floats(1e-3, 1e3),
    knots=st.lists(st.floats(0, 0.99), min_size=2, max_size=9),
    t=st.floats(allow_nan=False, allow_infinity=False),
    statement=st.text(min_size=1).filter(lambda text: text.isprintable()),
    provenance=st.dictionaries(
        st.text(st.characters(codec="utf-8")),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False),
            lambda value: st.lists(value) | st.dictionaries(st.text(st.characters(codec="utf-8")), value),
        ),
    ),
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, **drawn: Any) -> None:
    folder = tmp_path_factory.mktemp("round")
    given_ = arguments(folder, sigma=drawn["sigma"], statement=drawn["statement"], provenance=drawn["provenance"])
    given_["calibration"] |= {
        "t": drawn["t"],
        "knots_p": drawn["knots"],
        "knots_q": np.linspace(0, 1, len(drawn["knots"])),
    }
    saved = save_bundle(folder / "b", **given_)
    loaded = load_bundle(folder / "b")
    assert loaded.sha256 == saved.sha256
    assert (loaded.sigma, loaded.calibration.t, loaded.statement) == (drawn["sigma"], drawn["t"], drawn["statement"])
    assert loaded.curve.knots_p.tolist() == drawn["knots"]
    assert loaded.provenance == drawn["provenance"]


def test_what_is_sealed_is_what_a_reader_will_see(tmp_path: Path) -> None:
    """Number keys sort otherwise than the texts they become."""
    save_bundle(tmp_path / "b", **arguments(tmp_path, provenance={10: (1, 2), 9: {}}))
    assert load_bundle(tmp_path / "b").provenance == {"10": [1, 2], "9": {}}


def test_a_bundle_of_several_noise_levels_loads_for_ever() -> None:
    bundle, engine = read_levels(GOLDEN.with_name("levels-1"))
    assert bundle.sha256 == "380ce06cff8d1f2e1c30a6b486b1de9cfb26097444afe9d504dece23e09826ac"
    assert bundle.sigmas == (0.25, 0.5)
    assert [curve.knots_p.tolist() for curve in bundle.curves] == [[0.0, 0.1, 0.55, 0.99], [0.0, 0.3, 0.7, 0.98]]
    assert len(engine) > 100


def test_a_bundle_of_version_1_loads_for_ever() -> None:
    bundle = load_bundle(GOLDEN)
    assert bundle.sha256 == "75555a6f5d1a8afa2bc4de620689ed4ef981742c3e49cf375cd0252b4c85efee"
    assert bundle.curve.knots_p.tolist() == [0.0, 0.1, 0.55, 0.99]


@pytest.mark.parametrize("name", ["bundle-1", "bundle-2", "levels-1"])
def test_an_earlier_bundle_keeps_its_statement_and_has_the_sharper_promise(name: str) -> None:
    bundle = read_files(GOLDEN.with_name(name), None)[1]
    assert bundle.statement == "With probability 0.99 over the calibration draw, 95% of the bounds hold."
    assert bundle.calibration.error == rounded_up(promise(0.001, 0.049)) < 0.05


def test_a_bundle_of_more_passes_promises_the_sum(tmp_path: Path) -> None:
    given = arguments(tmp_path)
    for name, extra, error in (("one", None, rounded_up(promise(0.001, 0.049))), ("more", ExtraPasses(8, 5.0), 0.05)):
        save_bundle(tmp_path / name, **given, extra_passes=extra)
        assert load_bundle(tmp_path / name).calibration.error == error


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bytes], str]:
    """Write one file of a bundle anew, return the refusal, put the file back."""
    folder = write_bundle(tmp_path_factory.mktemp("damage") / "b", ENGINE)

    def damage(name: str, data: bytes) -> str:
        whole = (folder / name).read_bytes()
        try:
            (folder / name).write_bytes(data)
            return refusal(folder)
        finally:
            (folder / name).write_bytes(whole)

    return damage


FILES = {"bundle.json": canonical(bundle_content(ENGINE)), "engine.onnx": ENGINE}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mask", [0x01, 0x20], ids=["lowest bit", "case bit"])
def test_every_flipped_byte_is_refused(name: str, mask: int, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    with open(folder / name, "r+b", buffering=0) as file:
        for position, byte in enumerate(FILES[name]):
            os.pwrite(file.fileno(), bytes([byte ^ mask]), position)
            with pytest.raises(BundleError):
                load_bundle(folder)
            os.pwrite(file.fileno(), bytes([byte]), position)
    load_bundle(folder)  # whole again: it was the byte that was refused


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_any_damage_is_refused(name: str, damaged: Callable[[str, bytes], str], data: st.DataObject) -> None:
    whole = FILES[name]
    start = data.draw(st.integers(0, len(whole)), label="start")
    end = data.draw(st.integers(start, min(len(whole), start + 8)), label="end")
    other = data.draw(st.binary(max_size=8).filter(lambda other: other != whole[start:end]), label="other")
    damaged(name, whole[:start] + other + whole[end:])


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_extended_files_are_refused(name: str, damaged: Callable[[str, bytes], str]) -> None:
    whole = FILES[name]
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        damaged(name, whole[:length])
    for tail in (b"\n", b"\0", b" ", whole):
        damaged(name, whole + tail)


def test_a_swapped_engine_is_refused_with_both_hashes(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    (folder / "engine.onnx").write_bytes(OTHER)
    recorded, found = engine_spec(ENGINE)["sha256"], engine_spec(OTHER)["sha256"]
    text = refusal(folder)
    assert f"engine.onnx with sha256 {recorded}, got {found}. The guarantee holds only for the calibrated" in text


HOSTILE = {  # a change of a sealed, canonical bundle.json -> what the refusal must name
    "unknown version": ({"format": "rrise-bundle/9"}, "format to be 'rrise-bundle/2'.*got 'rrise-bundle/9'"),
    "format not text": ({"format": 1}, "format to be"),
    "sigma 0": ({"sigma": 0.0}, "sigma to be a finite number above 0, got 0.0"),
    "sigma negative": ({"sigma": -0.5}, "sigma to be"),
    "sigma integer": ({"sigma": 1}, "sigma to be"),
    "sigma true": ({"sigma": True}, "sigma to be"),
    "sigma text": ({"sigma": "0.5"}, "sigma to be"),
    "sigma null": ({"sigma": None}, "sigma to be"),
    "sigma object": ({"sigma": {}}, "sigma to be"),
    "beta 0": ({"calibration__beta": 0.0}, r"calibration\.beta to be a number between 0 and 1, got 0.0"),
    "beta 1": ({"calibration__beta": 1.0}, r"calibration\.beta"),
    "beta negative": ({"calibration__beta": -0.1}, r"calibration\.beta"),
    "gamma 0": ({"calibration__gamma": 0.0}, r"calibration\.gamma"),
    "beta + gamma 1": ({"calibration__gamma": 0.999}, r"calibration\.gamma to be a number between 0 and 1 - beta"),
    "eta 0": ({"calibration__eta": 0.0}, r"calibration\.eta"),
    "eta 1": ({"calibration__eta": 1.0}, r"calibration\.eta"),
    "marginal eta 1": ({"calibration__guarantee": "marginal", "calibration__eta": 1.0}, r"calibration\.eta"),
    "guarantee": ({"calibration__guarantee": "certain"}, r"calibration\.guarantee to be one of marginal, training"),
    "n 0": ({"calibration__n": 0}, r"calibration\.n to be an integer of at least 1"),
    "n real": ({"calibration__n": 1000.0}, r"calibration\.n"),
    "n true": ({"calibration__n": True}, r"calibration\.n"),
    "n beyond int64": ({"calibration__n": 1 << 63}, r"calibration\.n"),
    "images 0": ({"calibration__images": 0}, r"calibration\.images"),
    "rank 0": ({"calibration__rank": 0}, r"calibration\.rank to be an integer from 1 to images = 1000"),
    "rank above images": ({"calibration__rank": 1001}, r"calibration\.rank"),
    "certified above images": (
        {"calibration__certified": 1001},
        r"calibration\.certified to be an integer from 0 to images = 1000",
    ),
    "certified real": ({"calibration__certified": 10.0}, r"calibration\.certified"),
    "bins empty": ({"calibration__bins": []}, r"calibration\.bins to be a list of at least one object"),
    "bins of numbers": ({"calibration__bins": [1.0]}, r"calibration\.bins to be a list of objects"),
    "bin without a rank": (
        {"calibration__bins": [{"start": 0.5, "images": 10, "t": 0.5}]},
        r"calibration\.bins\[0\]\.rank to be present",
    ),
    "bin with more": ({"calibration__bins": [BINS[0] | {"eta": 0.1}]}, r"calibration\.bins\[0\]\.eta to be absent"),
    "bins out of order": ({"calibration__bins": BINS[::-1]}, r"calibration\.bins\[1\]\.start to be .* above 0.75"),
    "bin from 1": ({"calibration__bins": [BINS[0] | {"start": 1.0}]}, r"calibration\.bins\[0\]\.start"),
    "bins of too many": (
        {"calibration__bins": [BINS[0], BINS[1] | {"images": 901}]},
        r"calibration\.bins\[1\]\.images to be an integer from 1 to 900",
    ),
    "bin rank above images": ({"calibration__bins": [BINS[0] | {"rank": 101}]}, r"calibration\.bins\[0\]\.rank"),
    "priors too few": ({"calibration__priors": [0.5, 0.5]}, r"calibration\.priors to be 3 numbers in \[0,1\] that sum"),
    "priors above 1": ({"calibration__priors": [0.5, 0.5, 0.5]}, r"calibration\.priors"),
    "priors alone": ({"calibration__priors": [0.5, 0.25, 0.25]}, r"calibration\.effective to be .* got nothing"),
    "effective alone": ({"calibration__effective": 10.0}, r"calibration\.effective"),
    "effective above images": (
        {"calibration__priors": [0.5, 0.25, 0.25], "calibration__effective": 1001.0},
        r"calibration\.effective to be a number from 1 to images = 1000",
    ),
    "certified eta 0": ({"calibration__guarantee": "certified", "calibration__eta": 0.0}, r"calibration\.eta"),
    "t text": ({"calibration__t": "inf"}, r"calibration\.t to be a finite number"),
    "knots not from 0": ({"curve__knots_q": [0.1, 0.25, 0.6, 1.0]}, r"curve\.knots_q to be .*from 0.0 to 1.0"),
    "knots not to 1": ({"curve__knots_q": [0.0, 0.25, 0.6, 0.9]}, r"curve\.knots_q"),
    "knots beyond 1": ({"curve__knots_q": [0.0, 0.25, 1.5, 1.0]}, r"curve\.knots_q"),
    "knots out of order": ({"curve__knots_q": [0.0, 0.6, 0.25, 1.0]}, r"curve\.knots_q"),
    "knots repeated": ({"curve__knots_q": [0.0, 0.6, 0.6, 1.0]}, r"curve\.knots_q"),
    "one knot": ({"curve__knots_q": [0.0], "curve__knots_p": [0.0]}, r"curve\.knots_q"),
    "no knots": ({"curve__knots_q": [], "curve__knots_p": []}, r"curve\.knots_q to be .*got \[\]"),
    "knots object": ({"curve__knots_q": {"0": 0.0}}, r"curve\.knots_q"),
    "knots text": ({"curve__knots_q": ["0.0", "1.0"]}, r"curve\.knots_q"),
    "p shorter": ({"curve__knots_p": [0.0, 0.1, 0.55]}, r"curve\.knots_p to be 4 numbers"),
    "p negative": ({"curve__knots_p": [-0.1, 0.1, 0.55, 0.99]}, r"curve\.knots_p to be 4 numbers in \[0,1\]"),
    "p above 1": ({"curve__knots_p": [0.0, 0.1, 0.55, 1.5]}, r"curve\.knots_p"),
    "p above the cap": (
        {"curve__knots_p": [0.0, 0.1, 0.55, 0.9932]},
        r"curve\.knots_p to be at most beta\^\(1/n\) = 0.993",
    ),
    "p null": ({"curve__knots_p": [0.0, 0.1, None, 0.99]}, r"curve\.knots_p"),
    "family": ({"curve__family": ""}, r"curve\.family"),
    "K 1": (
        {"engine__num_classes": 1, "engine__classes": ["one"]},
        r"engine\.num_classes to be an integer of at least 2",
    ),
    "classes": ({"engine__classes": ["zero", "one"]}, r"engine\.classes to be 3 names"),
    "class not text": ({"engine__classes": ["zero", "one", 2]}, r"engine\.classes"),
    "shape of 2": ({"engine__input_shape": [2, 2]}, r"engine\.input_shape to be 3 integers"),
    "shape 0": ({"engine__input_shape": [1, 0, 2]}, r"engine\.input_shape"),
    "shape true": ({"engine__input_shape": [True, 2, 2]}, r"engine\.input_shape"),
    "shape real": ({"engine__input_shape": [1.0, 2.0, 2.0]}, r"engine\.input_shape"),
    "engine hash": ({"engine__sha256": "xyz"}, r"engine\.sha256 to be 64 lower-case hex"),
    "engine hash upper case": ({"engine__sha256": "A" * 64}, r"engine\.sha256"),
    "kind": ({"engine__kind": "os:system"}, r"engine\.kind to be one of onnxruntime"),
    "precision": ({"engine__precision": 32}, r"engine\.precision"),
    "file above": ({"engine__file": "../engine.onnx"}, r"engine\.file to be the plain name of a file"),
    "file absolute": ({"engine__file": "/etc/passwd"}, r"engine\.file"),
    "file in a folder": ({"engine__file": "sub/engine.onnx"}, r"engine\.file"),
    "file backslash": ({"engine__file": "..\\engine.onnx"}, r"engine\.file"),
    "file dot": ({"engine__file": ".."}, r"engine\.file"),
    "file hidden": ({"engine__file": ".engine"}, r"engine\.file"),
    "file empty": ({"engine__file": ""}, r"engine\.file"),
    "file NUL": ({"engine__file": "a\0b"}, r"engine\.file"),
    "file itself": ({"engine__file": "bundle.json"}, r"engine\.file to be another file"),
    "file missing": ({"engine__file": "absent.onnx"}, r"a file .*absent\.onnx, got none"),
    "statement empty": ({"statement": ""}, "statement to be"),
    "limits list": ({"limits": []}, "limits to be"),
    "provenance list": ({"provenance": []}, "provenance to be an object"),
    "engine list": ({"engine": []}, "engine to be an object"),
    "curve null": ({"curve": None}, "curve to be an object"),
    "calibration text": ({"calibration": "none"}, "calibration to be an object"),
    "unknown member": ({"extra": 1}, "extra to be absent, got 1"),
    "unknown engine member": ({"engine__command": "rm"}, r"engine\.command to be absent"),
    "unknown calibration member": ({"calibration__delta": 0.1}, r"calibration\.delta to be absent"),
    "long text": ({"sigma": "x" * 100_000}, "sigma to be .*characters"),
    "line breaks": ({"sigma": "a\nb"}, "sigma to be"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_sealed_but_wrong_bundle_is_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, message = HOSTILE[case]
    assert re.search(message, refusal(write_bundle(tmp_path / "b", ENGINE, **changes)))


@pytest.mark.parametrize("key", [*sorted(bundle_content(ENGINE)), "engine.sha256", "curve.family", "calibration.eta"])
def test_a_missing_member_is_refused_by_name(key: str, tmp_path: Path) -> None:
    content = json.loads(canonical(bundle_content(ENGINE)))
    *sections, last = key.split(".")
    del (content[sections[0]] if sections else content)[last]
    folder = write_bundle(tmp_path / "b", ENGINE)
    (folder / "bundle.json").write_bytes(canonical(content if key == "sha256" else sealed(content)))
    assert f"expected {key} to be" in refusal(folder)
    assert "got nothing" in refusal(folder)


TEXT = canonical(bundle_content(ENGINE)).decode()
SPELLINGS = {  # other texts -> what the refusal must say
    "NaN": (TEXT.replace('"sigma": 0.5', '"sigma": NaN'), "finite numbers, got NaN"),
    "Infinity": (TEXT.replace('"sigma": 0.5', '"sigma": Infinity'), "finite numbers, got Infinity"),
    "-Infinity": (TEXT.replace('"t": 0.03125', '"t": -Infinity'), "finite numbers, got -Infinity"),
    "1e999": (TEXT.replace('"sigma": 0.5', '"sigma": 1e999'), "finite numbers, got '1e999'"),
    "huge integer": (TEXT.replace('"n": 1000', f'"n": {"9" * 5000}'), "integers of at most 20 characters"),
    "duplicate key": (
        TEXT.replace('"sigma": 0.5', '"sigma": 0.5,\n  "sigma": 0.5'),
        "each key once, got 'sigma' twice",
    ),
    "duplicate inside": (TEXT.replace('"n": 1000', '"n": 9,\n    "n": 1000'), "each key once, got 'n' twice"),
    "list": ("[]", "a JSON object, got"),
    "number": ("1", "a JSON object, got 1"),
    "null": ("null", "a JSON object, got None"),
    "empty": ("", "JSON in UTF-8"),
    "two objects": (TEXT + TEXT, "JSON in UTF-8"),
    "deep": ("[" * 100_000, "shallow JSON, got deep nesting"),
    "deep and closed": ('{"a":' * 100_000 + "1" + "}" * 100_000, "shallow JSON"),
    "byte order mark": ("\ufeff" + TEXT, "JSON in UTF-8"),
    "compact": (json.dumps(json.loads(TEXT), separators=(",", ":")), "canonical form"),
    "escaped": (TEXT.replace("één", r"\u00e9\u00e9n"), "canonical form"),
    "another number": (TEXT.replace('"sigma": 0.5', '"sigma": 5e-1'), "canonical form"),
    "another order": (json.dumps(dict(reversed(json.loads(TEXT).items())), indent=2) + "\n", "canonical form"),
    "lone surrogate": (TEXT.replace("één", r"\ud800"), "plain JSON"),
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_a_hostile_or_uncanonical_text_is_refused(case: str, damaged: Callable[[str, bytes], str]) -> None:
    text, message = SPELLINGS[case]
    assert text != TEXT
    assert message in damaged("bundle.json", text.encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_another_encoding_is_refused(encoding: str, damaged: Callable[[str, bytes], str]) -> None:
    assert "JSON in UTF-8" in damaged("bundle.json", TEXT.encode(encoding))


def test_missing_files_are_refused(tmp_path: Path) -> None:
    assert "bundle.json, got none" in refusal(tmp_path / "absent")
    folder = write_bundle(tmp_path / "b", ENGINE)
    (folder / "engine.onnx").unlink()
    assert "engine.onnx, got none" in refusal(folder)
    (folder / "bundle.json").unlink()
    assert "bundle.json, got none" in refusal(folder)
    (tmp_path / "file").touch()
    refusal(tmp_path / "file")


@pytest.mark.parametrize("name", FILES)
def test_links_folders_and_pipes_are_refused(name: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"expected {name} to be a plain file, got a link" in refusal(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"{name}" in refusal(folder)
    (folder / name).rmdir()
    os.mkfifo(folder / name)
    assert f"expected {name} to be a plain file, got another kind" in refusal(folder)


@pytest.mark.parametrize(("name", "limit"), [("bundle.json", 4 << 20), ("engine.onnx", 4 << 30)])
def test_files_beyond_the_limits_are_refused_unread(name: str, limit: int, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    os.truncate(folder / name, limit + 1)  # a sparse file: no disk is used
    assert f"expected {name} of at most {limit} bytes, got {limit + 1}" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"sigma": 0.0}, "sigma to be", id="sigma"),
        pytest.param({"sigma": float("nan")}, "plain JSON", id="sigma NaN"),
        pytest.param({"sigma": "much"}, "could not convert", id="sigma text"),
        pytest.param({"statement": ""}, "statement to be", id="statement"),
        pytest.param({"provenance": {"when": object()}}, "plain JSON", id="provenance"),
        pytest.param({"provenance": {1: "a", "1": "b"}}, "", id="provenance keys"),
        pytest.param({"engine_spec": engine_spec(OTHER)}, "with sha256 .* only for the calibrated engine", id="engine"),
        pytest.param({"engine_spec": {}}, "a field 'kind', got none", id="no specification"),
        pytest.param({"calibration": {}}, "a field 'knots_q', got none", id="no calibration"),
    ],
)
def test_nothing_is_written_if_anything_is_wrong(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=rf"bundle: expected .*{message}"):
        save_bundle(tmp_path / "b", **arguments(tmp_path, **changes))
    assert os.listdir(tmp_path) == ["engine.onnx"]


def test_an_engine_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"bundle: expected a file .*absent\.onnx"):
        save_bundle(tmp_path / "b", **arguments(tmp_path, engine_file=tmp_path / "absent.onnx"))


@pytest.mark.parametrize("present", ["folder", "file", "bundle"])
def test_nothing_is_overwritten(present: str, tmp_path: Path) -> None:
    target = tmp_path / "b"
    if present == "bundle":
        write_bundle(target, OTHER)
    else:
        target.mkdir() if present == "folder" else target.touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match=r"bundle: expected a new folder, got .* which exists"):
        save_bundle(target, **arguments(tmp_path))
    assert sorted(path for path in tmp_path.rglob("*") if path != tmp_path / "engine.onnx") == before


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_ = arguments(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_bundle(tmp_path / "b", **given_)
    assert os.listdir(tmp_path) == ["engine.onnx"]


def test_another_writer_who_was_faster_keeps_his_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_, rename = arguments(tmp_path), os.rename

    def slow(source: Path, target: Path) -> None:
        write_bundle(target, OTHER)
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow)
    with pytest.raises(FileExistsError, match="bundle: expected a new folder"):
        save_bundle(tmp_path / "b", **given_)
    assert sorted(os.listdir(tmp_path)) == ["b", "engine.onnx"]
    assert (tmp_path / "b" / "engine.onnx").read_bytes() == OTHER


def test_a_copied_bundle_is_the_same_bundle(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    shutil.copytree(folder, tmp_path / "c")
    (tmp_path / "current").symlink_to(tmp_path / "c")  # the folder itself may be a link: a device's `current`
    assert load_bundle(tmp_path / "current").sha256 == load_bundle(folder).sha256
