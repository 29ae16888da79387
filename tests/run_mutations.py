"""Mutations of the code, each of which a test of the quick tier must catch: the table, and the runner that tries them.

A mutation is one exact replacement in one file; `mutated_statistics` and `mutated_checks` list them. The runner copies
the tree, applies it there, and runs the tests that the table names with the mutated package imported. They pass without
it, in such a copy: `sound` shows that first, so that what fails afterwards fails because of the mutation.

    python tests/run_mutations.py [NAME ...]

prints the table of these mutations, or of all, and exits with 1 if one is not caught. `test_mutations` holds the table
to the code in the quick tier and runs it in the full one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mutated_checks import CHECKS
from mutated_statistics import STATISTICS
from mutation import Mutation

MUTATIONS = (*STATISTICS, *CHECKS)
ROOT = Path(__file__).parent.parent
COPIED = ("rrise", "tests", "csrc", "pyproject.toml")
"""What the named tests read of the tree."""
OPTIONS = ("-x", "-q", "--tb=line", "-rfE", "--no-header", "-p", "no:cacheprovider")
SECONDS = 1800
DRIVER = """
import pathlib, sys
import pytest, rrise
found, expected = pathlib.Path(rrise.__file__).resolve().parent.parent, pathlib.Path(sys.argv[1]).resolve()
if found != expected:
    sys.exit(f"mutations: expected rrise of the copy {expected}, got that of {found}. Uninstall it or fix PYTHONPATH.")
sys.exit(pytest.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Verdict:
    """What came of a mutation.

    Parameters
    ----------
    name : str
    test : str
        Node id of the test that failed; "" where none did.
    seconds : float
        Of the copy and the tests.
    output : str
        Of pytest.
    """

    name: str
    test: str
    seconds: float
    output: str

    @property
    def line(self) -> str:
        """One row of the table."""
        return f"{self.seconds:6.1f} s  {self.name} -> {f'caught by {self.test}' if self.test else 'NOT CAUGHT'}"


def place(mutation: Mutation, root: Path = ROOT) -> tuple[Path, str]:
    """Return the file and its mutated text, or raise ValueError if the table no longer fits the code."""
    file = root / mutation.file
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if (found := text.count(mutation.old)) != 1:
        raise ValueError(
            f"mutation {mutation.name!r}: the table drifted: expected {mutation.old!r} exactly once in "
            f"{mutation.file}, got it {found} times. Write the mutation for the code as it is now."
        )
    return file, text.replace(mutation.old, mutation.new)


@contextmanager
def copied() -> Iterator[Path]:
    """Make a copy of the tree for as long as it is used, without bytecode that might be older than a mutation."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, Path(folder) / name)
        yield Path(folder)


def run_tests(root: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Run pytest on a copy; its exit status and what it said."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment = inherited | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", DRIVER, str(root), *OPTIONS, *arguments]
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS
    )
    return done.returncode, done.stdout


def attempt(mutation: Mutation) -> Verdict:
    """Apply a mutation to a copy and run its tests there.

    Raises
    ------
    ValueError
        If the table does not fit the code.
    RuntimeError
        If the tests neither passed nor failed: they are gone, are slow, or could not be collected or set up.
    """
    started = time.perf_counter()
    with copied() as root:
        file, text = place(mutation, root)
        file.write_text(text, encoding="utf-8")
        status, said = run_tests(root, [*mutation.tests, *mutation.arguments])
    failed = re.search(r"^FAILED (.+?)(?: - .*)?$", said, re.MULTILINE)
    if status and not (status in (1, 2) and failed):  # 2: pytest-xdist stops at the first failure as if interrupted
        raise RuntimeError(
            f"mutation {mutation.name!r}: expected tests that pass or fail, got exit status {status} of pytest "
            f"{' '.join(mutation.tests)}:\n{said}"
        )
    return Verdict(mutation.name, failed[1] if status and failed else "", time.perf_counter() - started, said)


def sound() -> str:
    """Run all tests that the table names in a copy without a mutation; what pytest said if one fails, "" if none."""
    with copied() as root:
        status, said = run_tests(root, sorted({test for mutation in MUTATIONS for test in mutation.tests}))
    return said if status else ""


def main(names: Sequence[str]) -> int:
    """Try the mutations of these names, or all, and print the table; 1 if one is not caught."""
    known = {mutation.name: mutation for mutation in MUTATIONS}
    if unknown := sorted(set(names) - set(known)):
        print(f"mutations: expected names of the table, got {', '.join(unknown)}. Known: {', '.join(known)}.")
        return 2
    started = time.perf_counter()
    if said := sound():
        print(f"mutations: expected the named tests to pass without a mutation, got\n{said}")
        return 1
    print(f"{time.perf_counter() - started:6.1f} s  no mutation: all named tests pass", flush=True)
    missed = 0
    for name in names or known:
        verdict = attempt(known[name])
        print(verdict.line, flush=True)
        missed += not verdict.test
    print(f"{missed} of {len(names or known)} not caught" if missed else f"all {len(names or known)} caught")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
