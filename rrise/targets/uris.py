"""URIs of folders: names within them, and what of them may be printed."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote


def within(uri: str, name: str) -> str:
    """Return the URI or path of something in a folder: the name goes before the parameters of a URI."""
    if "://" not in uri:
        return f"{uri.rstrip('/')}/{name}"
    place, mark, parameters = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{parameters}"


def shown(uri: str) -> str:
    """Return a URI as it may be printed or logged: without credentials and parameters; a path as it is."""
    if "://" not in uri:
        return uri
    scheme, credentials, place = _parts(uri)
    return f"{scheme}://{'***@' if credentials else ''}{re.split('[?#]', place, maxsplit=1)[0].rstrip('/')}"


def _parts(uri: str) -> tuple[str, str, str]:
    scheme, _, rest = uri.partition("://")
    before, _, place = rest.rpartition("@")  # a key that was not escaped may hold a slash
    return (scheme, before, place) if before and (":" in before or "/" not in before) else (scheme, "", rest)


def without_secrets(text: str, uri: str) -> str:
    """Return a text that may quote the URI, without its credentials and parameters."""
    _, credentials, place = _parts(uri)
    parts = {part for part in re.split("[:/@]", credentials) if part}
    parts |= {value for _, value in parse_qsl(place.partition("?")[2]) if len(value) > 4}
    text = text.replace(uri, shown(uri))
    for part in sorted(parts | {unquote(part) for part in parts}, key=len, reverse=True):
        text = text.replace(part, "***")
    return text
