"""Command-line options made from a stage's config dataclass, so that a flag, its default and its help stand once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Config = TypeVar("Config")


def add_options(
    parser: argparse.ArgumentParser,
    config: type[Any],
    prefix: str = "",
    title: str = "stage",
    later: Mapping[str, str] | None = None,
) -> None:
    """Add one flag for each field of a config dataclass to a parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    config : type
        Dataclass whose fields carry ``metadata={"help": ...}``.
    prefix : str
        Put before each flag's name: ``--data.source`` for the field ``source`` with prefix ``data.``.
    title : str
        Of the flags in the help, where there is no prefix.
    later : mapping of str to str, optional
        Fields whose default depends on other flags, and what their help says of it: they are parsed to None.
    """
    group = parser.add_argument_group(f"{prefix.rstrip('.') or title} options")
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        flag = f"--{prefix}{field.name.replace('_', '-')}"
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        chosen = (later or {}).get(field.name)
        shown = chosen or (json.dumps(default) if has_factory else _show(default))
        keywords: dict[str, Any] = {
            "dest": prefix + field.name,
            "default": None if chosen else default,
            "help": f"{field.metadata['help']} (default: {shown})".replace("%", "%%"),
        }
        kind = hints[field.name]
        if kind is bool:
            keywords["action"] = argparse.BooleanOptionalAction
        elif typing.get_origin(kind) is tuple:
            keywords |= {"type": typing.get_args(kind)[0], "nargs": "+", "metavar": field.name.upper()}
        elif typing.get_origin(kind) is dict:
            keywords |= {"type": _json_object, "metavar": "JSON"}
        else:
            keywords |= {"type": kind, "metavar": kind.__name__.upper()}
        group.add_argument(flag, **keywords)


def read_options(arguments: argparse.Namespace, config: type[Config], prefix: str = "") -> Config:
    """Return the config that the parsed flags of :func:`add_options` describe; its own checks raise ValueError."""
    values = {
        field.name: getattr(arguments, prefix + field.name)
        for field in dataclasses.fields(config)  # type: ignore[arg-type]  # every stage config is a dataclass
    }
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _show(value: object) -> str:
    return (" ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)) or "none"


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r} ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text!r}")
    return value
