"""The fuzz targets of the bundle loader, without a fuzzer: the corpus, and seeded mutations of it."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
from reference_engines import bundle_content, canonical, linear_engine

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "tests" / "corpus" / "bundle"
SEEDS = {kind: [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())] for kind in ("document", "engine")}
VALID = {kind: [path.read_bytes() for path in sorted((CORPUS / kind).glob("valid*"))] for kind in SEEDS}
VALID["document"].append((CORPUS / "document" / "levels.json").read_bytes())
for seeds in (SEEDS, VALID):
    seeds["json_text"] = seeds["document"]


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "fuzz"))
    import bundle

    yield bundle
    sys.path.remove(str(ROOT / "fuzz"))


@pytest.mark.parametrize("target", SEEDS)
def test_the_corpus_keeps_the_promises(target: str, fuzz: ModuleType) -> None:
    assert len(SEEDS[target]) > 20
    for data in SEEDS[target]:
        fuzz.TARGETS[target](data)


@pytest.mark.parametrize(("target", "rounds"), [("document", 1500), ("engine", 2000), ("json_text", 1000)])
def test_seeded_mutations_keep_the_promises(target: str, rounds: int, fuzz: ModuleType) -> None:
    """On failure, the seed printed by pytest's assertion and this loop make the input again."""
    import mutations

    answers: Counter[str] = Counter()
    for seed in range(rounds):
        random = Random(seed)
        mutate = mutations.mutate_bytes if target == "engine" or random.random() < 0.3 else mutations.mutate_json
        data = random.choice(VALID[target] if random.random() < 0.5 else SEEDS[target])
        for _ in range(random.randint(1, 4)):
            data = mutate(data, random)
        try:
            refusal = fuzz.TARGETS[target](data)
        except Exception as error:
            pytest.fail(f"seed {seed} of {target}: {error!r} on {data!r}")
        expected, _, got = (refusal or "accepted").partition(", got ")
        answers[got[:9] if target == "engine" else expected] += 1
    accepted = answers["" if target == "engine" else "accepted"]
    assert accepted > rounds / 100  # the mutations are not so wild that only the first check is tried
    assert len(answers) >= {"document": 25, "engine": 5, "json_text": 4}[target], answers


def test_a_broken_promise_is_found(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrise.runtime.engines.external_data.references_external_data", lambda model: False)
    with pytest.raises(AssertionError, match="external data was overlooked"):
        fuzz.engine((CORPUS / "engine" / "external-subgraph.onnx").read_bytes())
    monkeypatch.setattr("rrise.runtime.bundle_schema.is_line", bool)
    hostile = canonical(bundle_content(linear_engine([[0.0] * 3] * 4, [0.0] * 3), statement="\x1b[2J"))
    with pytest.raises(AssertionError):
        fuzz.document(hostile)
