"""Files and JSON documents that are read as if an adversary had written them: bounded, strict, canonical."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, final

T = TypeVar("T")

MAX_JSON_BYTES = 4 << 20


def read_file(path: Path, limit: int, thing: str) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes, following no link.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a link, a folder, a device or a pipe, larger than `limit`, or cannot be read.
    """
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError(
                    f"{thing}: expected {path.name} to be a plain file, got another kind. Copy the file itself."
                )
            data = file.read(facts.st_size) if facts.st_size <= limit else b""
    except FileNotFoundError:
        raise FileNotFoundError(f"{thing}: expected a file {path}, got none. Check the path.") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(
                f"{thing}: expected {path.name} to be a plain file, got a link. Copy the file itself."
            ) from None
        raise ValueError(f"{thing}: expected a readable {path.name}, got {error.strerror!r}. Check the file.") from None
    if facts.st_size > limit:
        raise ValueError(
            f"{thing}: expected {path.name} of at most {limit} bytes, got {facts.st_size}. Check the file."
        )
    return data


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of the bytes, in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def parse_json(data: bytes, thing: str) -> dict[str, Any]:
    """Return the JSON object that the bytes hold; duplicate keys, NaN, infinities and huge integers are refused.

    Raises
    ------
    ValueError
        If the bytes are anything else.
    """

    def refuse(expected: str, got: str) -> NoReturn:
        raise ValueError(f"{thing}: expected {expected}, got {got}. Restore the file.")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(pairs)
        if len(unique) < len(pairs):
            keys = [key for key, _ in pairs]
            refuse("each key once", f"{brief(next(key for key in keys if keys.count(key) > 1))} twice")
        return unique

    def real(text: str) -> float:
        value = float(text)  # "1e999" is infinite
        return value if math.isfinite(value) else refuse("finite numbers", brief(text))

    def integer(text: str) -> int:
        return int(text) if len(text) <= 20 else refuse("integers of at most 20 characters", brief(text))

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
        raise ValueError(f"{self.thing}: expected {self.prefix}{key} to be {expected}, got {got}. {self.advice}")

    def exactly(self, *keys: str) -> None:
        """Refuse a missing or an unknown member."""
        for key in (*keys, *self.content):
            if key not in self.content:
                self.refuse(key, "present")
            if key not in keys:
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
