"""What a recipe's TOML says, before it is checked: settings, variants of them, and a scale that a laptop can do."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Tree = dict[str, Any]
"""Tables of a TOML document; those of a recipe are one a stage."""

_OVERLAYS = ("scale", "variants")
_COUNTED = {
    "data.train": "training images",
    "data.targets": "target images",
    "data.calibration": "calibration images",
    "data.test": "test images",
    "train.epochs": "epochs",
    "sample.n": "noisy draws (n)",
    "targets.n": "draws of a target",
    "calibrate.n": "draws of a calibration image",
    "targets.views": "views of a target image",
    "evaluate.n_reference": "reference draws",
}
_NETWORK = ("network", "options")
_SILENT = ("device", "threads", "executor", "sample.batch_size", "sample.shard_size")
"""Keys, of any table or of one, that say where and how a run happens: no part of its scale."""


def built_in() -> list[str]:
    """Return the names of the recipes that come with rrise."""
    entries = resources.files("rrise.recipes").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in entries if entry.name.endswith(".toml"))


@dataclass(frozen=True)
class Tables:
    """A recipe's settings, and the settings that a variant or a scale puts over them."""

    source: str
    settings: Tree
    variants: Mapping[str, Tree]
    scale: Tree

    def chosen(self, variant: str, scaled: bool) -> tuple[Tree, Tree]:
        """Return the settings of a variant (none: ""), and what is to be put over them if the run is scaled.

        Raises
        ------
        ValueError
            If there is no such variant, or no scale.
        """
        if variant and variant not in self.variants:
            known = ", ".join(self.variants) or "none"
            raise ValueError(f"variant: expected one of recipe {self.source}'s variants ({known}), got {variant!r}.")
        if scaled and not self.scale:
            raise ValueError(
                f"scale: expected a [scale] table in recipe {self.source}, got none. Shrink it by --set, e.g. --set "
                "sample.n=500."
            )
        tree = copy.deepcopy(self.settings)
        out = tree.get("out")
        if variant:
            tree = overlaid(tree, {"out": f"{out}-{variant}", **self.variants[variant]})
        return tree, {"out": f"{tree.get('out')}-scaled", **self.scale} if scaled else {}


def read_tables(source: str) -> Tables:
    """Return the tables of a TOML file, or of a built-in recipe.

    Raises
    ------
    FileNotFoundError
        No such file and no such built-in recipe.
    ValueError
        Not TOML, or ``scale`` or a variant is not a table.
    """
    path = Path(source)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif source in built_in():
        text = resources.files("rrise.recipes").joinpath(f"{source}.toml").read_text(encoding="utf-8")
    else:
        raise FileNotFoundError(f"recipe: expected a TOML file or one of {', '.join(built_in())}, got {source!r}.")
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"recipe {source}: expected TOML, got a syntax error: {error}.") from error
    scale, variants = (_table(settings.pop(name, {}), name, source) for name in _OVERLAYS)
    for name, table in variants.items():
        _table(table, f"variants.{name}", source)
    return Tables(source, settings, variants, scale)


def _table(found: object, name: str, source: str) -> Tree:
    if not isinstance(found, dict):
        raise ValueError(f"recipe {source}: expected [{name}] to be a table of settings, got {found!r}.")
    return found


def overlaid(tree: Tree, over: Tree) -> Tree:
    """Return settings with others over them: stage tables key by key, and a key's value (``options``) as a whole."""
    result = copy.deepcopy(tree)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = {**result[name], **value} if both else copy.deepcopy(value)
    return result


def overridden(tree: Tree, override: str) -> None:
    """Put one ``key=value`` into settings, in place; ValueError if it is none, or its key leads nowhere."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"--set: expected key=value such as sample.n=500, got {override!r}.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = key.split(".")
    if (tables or [last])[0] in _OVERLAYS:
        raise ValueError(
            f"--set {override}: expected a setting such as sample.n, got one of [{tables[0] if tables else last}]. "
            "Set the setting itself: --set comes after --variant and --scale."
        )
    for name in tables:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise ValueError(f"--set {override}: expected {name} to be a table of the recipe, got {tree!r}.")
    tree[last] = value


def describe_scale(full: Any, scaled: Any, over: Tree) -> str:
    """Return what a scale changed, in words: what is run, of what the full recipe says.

    Parameters
    ----------
    full, scaled : Recipe
        The recipe without its scale, and as it will be run.
    over : dict
        The scale's settings. Compared are these, and the numbers of images, draws and epochs whoever set them.
    """
    named = [f"{table}.{key}" for table, keys in over.items() if isinstance(keys, dict) for key in keys]
    before, now = (_values(recipe, {*_COUNTED, *named}) for recipe in (full, scaled))
    counted = [item for item in _COUNTED.items() if item[0] != "targets.n" or scaled.targets.n]
    said = [f"{now[name]:,} of {before[name]:,} {unit}" for name, unit in counted if now[name] != before[name]]
    if any(getattr(full.train, key) != getattr(scaled.train, key) for key in _NETWORK):
        said.append(f"the network {_network(scaled.train)} instead of {_network(full.train)}")
    told = {*_COUNTED, *_SILENT, *(f"train.{key}" for key in _NETWORK)}
    said += [
        f"{name} = {_plain(now[name])} instead of {_plain(before[name])}"
        for name in named
        if now[name] != before[name] and not {name, name.partition(".")[2]} & told
    ]
    return f"scaled down: {', '.join(said)}" if said else "scaled down in nothing: every setting is the recipe's own"


def _values(recipe: Any, names: set[str]) -> Tree:
    found = {name: getattr(getattr(recipe, name.partition(".")[0]), name.partition(".")[2], None) for name in names}
    drawn = {"targets.n": recipe.targets.n or recipe.sample.n, "calibrate.n": recipe.calibrate.draws(recipe.sample.n)}
    return found | {"data.targets": recipe.data.fitted} | drawn


def _network(train: Any) -> str:
    options = ", ".join(f"{name}={_plain(value)}" for name, value in train.options.items())
    return f"{train.network.rpartition(':')[2]}({options})"


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_plain(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
