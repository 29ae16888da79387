"""Files and JSON documents that are read as if an adversary had written them: bounded, strict, canonical."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, final

T = TypeVar("T")

MAX_JSON_BYTES = 4 << 20
MAX_JSON_DEPTH = 100
_STRUCTURE = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)


def read_file(path: Path, limit: int, thing: str) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes, following no link.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a link, a folder, a device or a pipe, larger than `limit` or than the memory, or cannot be read.
    """
    try:
        before = None if hasattr(os, "O_NOFOLLOW") else os.lstat(path)
        if before is not None:  # Windows
            _check_plain(before, path, thing)
        with open(path, "rb", opener=_open_plainly) as file:
            facts = os.fstat(file.fileno())
            _check_plain(facts, path, thing)
            if before is not None and not os.path.samestat(before, facts):
                raise ValueError(
                    f"{thing}: expected {path.name} to stay one file, got another while it was opened. Try again."
                )
            data = file.read(facts.st_size) if facts.st_size <= limit else b""
    except FileNotFoundError:
        raise FileNotFoundError(f"{thing}: expected a file {path}, got none. Check the path.") from None
    except IsADirectoryError:
        raise _not_plain(path, thing, "another kind") from None
    except MemoryError:
        raise ValueError(
            f"{thing}: expected memory for {facts.st_size} bytes of {path.name}, got too little. Free some."
        ) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _not_plain(path, thing, "a link") from None
        raise ValueError(f"{thing}: expected a readable {path.name}, got {error.strerror!r}. Check the file.") from None
    if facts.st_size > limit:
        raise ValueError(
            f"{thing}: expected {path.name} of at most {limit} bytes, got {facts.st_size}. Check the file."
        )
    return data


def _open_plainly(path: str, _: int) -> int:
    # O_NONBLOCK: opening a named pipe must not wait for a writer. O_BINARY: Windows would translate line ends.
    flags = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOINHERIT", "O_BINARY")
    return os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in flags))


def _check_plain(facts: os.stat_result, path: Path, thing: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise _not_plain(path, thing, "a link" if stat.S_ISLNK(facts.st_mode) else "another kind")


def _not_plain(path: Path, thing: str, got: str) -> ValueError:
    return ValueError(f"{thing}: expected {path.name} to be a plain file, got {got}. Copy the file itself.")


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of the bytes, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def parse_json(data: bytes, thing: str) -> dict[str, Any]:
    """Return the JSON object that the bytes hold; duplicate keys, NaN, infinities and huge integers are refused.

    Takes time and memory in proportion to the bytes, whatever they are.

    Raises
    ------
    ValueError
        If the bytes are anything else, or nest more than `MAX_JSON_DEPTH` deep.
    """

    def refuse(expected: str, got: str) -> NoReturn:
        raise ValueError(f"{thing}: expected {expected}, got {got}. Restore the file.")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(pairs)
        if len(unique) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            refuse("each key once", f"{brief(next(key for key in counts if counts[key] > 1))} twice")
        return unique

    def real(text: str) -> float:
        value = float(text)  # "1e999" is infinite
        return value if math.isfinite(value) else refuse("finite numbers", brief(text))

    def integer(text: str) -> int:
        return int(text) if len(text) <= 20 else refuse("integers of at most 20 characters", brief(text))

    if _too_deep(data):  # the parser is recursive, and a program may have raised Python's limit beyond its stack
        refuse("shallow JSON", "deep nesting")
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=members,
            parse_float=real,
            parse_int=integer,
            parse_constant=lambda name: refuse("finite numbers", name),
        )
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        refuse("JSON in UTF-8", brief(str(error)))
    except RecursionError:
        refuse("shallow JSON", "deep nesting")
    if not isinstance(content, dict):
        refuse("a JSON object", brief(content))
    return content


def _too_deep(data: bytes) -> bool:
    """Return whether brackets outside texts nest deeper than `MAX_JSON_DEPTH`, up to where the bytes are JSON."""
    depth, in_text = 0, False
    for mark in _STRUCTURE.finditer(data):
        found = mark[0]
        if found == b'"':
            in_text = not in_text
        elif not in_text:
            depth += 1 if found in (b"[", b"{") else -1
            if depth > MAX_JSON_DEPTH:
                return True
    return False


def canonical_json(content: Mapping[str, Any], thing: str) -> bytes:
    """Return the one way to write `content`: sorted keys, two spaces of indent, exact floats, UTF-8, one last newline.

    Raises
    ------
    ValueError
        If it holds what JSON cannot say: NaN, an infinity, a lone surrogate, another type, too deep a nesting.
    """
    try:
        text = json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{thing}: expected plain JSON, got {brief(str(error))}. Convert or restore it.") from None


def brief(value: object, limit: int = 80) -> str:
    """Return the value for an error message: one line of about `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


@final
@dataclass(frozen=True)
class Fields:
    """The members of a JSON object, each read with its exact type (true is no integer, 1 is no real number)."""

    content: Mapping[str, Any]
    thing: str
    advice: str
    prefix: str = ""

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise the ValueError that says what was expected of a member, what it is and what to do."""
        got = brief(self.content[key]) if key in self.content else "nothing"
        name = self.prefix + (key if key.isidentifier() and len(key) <= 80 else brief(key))
        raise ValueError(f"{self.thing}: expected {name} to be {expected}, got {got}. {self.advice}")

    def exactly(self, *keys: str, optional: tuple[str, ...] = ()) -> None:
        """Refuse a missing or an unknown member; those that are ``optional`` may be missing."""
        for key in (*keys, *self.content):
            if key not in self.content:
                self.refuse(key, "present")
            if key not in keys and key not in optional:
                self.refuse(key, "absent")

    def value(self, key: str, kind: type[T], expected: str, holds: Callable[[T], bool]) -> T:
        """Return a member of exactly this type for which `holds` is true."""
        value = self.content.get(key)
        if type(value) is not kind or not holds(value):
            self.refuse(key, expected)
        return value

    def values(self, key: str, kind: type[T], expected: str, holds: Callable[[T], bool]) -> tuple[T, ...]:
        """Return a list whose items all have exactly this type and this property."""
        items = self.content.get(key)
        if type(items) is not list or not all(type(item) is kind and holds(item) for item in items):
            self.refuse(key, expected)
        return tuple(items)

    def section(self, key: str) -> Fields:
        """Return a member that is an object itself."""
        members = self.value(key, dict, "an object", lambda _: True)
        return Fields(members, self.thing, self.advice, f"{self.prefix}{key}.")
