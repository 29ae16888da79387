"""The table of mutations fits the code, and the quick tier catches each."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
import run_mutations
from mutation import Mutation
from run_mutations import MUTATIONS, ROOT, attempt, place, sound

IDS = [mutation.name for mutation in MUTATIONS]
HERE = "rrise/calibration/guarantees.py"
OLD, NEW = "return M - allowed", "return M - allowed - 1"


def test_names_are_different() -> None:
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=IDS)
def test_the_mutated_text_stands_there_once(mutation: Mutation) -> None:
    file, text = place(mutation)
    assert text != file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        ast.parse(text)


@cache
def marks_of_tests(file: Path) -> dict[str, str]:
    """Return the marks of each test function of a file, and of the file itself, as text."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
    shared = [text for text in assigned if text.startswith("pytestmark")]
    return {
        node.name: " ".join([*map(ast.unparse, node.decorator_list), *shared])
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("mutation", MUTATIONS, ids=IDS)
def test_the_tests_that_catch_it_are_quick(mutation: Mutation) -> None:
    assert mutation.tests
    for test in mutation.tests:
        file, _, function = test.partition("::")
        marks = marks_of_tests(ROOT / file)
        assert function in marks, f"{test}: expected a test of {file}, got none of this name. It may have been renamed."
        assert "mark.slow" not in marks[function], f"{test}: expected a test of the quick tier, got a slow one"


def test_a_table_that_drifted_is_told() -> None:
    text = (ROOT / HERE).read_text(encoding="utf-8")
    for file, old, times in ((HERE, "no such text", 0), (HERE, "return", text.count("return")), ("gone.py", "a", 0)):
        with pytest.raises(
            ValueError, match=rf"the table drifted: expected '{old}' exactly once in {file}, got it {times} times"
        ):
            place(Mutation("drifted", file, old, "", ()))


def test_a_name_that_is_not_in_the_table_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_mutations.main(["nothing"]) == 2
    assert "expected names of the table, got nothing. Known: marginal rank" in capsys.readouterr().out


@pytest.mark.slow
def test_without_a_mutation_the_named_tests_pass() -> None:
    assert sound() == ""


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=IDS)
def test_it_is_caught(mutation: Mutation) -> None:
    verdict = attempt(mutation)
    assert verdict.test, f"{verdict.line}\n{verdict.output}"


@pytest.mark.slow
def test_what_is_not_caught_and_what_did_not_run_are_told(tmp_path: Path) -> None:
    """The runner can fail: a change that changes nothing, tests that are gone, and a rrise that is not the copy's."""
    test = "tests/test_guarantees.py::test_ranks_of_the_method_page"
    harmless = Mutation("harmless", HERE, OLD, "return M - allowed + 0", (test,))
    verdict = attempt(harmless)
    assert verdict.test == ""
    assert verdict.line.endswith("harmless -> NOT CAUGHT")
    assert attempt(Mutation("rank", HERE, OLD, NEW, (test,), ("-n", "2"))).test == test
    with pytest.raises(RuntimeError, match="expected tests that pass or fail, got exit status 4"):
        attempt(Mutation("gone", HERE, OLD, NEW, ("tests/test_guarantees.py::test_gone",)))
    slow = "tests/test_guarantees.py::test_guarantees_hold_over_many_settings"
    with pytest.raises(RuntimeError, match="expected tests that pass or fail, got exit status 5"):
        attempt(Mutation("slow", HERE, OLD, NEW, (slow,)))
    with pytest.raises(RuntimeError, match="expected tests that pass or fail, got exit status"):
        attempt(Mutation("broken", HERE, OLD, "return M -", (test,)))
    status, said = run_mutations.run_tests(tmp_path, [test])
    assert status == 1
    assert "expected rrise of the copy" in said
