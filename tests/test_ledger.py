"""The ledger tells missing, done, stale and damaged artifacts apart, and never loses one."""

from pathlib import Path

import pytest

from rrise.ledger import Ledger, tree_sha256


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "fit"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_text("one")
    (folder / "deep" / "b").write_text("two")
    return folder


def test_states(tmp_path: Path, artifact: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    facts = {"fit.lr": (0.1, 0.2), "fit.epochs": 3}
    assert ledger.verdict("fit", facts, tmp_path / "none").state == "missing"
    assert ledger.verdict("fit", facts, artifact).state == "missing"
    ledger.record("fit", facts, artifact)
    assert ledger.verdict("fit", facts, artifact).state == "done"
    stale = ledger.verdict("fit", facts | {"fit.epochs": 4}, artifact)
    assert (stale.state, stale.why) == ("stale", "fit.epochs was 3, now 4")
    gone = ledger.verdict("fit", {"fit.epochs": 3}, artifact)
    assert "fit.lr was [0.1, 0.2], now unset" in gone.why
    (artifact / "deep" / "b").write_text("twp")
    assert ledger.verdict("fit", facts, artifact).state == "damaged"


def test_set_aside_keeps_every_old_artifact(tmp_path: Path, artifact: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.record("fit", {}, artifact)
    first = ledger.set_aside("fit", artifact)
    assert (first / "a").read_text() == "one"
    assert not artifact.exists()
    artifact.mkdir()
    second = ledger.set_aside("fit", artifact)
    assert first != second
    assert ledger.verdict("fit", {}, artifact).state == "missing"


def test_tree_sha256_sees_names_content_and_place(tmp_path: Path, artifact: Path) -> None:
    before = tree_sha256(artifact)
    assert tree_sha256(artifact) == before
    (artifact / "a").rename(artifact / "c")
    renamed = tree_sha256(artifact)
    (artifact / "c").rename(artifact / "a")
    assert tree_sha256(artifact) == before
    (artifact / "a").write_text("onf")
    assert len({before, renamed, tree_sha256(artifact)}) == 3
    assert tree_sha256(artifact / "a") != tree_sha256(artifact / "deep" / "b")
    signed = tree_sha256(artifact)
    (artifact / "deep" / "bundle.sig").write_bytes(b"signature")
    assert tree_sha256(artifact) == signed  # signing a bundle does not make it another one


def test_seconds_are_of_all_stages_or_of_none(tmp_path: Path) -> None:
    ledger, artifact = Ledger(tmp_path / "ledger"), tmp_path / "artifact"
    artifact.write_text("made")
    ledger.record("fit", {"lr": 1}, artifact, seconds=2.5)
    assert ledger.seconds("fit") == 2.5
    assert ledger.seconds("fit", "export") is None
    ledger.record("export", {}, artifact)
    assert ledger.seconds("fit", "export") is None
    ledger.record("export", {}, artifact, seconds=0.5)
    assert ledger.seconds("fit", "export") == 3.0
    assert ledger.verdict("fit", {"lr": 1}, artifact).state == "done"  # a time is no fact
