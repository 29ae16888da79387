"""Mutations of the fuzz targets' inputs: of any bytes, and of JSON by its members, so that most stay JSON."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    *(0, 1, -1, 2, 1 << 24, 1 << 53, (1 << 63) - 1, 1 << 63, -(1 << 63), 10**19),
    *(0.0, -0.0, 1.0, 5e-324, 2.2250738585072014e-308, 0.5, 0.9999999999999999, 1.0000000000000002, 1e308, -0.25),
    *("", "x", "0", "a\nb", "\x1b[2J", "\ud800", "é", "e\u0301", "\u202e", "x" * 300, "marginal", "rrise-bundle/1"),
    *("bundle.json", "Bundle.SIG", "..", "../x", "/x", "a\\b", "nul.onnx", "com1", "x.", "x ", ".x", "a:b", "．．"),
    *(True, False, None, [], {}, [[]], {"": 0}, [0.0, 1.0], [0.0, 0.5, 1.0], [1, 2, 2], ["a", "b"], "0" * 64),
)
BYTES = (b"", b"\0", b"\xff", b"\x7f", b"\x80", b'"', b"\\", b"[", b"{", b"}", b",", b":", b"1e999", b"NaN", b"-")


def mutate_bytes(data: bytes, random: Random) -> bytes:
    """Return the bytes with one to three runs of them replaced, doubled, moved or dropped."""
    for _ in range(random.randint(1, 3)):
        start = random.randint(0, len(data))
        end = min(len(data), start + random.choice((0, 1, 1, 2, 4, 8, 64)))
        other = random.choice((*BYTES, bytes([random.randrange(256)]), random.randbytes(4), data[start:end] * 2))
        if random.random() < 0.2:
            place = random.randint(0, len(data))
            other = data[place : place + 16]
        data = data[:start] + other + data[end:]
    return data


def mutate_json(data: bytes, random: Random) -> bytes:
    """Return the JSON with one to three of its values replaced, nudged, doubled or dropped; other bytes as bytes."""
    try:
        content = json.loads(data)
        for _ in range(random.randint(1, 3)):
            holder, key = random.choice(_places(content))
            _mutate_at(holder, key, random)
        return json.dumps(content, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"
    except (ValueError, OverflowError, RecursionError, IndexError):  # no JSON, not to be written, or no place
        return mutate_bytes(data, random)


def _places(content: Any) -> list[tuple[Any, Any]]:
    places: list[tuple[Any, Any]] = []
    waiting = [content]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            places += [(holder, key) for key in keys]
            waiting += [holder[key] for key in keys]
    return places


def _mutate_at(holder: Any, key: Any, random: Random) -> None:
    value, deed = deepcopy(holder[key]), random.randrange(8)
    if deed == 0:
        del holder[key]
    elif deed == 1:
        if isinstance(holder, list):
            holder.insert(key, value)
        else:
            holder[key + random.choice("xé\n ")] = value
    elif deed == 2:
        holder[key] = deepcopy(holder[random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))])
    elif deed < 5 and isinstance(value, float):
        holder[key] = random.choice(
            (math.nextafter(value, 2), math.nextafter(value, -2), -value, value * 2, int(value))
        )
    elif deed < 5 and type(value) is int:
        holder[key] = random.choice((value + 1, value - 1, -value, float(value)))
    else:
        holder[key] = deepcopy(random.choice(VALUES))
