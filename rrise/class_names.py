"""Which names a class can have: those that a bundle can store and a terminal shows as they are."""

from __future__ import annotations

from collections.abc import Sequence


def is_line(text: str) -> bool:
    r"""Return whether the text is one line that a terminal shows as it is: not empty, no control characters.

    >>> is_line("T-shirt/top"), is_line(""), is_line("two\nlines")
    (True, False, False)
    """
    return bool(text) and text.isprintable()


def require_class_names(names: Sequence[str]) -> None:
    """Raise ValueError, naming the first wrong one, unless all names are different lines."""
    for name in names:
        if not is_line(name):
            raise ValueError(
                f"classes: expected names of one printable line each, got {name!r}. Rename that class: a bundle could "
                "not store it."
            )
    if len(set(names)) < len(names):
        repeated = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(
            f"classes: expected different names, got {repeated!r} twice. Tell them apart, as 'crane (bird)' and "
            "'crane (machine)'."
        )
