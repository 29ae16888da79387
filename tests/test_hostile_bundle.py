"""A bundle by an adversary: each way to be hostile has its own refusal, and nothing outside the folder is touched."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from reference_engines import FLOAT, linear_engine, model, write_bundle

import rrise
from rrise.inspection import describe
from rrise.runtime import BundleError, Certifier, bundle_writing, load_bundle
from rrise.runtime import bundle as bundle_module
from rrise.runtime.documents import parse_json, read_file

CORPUS = Path(__file__).parent / "corpus" / "bundle"
VALID = (CORPUS / "engine" / "valid.onnx").read_bytes()
ENGINE = linear_engine(np.eye(4, 3), np.zeros(3))
NAME = r"engine\.file to be the plain name of a file beside it"
BORROWED = "an ONNX file that holds all its weights, got external data"
LOADS = ""

DOCUMENTS = {  # tests/corpus/bundle/document -> what the refusal must say
    "valid": LOADS,
    "valid-marginal": LOADS,
    "valid-many-knots": LOADS,
    "valid-subnormal-knot": LOADS,
    "engine-above": NAME,
    "engine-absolute": NAME,
    "engine-is-the-document": r"engine\.file to be another file than bundle\.json",
    "engine-is-the-signature": r"engine\.file to be another file than .*bundle\.sig",
    "engine-on-a-device": NAME,
    "engine-on-a-port": NAME,
    "engine-on-a-share": NAME,
    "engine-in-a-stream": NAME,
    "engine-with-a-dot-at-the-end": NAME,
    "engine-with-a-full-width-dot": NAME,
    "engine-with-a-decomposed-accent": NAME,
    "engine-with-a-turn-of-direction": NAME,
    "engine-with-a-line-break": NAME,
    "engine-with-a-nul": NAME,
    "engine-name-of-300-bytes": NAME,
    "nan-sigma": "finite numbers, got NaN",
    "nan-knot": "finite numbers, got NaN",
    "infinite-number": "finite numbers, got '1e999'",
    "huge-integer": "integers of at most 20 characters, got '9999",
    "huge-n": r"calibration\.n to be an integer",
    "huge-classes": r"engine\.classes to be 16777215 names",
    "huge-shape": r"engine\.input_shape to be 3 integers \(C,H,W\) from 1 to 2\^24 - 1",
    "falling-knots": r"curve\.knots_q to be at least 2 numbers, strictly increasing",
    "duplicate-key": "each key once, got 'sigma' twice",
    "duplicate-key-deep": "each key once, got 'b' twice",
    "deep-lists": "shallow JSON, got deep nesting",
    "deep-and-open": "shallow JSON, got deep nesting",
    "lone-surrogate": "plain JSON, got .*surrogates",
    "raw-surrogate": "JSON in UTF-8",
    "escape-sequence": r"statement to be a sentence of one line, got '\\x1b\[2J",
    "escape-in-a-class": r"engine\.classes to be 3 names of one line each",
    "escape-in-a-key": r"expected '\\x1b\[2J\\n' to be absent",
    "long-key": r"expected 'k{79}\.\.\. \(902 characters\) to be absent",
    "another-spelling": "canonical form",
    "wrong-seal": "sha256 to be its content's",
    "levels": r"one of a single sigma, got one of sigma = 0\.25, 0\.5 in .* Use rrise\.MultiSigma",
    "levels-in-a-bundle": r"engine\.sigmas to be absent",
    "levels-falling": r"engine\.sigmas to be 2 to 16 finite numbers above 0, strictly increasing",
    "levels-of-one": r"engine\.sigmas to be 2 to 16 finite numbers",
    "levels-seventeen": r"engine\.sigmas to be 2 to 16 finite numbers",
    "levels-without-a-curve": r"curves to be 2 objects, one for each of engine\.sigmas",
    "levels-above-the-cap": r"curves\[1\]\.knots_p to be at most beta\^\(1/n\) = 0\.993",
    "levels-with-a-sigma": "expected sigma to be absent",
    "levels-with-bins": r"calibration\.guarantee to be marginal or training-conditional, without bins",
    "levels-among-certified": r"calibration\.guarantee to be marginal or training-conditional, without bins",
    "unknown-format": "format to be",
    "foreign-kind": r"engine\.kind to be one of",
    "python-object": "JSON in UTF-8",
    "utf-16": "JSON in UTF-8",
    "byte-order-mark": "JSON in UTF-8",
    "cut-short": "JSON in UTF-8",
    "empty": "JSON in UTF-8",
}
ENGINES = {  # tests/corpus/bundle/engine -> what the refusal must say, with a bundle.json that records its sha256
    "valid": LOADS,
    "external-initializer": BORROWED,
    "external-above": BORROWED,
    "external-absolute": BORROWED,
    "external-in-memory": BORROWED,
    "external-constant": BORROWED,
    "external-subgraph": BORROWED,
    "external-function": BORROWED,
    "external-sparse": BORROWED,
    "external-training": BORROWED,
    "external-disguised": "an ONNX file, got field 536870925",
    "custom-operator": r"an ONNX model, got .*ai\.onnx\.contrib",
    "python-operator": "an ONNX model, got .*PythonOp",
    "context-of-another-device": "an ONNX model, got .*EPContext",
    "recursive-function": "an ONNX file without functions of its own",
    "multiplied-functions": "an ONNX file without functions of its own",
    "huge-tensor": "an ONNX model, got .*(FAIL|EXCEPTION)",
    "negative-tensor": "an ONNX model, got .*FAIL",
    "name-not-in-utf-8": "an ONNX model, got .*utf-8",
    "length-of-2-to-63": "an ONNX file, got one cut short",
    "endless-number": "an ONNX file, got a broken number",
    "group": "an ONNX file, got wire type 3",
    "field-0": "an ONNX file, got field 0",
    "flatbuffer": "an ONNX file, got field 0",
    "pickle": "an ONNX file, got wire type 3",
    "cut-short": "an ONNX file, got one cut short",
    "empty": "an ONNX model, got",
}


def corpus_bundle(folder: Path, kind: str, name: str) -> Path:
    """A bundle with one file of the corpus; the other file is whole."""
    if kind == "engine":
        return write_bundle(folder, (CORPUS / kind / f"{name}.onnx").read_bytes())
    write_bundle(folder, ENGINE)
    (folder / "bundle.json").write_bytes((CORPUS / kind / f"{name}.json").read_bytes())
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Certifier.load(folder)
    text = str(caught.value)
    assert text.startswith("bundle: expected ")
    assert ", got " in text
    assert text.isprintable()  # one line, and nothing that a terminal obeys
    assert len(text) < 800
    return text


def test_every_file_of_the_corpus_has_its_row() -> None:
    assert {path.stem for path in (CORPUS / "document").iterdir()} == set(DOCUMENTS)
    assert {path.stem for path in (CORPUS / "engine").iterdir()} == set(ENGINES)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [("document", *row) for row in DOCUMENTS.items()] + [("engine", *row) for row in ENGINES.items()],
)
def test_the_corpus(kind: str, name: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = corpus_bundle(tmp_path / "b", kind, name)
    if message == LOADS:
        assert Certifier.load(folder)(np.zeros((2, 2), np.uint8)).label.shape == (1,)
    else:
        assert re.search(message, refusal(folder))
    assert capfd.readouterr() == ("", "")  # nothing of the bundle reaches a terminal by another way


def hostile_folders(place: Path) -> dict[str, Path]:
    """Every hostile bundle of the corpus, and those that a file system makes; `place` holds what they reach for."""
    (place / "w.bin").write_bytes(bytes(48))
    secret = write_bundle(place / "secret", ENGINE)
    made = {
        f"{kind}/{name}": corpus_bundle(place / kind / name, kind, name)
        for kind, rows in (("document", DOCUMENTS), ("engine", ENGINES))
        for name, message in rows.items()
        if message
    }
    for name in ("bundle.json", "engine.onnx"):
        for trick in ("link", "device", "pipe", "folder", "hollow"):
            folder = made[f"{trick}/{name}"] = write_bundle(place / trick / name, ENGINE)
            (folder / name).unlink()
            if trick == "link":
                (folder / name).symlink_to(secret / name)
            elif trick == "device":
                (folder / name).symlink_to("/dev/zero")
            elif trick == "pipe":
                os.mkfifo(folder / name)
            elif trick == "folder":
                (folder / name).mkdir()
            else:
                (folder / name).touch()
                os.truncate(folder / name, 5 << 30)  # a sparse file: no disk is used
    return made


PROBE = """
import json, os, sys
from rrise.runtime import BundleError, Certifier
valid, control, folders = json.loads(sys.stdin.read())
Certifier.load(valid)  # what is imported and opened once, is by now
seen, report = [], {}

def watch(event, arguments):
    if not (event == "open" and isinstance(arguments[0], int)):  # a file that is open already
        seen.append((event, str(arguments[0]) if arguments else ""))

sys.addaudithook(watch)
for name, folder in folders.items():
    seen.clear()
    os.access("/begin/" + name, os.F_OK)
    try:
        Certifier.load(folder)
        said = "loaded"
    except BundleError as error:
        said = str(error)
    report[name] = (said, list(seen))
os.access("/begin/control", os.F_OK)
seen.clear()
open(control).close()
report["control"] = ("", list(seen))
print(json.dumps(report))
"""


def probe(place: Path, command: list[str]) -> tuple[dict[str, Path], dict[str, tuple[str, list[tuple[str, str]]]]]:
    folders = hostile_folders(place)
    valid = write_bundle(place / "valid", ENGINE)
    sent = json.dumps([str(valid), str(place / "w.bin"), {name: str(folder) for name, folder in folders.items()}])
    done = subprocess.run(
        [*command, sys.executable, "-c", PROBE],
        input=sent,
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(Path(rrise.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    return folders, json.loads(done.stdout)


def outside(path: str, folder: Path, place: Path) -> bool:
    return not Path(os.path.abspath(place / path)).is_relative_to(folder)


def test_loading_opens_nothing_outside_the_folder_and_runs_nothing(tmp_path: Path) -> None:
    folders, report = probe(tmp_path, [])
    assert len(folders) > 70
    for name, folder in folders.items():
        said, events = report[name]
        assert said.startswith("bundle: expected "), name
        for event, path in events:
            assert event in ("open", "builtins.id"), (name, event, path)  # no import, exec, process or socket
            assert event != "open" or not outside(path, folder, tmp_path), (name, path)
    assert ["open", str(tmp_path / "w.bin")] in report["control"][1]  # the hook does see what lies outside
    assert outside(str(tmp_path / "w.bin"), folders["engine/external-above"], tmp_path)


def may_trace() -> bool:
    return shutil.which("strace") is not None and subprocess.run(["strace", "-qq", "true"], stderr=-3).returncode == 0


@pytest.mark.skipif(not may_trace(), reason="what libraries open is seen by strace, which is missing or not permitted")
def test_the_kernel_saw_nothing_outside_opened_either(tmp_path: Path) -> None:
    """ONNX Runtime opens files without Python's knowledge, so the system calls are watched."""
    log = tmp_path / "log"
    calls = "trace=open,openat,openat2,creat,execve,fork,vfork,connect,access,faccessat,faccessat2"
    folders, _ = probe(tmp_path, ["strace", "-f", "-qq", "-s", "4096", "-e", calls, "-o", str(log)])
    touched: dict[str, list[str]] = {"": []}
    current = touched[""]
    for line in log.read_text(errors="replace").splitlines():
        path = re.match(r'\d+ +(\w+|.*resumed>)[^"]*"?([^"]*)', line)[2]
        if path.startswith("/begin/"):
            current = touched.setdefault(path.removeprefix("/begin/"), [])
        else:
            current.append(path)
    del touched[""]
    assert set(touched) == {*folders, "control"}
    for name, folder in folders.items():
        assert touched[name], name  # each at least opened its own bundle.json
        assert [path for path in touched[name] if outside(path, folder, tmp_path)] == [], name
    assert str(tmp_path / "w.bin") in touched["control"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("link", "to be a plain file, got a link"),
        ("device", "to be a plain file, got a link"),
        ("pipe", "to be a plain file, got another kind"),
        ("folder", "to be a plain file, got another kind"),
        ("hollow", "of at most [0-9]+ bytes, got 5368709120"),
    ],
)
def test_what_a_file_system_can_do(folder: str, message: str, tmp_path: Path) -> None:
    folders = hostile_folders(tmp_path)
    for name in ("bundle.json", "engine.onnx"):
        assert re.search(message, refusal(folders[f"{folder}/{name}"]))


def test_no_refusal_leaves_a_file_open(tmp_path: Path) -> None:
    folders = hostile_folders(tmp_path)
    before = os.listdir("/dev/fd")
    for folder in folders.values():
        refusal(folder)
    assert len(os.listdir("/dev/fd")) == len(before)


def test_a_link_to_the_current_bundle_may_move_on_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are of the bundle that the link named first; the folder itself may be a link, its files may not."""
    old, new = write_bundle(tmp_path / "old", ENGINE), write_bundle(tmp_path / "new", VALID)
    current = tmp_path / "current"
    current.symlink_to(old)
    read = bundle_module.read_file

    def read_then_move(path: Path, limit: int, thing: str) -> bytes:
        data = read(path, limit, thing)
        current.unlink()
        current.symlink_to(new)
        return data

    monkeypatch.setattr(bundle_module, "read_file", read_then_move)
    assert load_bundle(current).sha256 == load_bundle(old).sha256 != load_bundle(new).sha256


def run_limited(code: str, *arguments: object) -> str:
    """Run Python code apart; return what it printed. A crash of the process fails the test."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(rrise.__file__).parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
import sys
from rrise.runtime import BundleError, load_bundle
{first}
try:
    load_bundle(sys.argv[1])
except BundleError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of one process as this test does")
def test_an_engine_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    os.truncate(folder / "engine.onnx", 3 << 30)
    first = """
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
"""
    said = run_limited(LOAD.format(first=first), folder)
    assert "expected memory for 3221225472 bytes of engine.onnx, got too little" in said


def test_deep_nesting_is_refused_before_a_recursive_parser_sees_it(tmp_path: Path) -> None:
    """A program may have raised Python's recursion limit: then the parser, on this input, would overflow the stack."""
    folder = write_bundle(tmp_path / "b", ENGINE)
    (folder / "bundle.json").write_bytes(b"[" * (4 << 20))
    said = run_limited(LOAD.format(first="sys.setrecursionlimit(10**8)"), folder)
    assert "shallow JSON, got deep nesting" in said


@pytest.mark.parametrize("depth", [100, 101])
def test_the_limit_of_nesting(depth: int) -> None:
    text = b'{"[[":' + b"[" * (depth - 1) + b'"[\\"["' + b"]" * (depth - 1) + b"}"
    if depth == 100:
        assert list(parse_json(text, "test")) == ["[["]
    else:
        with pytest.raises(ValueError, match="shallow JSON, got deep nesting"):
            parse_json(text, "test")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"{" + b",".join(b'"%x":0' % i for i in range(400_000)) + b',"0":0}', id="400,000 keys"),
        pytest.param(b'{"a":' + b"9" * (4 << 20) + b"}", id="a long integer"),
        pytest.param(b'{"a":0.' + b"3" * (4 << 20) + b"}", id="a long fraction"),
        pytest.param(b'{"a":"' + b"\\n" * (2 << 20) + b'"}', id="escapes"),
        pytest.param(b'"' * (4 << 20), id="quotes"),
        pytest.param(b"[" + b"[]," * (1 << 20) + b"[]]", id="brackets"),
    ],
)
def test_4_mib_take_work_in_proportion(data: bytes, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE)
    (folder / "bundle.json").write_bytes(data[: 4 << 20])
    # Seconds that this process computes, whatever else the machine does: 100 times what it takes, if that is linear.
    first = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (120, 120))"
    assert run_limited(LOAD.format(first=first), folder).startswith("bundle: expected ")


def test_an_engine_of_a_billion_empty_fields_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrise.runtime.engines.external_data.MAX_FIELDS", 100)
    graph = b"\x0a\x00" * 101
    folder = write_bundle(tmp_path / "b", b"\x3a" + bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7]) + graph)
    assert "an ONNX file of at most 100 fields, got more" in refusal(folder)


def test_an_engine_that_fails_when_it_runs(tmp_path: Path) -> None:
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [4, 1 << 50])
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["W"]),
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("MatMul", ["f", "W"], ["z"]),
        helper.make_node("ReduceMax", ["z"], ["m"], axes=[1]),
        helper.make_node("Concat", ["m", "m", "m"], ["y"], axis=1),
    ]
    folder = write_bundle(tmp_path / "b", model(nodes, [shape]).SerializeToString())
    # ONNX Runtime 1.23 finds it out when it folds constants, later ones when they run.
    with pytest.raises(ValueError, match=r"expected (logits|an ONNX model), got ") as caught:
        Certifier.load(folder)(np.zeros((2, 2), np.uint8))
    assert str(caught.value).isprintable()


def test_names_of_inputs_do_not_reach_the_terminal(tmp_path: Path) -> None:
    name = "\x1b[2J\n" + "x" * 10_000
    inputs = [("x", FLOAT, ["N", 1, 2, 2]), (name, FLOAT, [1])]
    data = model([helper.make_node("Flatten", ["x"], ["y"])], [], inputs, [("y", FLOAT, ["N", 4])])
    assert "expected one input, got 2 ('x, \\x1b[2J" in refusal(write_bundle(tmp_path / "b", data.SerializeToString()))
    dynamic = model([helper.make_node("Relu", ["x"], ["y"])], [], [("x", FLOAT, ["N", name])], [("y", FLOAT, ["N", 3])])
    assert "fixed but for N" in refusal(write_bundle(tmp_path / "c", dynamic.SerializeToString()))


def test_inspect_spells_out_what_a_terminal_would_obey(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", ENGINE, provenance={"\x1b[1m": {"by": "\x1b[2Ja", "list": ["\n"] * 13}})
    text = describe(folder)
    assert all(line.isprintable() for line in text.splitlines())
    assert r"'\x1b[2Ja'" in text


@pytest.fixture
def without_posix_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: no way to open without following a link, so the name is looked at before."""
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY"):
        monkeypatch.delattr(os, flag)


@pytest.mark.usefixtures("without_posix_flags")
def test_where_open_cannot_refuse_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = hostile_folders(tmp_path)
    for name in ("bundle.json", "engine.onnx"):
        assert f"expected {name} to be a plain file, got a link" in refusal(folders[f"link/{name}"])
        assert f"expected {name} to be a plain file, got a link" in refusal(folders[f"device/{name}"])
        assert f"expected {name} to be a plain file, got another kind" in refusal(folders[f"pipe/{name}"])
        assert f"expected {name} to be a plain file, got another kind" in refusal(folders[f"folder/{name}"])
    folder = write_bundle(tmp_path / "b", ENGINE)
    assert load_bundle(folder).engine.file == "engine.onnx"
    with pytest.raises(FileNotFoundError, match="expected a file"):
        read_file(tmp_path / "absent", 1, "test")
    bundle_writing._flush_folder(tmp_path)  # which Windows cannot: nothing is opened
    monkeypatch.setattr(os, "open", swapped_while_opened(folder / "engine.onnx", tmp_path / "secret" / "engine.onnx"))
    assert "expected engine.onnx to stay one file, got another while it was opened" in refusal(folder)


def swapped_while_opened(path: Path, target: Path) -> Callable[[Path, int], int]:
    """os.open, with the file replaced by a link between the look at its name and the opening."""
    opened = os.open

    def swap(name: Path, flags: int) -> int:
        if Path(name) == path:
            path.unlink()
            path.symlink_to(target)
        return opened(name, flags)

    return swap
