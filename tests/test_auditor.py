"""The auditor returns the certifier's answers, checks a fair share of them, and remembers what it found."""

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_certifier import FakeCertifier, evaluate, stream
from own_processes import Run, end_all, wait_for
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import binom

from rrise import Auditor, Certifier
from rrise.audit.record import Record
from rrise.images import DataConfig, load_splits
from rrise.stages.service import ClassifierCounts, noisy_source

ALL = {"rate": 1.0, "n": 200, "seed": 0, "waiting": 100_000}


def wrong(images: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """The same images, a share of whose certificates is wrong."""
    images = images.copy()
    images[:, 0, 2] = np.random.default_rng(seed).random(len(images)) < share
    return images


def audited(images: np.ndarray, count: Callable[..., np.ndarray] = evaluate, **settings: object) -> Auditor:
    with Auditor(FakeCertifier(), count, **{**ALL, **settings}) as auditor:
        auditor(images)
    return auditor


@contextmanager
def setting(event: threading.Event) -> Iterator[None]:
    """Set an event at the end whatever happens: an auditor that closes waits for what waits for it."""
    try:
        yield
    finally:
        event.set()


def test_certificates_are_the_certifiers_own_and_images_are_copied() -> None:
    images, certifier, seen = stream(40, abstain=0.3), FakeCertifier(), []

    def count(image: np.ndarray, n: int, name: int) -> np.ndarray:
        seen.append(image.copy())
        return evaluate(image, n, name)

    go, plain = threading.Event(), images.copy()
    with Auditor(certifier, lambda *a: (go.wait(), count(*a))[1], **ALL) as auditor, setting(go):
        found = auditor(images)
        images[:] = 0  # a camera's driver reuses its buffer
        go.set()
        auditor.flush()
        expected = certifier(plain)
        for name in ("label", "radius", "p_lower", "q", "evaluations"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert auditor.certify_one(plain[3]) == certifier.certify_one(plain[3])
    np.testing.assert_array_equal(np.stack(seen)[:-1, :, :, 0], plain[~expected.abstained])
    status = auditor.status
    assert (status.served, status.audited, status.queued, status.error) == (41, 41, 0, "")
    assert status.abstained == expected.abstained.sum() + expected.abstained[3]
    assert status.evaluations == 200 * (41 - status.abstained)


def test_the_share_is_right_in_batches_of_any_size_and_blind_to_the_input() -> None:
    images, chosen = stream(6000), {}
    for size in (1, 7, 6000):
        with Auditor(FakeCertifier(), evaluate, **{**ALL, "rate": 0.05, "seed": 3}) as auditor:
            for first in range(0, len(images), size):
                auditor(images[first : first + size])
        chosen[size] = auditor.status.audited
    assert len(set(chosen.values())) == 1
    low, high = binom.isf([1 - 1e-6, 1e-6], 6000, 0.05)
    assert low <= chosen[1] <= high
    assert audited(wrong(images, 0.5), rate=0.05, seed=3).status.audited == chosen[1]


def test_an_alarm_is_raised_where_it_is_due_only() -> None:
    images = wrong(stream(1500), 0.02)
    good = audited(images).status
    assert (good.alarm, good.drift_alarm) == (False, False)
    assert good.promised_rate == pytest.approx(0.055)  # 0.04 / (1 - 0.2) and a tenth of it
    assert good.refuted == images[:, 0, 2].sum() > 10  # 100 of 200 refute 0.9, 198 or so do not
    assert good.refuted_rate_low < 0.02 < good.refuted_rate_high
    bad = audited(wrong(stream(400), 0.2)).status
    assert bad.alarm
    assert bad.miscoverage_at_least > 0.05
    assert "ALARM: certificates are wrong more often than promised" in bad.line
    assert not audited(wrong(stream(400, abstain=1.0), 0.2)).status.alarm  # no claims, no wrong ones


def test_a_shift_of_the_inputs_is_seen_without_a_single_evaluation() -> None:
    images = stream(1600, abstain=1.0)
    images[800:, 0, 1] //= 2  # q
    status = audited(images).status
    assert status.drift_alarm
    assert not status.alarm
    assert status.evaluations == 0


def test_a_full_queue_drops_and_counts() -> None:
    go = threading.Event()
    wait = {**ALL, "waiting": 5}
    with Auditor(FakeCertifier(), lambda *a: (go.wait(), evaluate(*a))[1], **wait) as auditor, setting(go):
        auditor(stream(100))
        assert 94 <= auditor.status.dropped <= 95  # 5 wait, and one may be in work
        go.set()
        auditor.flush()
        assert auditor.status.audited + auditor.status.dropped == 100
    auditor(stream(10))  # closed: certificates come, audits do not
    assert auditor.status.audited + auditor.status.dropped == auditor.status.served == 110
    auditor.close()


def test_errors_are_told_and_never_raised() -> None:
    def fails(image: np.ndarray, n: int, name: int) -> np.ndarray:
        if image[0, 2, 0]:
            raise RuntimeError("the GPU\nis gone")
        return evaluate(image, n, name)

    images = stream(30)
    images[10:, 0, 2] = 1
    status = audited(images, fails).status
    assert (status.audited, status.failed, status.broken) == (10, 20, True)
    assert status.error == "RuntimeError: the GPU is gone"
    again = audited(images[::-1], fails).status
    assert (again.audited, again.failed, again.error) == (10, 20, "")  # it works again

    def leaves(image: np.ndarray, n: int, name: int) -> np.ndarray:
        raise SystemExit(3)

    assert audited(images, leaves).status.failed == 30
    short = audited(images, lambda image, n, name: np.array([1, 2])).status
    assert short.failed == 30
    assert "evaluate: expected integer counts of 2 classes that sum to n = 200, got int64[2] with sum 3" in short.error


def facts(auditor: Auditor) -> tuple[object, ...]:
    s = auditor.status
    return (s.audited, s.refuted, s.abstained, s.e_value, s.largest_e_value, s.drift_e_value, s.evaluations, s.served)


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    images, path = wrong(stream(300, abstain=0.2), 0.1), tmp_path / "audit.json"
    whole = audited(images)
    first = audited(images[:120], state=path)
    between = facts(Auditor(FakeCertifier(), evaluate, **ALL, state=path))
    assert between == facts(first)
    second = audited(images[120:], state=path)
    found, expected = facts(second), facts(whole)
    assert found[:1] + found[2:3] + found[6:] == expected[:1] + expected[2:3] + expected[6:]
    assert second.status.refuted >= first.status.refuted
    assert list(tmp_path.iterdir()) == [path]
    record = Record.parse(path.read_bytes())
    assert record.start == 3
    assert record.evidence.value == second.status.e_value


def test_no_random_number_is_used_twice_over_restarts_and_crashes(tmp_path: Path) -> None:
    names: list[int] = []
    ties: list[float] = []

    def count(image: np.ndarray, n: int, name: int) -> np.ndarray:
        names.append(name)
        return evaluate(image, n, name)

    for _ in range(3):
        auditor = Auditor(FakeCertifier(), count, **ALL, state=tmp_path / "audit.json", save_every=1000)
        auditor(stream(50))
        auditor._backlog._queue.join()  # and then it dies without a word
        ties.append(float(auditor._backlog._ties.random()))
    assert len(set(names)) == len(names) == 150
    assert max(names) < 2**56
    assert len(set(ties)) == 3
    assert auditor.status.audited == 50  # what a crash forgets, it forgets as a whole


def test_the_state_is_saved_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    auditor = Auditor(FakeCertifier(), evaluate, **ALL, state=path, save_every=10)
    auditor(stream(25))
    auditor._backlog._queue.join()
    assert Record.parse(path.read_bytes()).evidence.audits == 20
    auditor.flush()
    assert Record.parse(path.read_bytes()).evidence.audits == 25


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"refuted": 0', '"refuted": 1'), "expected sha256 to be its content's"),
        (lambda text: text[:-100], "expected JSON in UTF-8"),
        (lambda text: "[]", "expected a JSON object"),
        (lambda text: text.replace("rrise-audit/1", "rrise-audit/9"), "expected format to be 'rrise-audit/1'"),
    ],
)
def test_a_damaged_state_is_refused(tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    path = tmp_path / "audit.json"
    audited(stream(10), state=path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=f"^audit state: {message}") as caught:
        Auditor(FakeCertifier(), evaluate, state=path)
    assert "\n" not in str(caught.value)


def resealed(path: Path, change: Callable[[dict], None]) -> None:
    """Change a state file and give it its digest again."""
    from rrise.runtime.bundle_schema import digest
    from rrise.runtime.documents import canonical_json

    content = json.loads(path.read_text())
    change(content)
    content["sha256"] = digest(content)
    path.write_bytes(canonical_json(content, "test"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["evidence"]["capital"].pop(), "expected evidence.capital to be 32 amounts"),
        (lambda c: c["evidence"].update(refuted=11), "expected evidence.refuted to be 0 to audits = 10"),
        (lambda c: c["drift"]["counts"].append(0), "expected drift.counts to be 257 counts"),
        (lambda c: c["counters"].update(served=-1), "expected counters.served to be a count"),
        (lambda c: c["evidence"].update(largest=0.5), "expected evidence.largest to be at least 1.0"),
        (lambda c: c.update(start=1 << 24), "expected start to be 1 to"),
    ],
)
def test_an_impossible_state_is_refused(tmp_path: Path, change: Callable[[dict], None], message: str) -> None:
    path = tmp_path / "audit.json"
    audited(stream(10), state=path)
    resealed(path, change)
    with pytest.raises(ValueError, match=f"^audit state: {message}"):
        Auditor(FakeCertifier(), evaluate, state=path)


def test_the_state_of_another_bundle_or_promise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    audited(stream(10), state=path)
    with pytest.raises(ValueError, match=r"audit state: expected that of bundle b+, got a+ in"):
        Auditor(FakeCertifier(sha256="b" * 64), evaluate, state=path)
    with pytest.raises(ValueError, match=r"audit state: expected that of promised rate m 0\.07, got 0\.055"):
        Auditor(FakeCertifier(), evaluate, b=0.02, state=path)


def test_two_auditors_do_not_share_a_state(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    one = Auditor(FakeCertifier(), evaluate, **ALL, state=path, save_every=1)
    two = Auditor(FakeCertifier(), evaluate, **ALL, state=path, save_every=1)
    one(stream(5))
    one._backlog._queue.join()
    assert "another auditor uses the file" in one.status.error
    with pytest.raises(ValueError, match="another auditor uses the file"):
        one.close()
    two(stream(7))
    two.close()
    assert Record.parse(path.read_bytes()).evidence.audits == 7


def test_many_threads_are_counted_and_audited_once() -> None:
    with Auditor(FakeCertifier(), evaluate, **{**ALL, "rate": 0.2}) as auditor:
        threads = [threading.Thread(target=lambda: [auditor(stream(3)) for _ in range(100)]) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    status = auditor.status
    assert status.served == 1800
    low, high = binom.isf([1 - 1e-6, 1e-6], 1800, 0.2)
    assert low <= status.audited <= high
    assert status.dropped == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_certifies_and_does_not_hang() -> None:
    auditor = Auditor(FakeCertifier(), evaluate, **ALL)
    child = os.fork()
    if not child:
        found = auditor(stream(4))
        auditor.flush()
        auditor.close()
        os._exit(0 if len(found) == auditor.status.dropped == 4 else 1)
    try:
        pid, status = wait_for(lambda: (found := os.waitpid(child, os.WNOHANG))[0] and found, "end of the child")
    except AssertionError:
        end_all(child)
        raise
    assert (pid, status) == (child, 0)
    auditor.close()


UNCLOSED = """
import sys, threading, time
ending = threading.Event()
def end():  # thread pools have ended, and the main thread has not yet
    ending.set()
    while auditor.status.dropped == 0:
        time.sleep(0.01)
threading._register_atexit(end)
sys.path.insert(0, sys.argv[1])
from concurrent.futures import ThreadPoolExecutor
import numpy
from fake_certifier import FakeCertifier, stream
from rrise import Auditor
from rrise.audit.record import Record
def count(image, n, name):
    if auditor.status.audited == 20:
        ending.wait()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: (time.sleep(0.02), numpy.array([0, n]))[1]).result()
auditor = Auditor(FakeCertifier(), count, rate=1.0, n=200, state=sys.argv[2], save_every=1000)
auditor(stream(200))
while auditor.status.audited < 20:
    time.sleep(0.01)
"""


def test_a_process_that_ends_without_close_ends_well_and_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    command = [sys.executable, "-c", UNCLOSED, Path(__file__).parent, path]
    with Run(command) as run:
        assert (run.status(), run.complained) == (0, "")
    record = Record.parse(path.read_bytes())
    assert (record.evidence.audits, record.dropped, record.served, record.failed) == (20, 180, 200, 0)


def test_metrics_are_prometheus_text() -> None:
    auditor = audited(wrong(stream(200, abstain=0.2), 0.1))
    status = auditor.status
    families = list(text_string_to_metric_families(auditor.metrics()))
    found = {sample.name: sample.value for family in families for sample in family.samples}
    for name in ("served", "audited", "abstained", "refuted", "dropped", "failed", "evaluations"):
        assert found[f"rrise_audit_{name}_total"] == getattr(status, name)
    for name in ("e_value", "largest_drift_e_value", "refuted_rate_high", "alarm", "queued", "promised_rate"):
        assert found[f"rrise_audit_{name}"] == float(getattr(status, name))
    assert len(found) == 20
    assert all(family.documentation.endswith(".") for family in families)
    (info,) = [sample for family in families for sample in family.samples if sample.name == "rrise_audit_bundle_info"]
    assert info.labels == {"sha256": "a" * 64}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0.0}, "rate: expected a share of inputs"),
        ({"alpha": 1.0}, "alpha: expected a probability of a false alarm"),
        ({"b": 0.5}, "b: expected a probability"),
        ({"n": 7}, "n: expected at least 8 evaluations"),
        ({"waiting": 0}, "waiting: expected at least 1"),
        ({"save_every": 0}, "save_every: expected at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Auditor(FakeCertifier(), evaluate, **settings)


def test_a_guarantee_about_some_inputs_only_is_refused() -> None:
    with pytest.raises(ValueError, match="audit: expected a guarantee about all inputs"):
        Auditor(FakeCertifier("conditional-on-certified"), evaluate)


def test_a_real_bundle_is_audited_by_its_base_classifier(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    run = finished[0]
    certifier = Certifier.load(run / "bundles/scaled")
    images = load_splits(DataConfig()).test.images[:60]
    counts = ClassifierCounts(noisy_source(certifier.bundle, run / "classifier", seed=1))
    again = ClassifierCounts(noisy_source(certifier.bundle, run / "classifier", seed=1))
    one = images[0][..., None]
    np.testing.assert_array_equal(counts(one, 150, 5), again(one, 150, 5))
    assert (counts(one, 5000, 5) != counts(one, 5000, 6)).any()
    with Auditor(certifier, counts, rate=1.0, n=100, seed=0, state=tmp_path / "audit.json") as auditor:
        found = auditor(images)
    status = auditor.status
    assert status.error == ""
    assert (status.audited, status.abstained) == (60, int(found.abstained.sum()))
    assert 0 < status.abstained < 60
    assert not status.alarm
    with pytest.raises(ValueError, match="classifier: expected the one that the bundle was made from"):
        noisy_source(certifier.bundle, run / "surrogate")


def test_a_curve_that_was_raised_is_found(finished: tuple[Path, list[str]]) -> None:
    """The bundle as it was calibrated keeps its promise, the same one with a bolder curve does not."""
    run = finished[0]
    honest = Certifier.load(run / "bundles/scaled")
    curve = replace(honest.bundle.curve, knots_p=np.full_like(honest.bundle.curve.knots_p, 0.95))
    bold = Certifier(replace(honest.bundle, curve=curve), honest.engine)
    counts = ClassifierCounts(noisy_source(honest.bundle, run / "classifier", seed=1))
    images = load_splits(DataConfig()).test.images[:120]
    for certifier, alarm in ((honest, False), (bold, True)):
        with Auditor(certifier, counts, rate=1.0, n=100, seed=0, waiting=120) as auditor:
            auditor(images)
        assert (auditor.status.audited, auditor.status.alarm) == (120, alarm)


def test_what_the_documentation_shows_runs(
    finished: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "docs/audit.md").read_text(), re.DOTALL)
    code = "".join(blocks).replace("n=10_000", "n=200").replace("n=1000", "n=100").replace("rate=0.01", "rate=0.2")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/digits").symlink_to(finished[0])
    monkeypatch.chdir(tmp_path)
    names = {"images": load_splits(DataConfig()).test.images[:20]}
    exec(code, names)
    assert len(blocks) == 3
    assert "rrise_audit_served_total 20.0" in names["text"]
    assert len(names["found"]) == len(names["cascade"](names["images"])) == 20
    assert "gets a wrong certificate with probability at most" in capsys.readouterr().out
