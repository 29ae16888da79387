"""A fault that the tests must catch: one replacement in one file, and the tests that then fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """One replacement in one file.

    Parameters
    ----------
    name : str
        What is wrong with the mutated code.
    file : str
        From the root of the tree.
    old, new : str
        The text that stands there exactly once, and what it becomes.
    tests : tuple of str
        Node ids of quick tests, of which at least one fails; the fewer, the sooner.
    arguments : tuple of str
        For pytest, such as ``("-n", "2")``.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    arguments: tuple[str, ...] = ()


def mutation(name: str, file: str, old: str, new: str, *tests: str, arguments: tuple[str, ...] = ()) -> Mutation:
    """Return a mutation that tests of the folder tests/ catch."""
    return Mutation(name, file, old, new, tuple(f"tests/{test}" for test in tests), arguments)
