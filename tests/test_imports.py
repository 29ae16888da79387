"""The rooms of the package import inwards only, and a device that certifies loads numpy and an engine, nothing more."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rrise"
MEETING_POINTS = {"stages", "recipe", "__main__", "verbs", "__init__", "inspection", "recipes"}
ALLOWED = {  # room -> the rooms it may import
    "class_names": set(),
    "data": {"images"},
    "images": {"class_names"},
    "devices": set(),
    "promise": set(),
    "views": set(),
    "targets": {"images", "devices", "views", "_C"},
    "training": {"images", "devices", "views"},
    "calibration": {"promise"},
    "runtime": {"class_names", "promise", "_C"},
    "audit": {"promise", "calibration", "runtime"},
    "attack": set(),
    "evaluation": {"promise", "calibration", "runtime", "_C"},
    "recipe_tables": set(),
    "options": set(),
    "ledger": set(),
}
HEAVY = ("torch", "scipy", "ray", "timm", "sklearn", "pyarrow", "pandas", "matplotlib", "pydantic", "onnx")


def rrise_imports(source: str) -> set[str]:
    """Names of the rooms that a module's source imports, in functions and under TYPE_CHECKING too."""
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rrise.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "rrise":
            rooms |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rrise."):
            rooms.add(node.module.split(".")[1])
    return rooms


def violations(sources: dict[str, str]) -> list[str]:
    found = []
    for name, source in sources.items():
        room = name.split("/")[0].removesuffix(".py")
        if room in MEETING_POINTS:
            continue
        found += [f"{name} imports {other}" for other in rrise_imports(source) - ALLOWED[room] - {room}]
    return found


def test_rooms_import_inwards() -> None:
    sources = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert len(sources) > 20
    assert violations(sources) == []


@pytest.mark.parametrize(
    "source",
    ["from rrise.training.networks import load_network", "import rrise.evaluation", "from rrise import targets"],
)
def test_a_wrong_import_is_found(source: str) -> None:
    assert len(violations({"runtime/certifier.py": f"def late():\n    {source}\n"})) == 1


def heavy_after(statement: str) -> list[str]:
    probe = f"import sys\n{statement}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "statement",
    [
        "import rrise",
        "import rrise.runtime",
        "import rrise; rrise.Certifier",
        "import rrise.__main__",
        "import rrise; rrise.Auditor; rrise.Fallback",
    ],
)
def test_runtime_and_help_load_nothing_heavy(statement: str) -> None:
    assert heavy_after(statement) == []


def test_the_probe_sees_a_heavy_import() -> None:
    assert heavy_after("import scipy") == ["scipy"]


def test_import_rrise_does_not_even_load_numpy() -> None:
    probe = "import sys, rrise; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_resolves() -> None:
    import rrise

    for name in rrise.__all__:
        assert getattr(rrise, name) is not None
    with pytest.raises(AttributeError, match="public names are"):
        rrise.smooth  # noqa: B018


def test_every_package_goes_into_the_wheel() -> None:
    """They are listed, since one of them, the C++ headers, lies elsewhere; nothing else notices one that is missing."""
    listed = set(re.findall(r'^  "(rrise[\w.]*)",$', (PACKAGE.parent / "pyproject.toml").read_text(), re.MULTILINE))
    there = {".".join(("rrise", *path.parent.relative_to(PACKAGE).parts)) for path in PACKAGE.rglob("__init__.py")}
    assert listed - {"rrise.include"} == there
