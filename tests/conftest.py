"""Settings that every test shares: seeded Hypothesis, and a header that says which versions ran."""

from importlib.metadata import PackageNotFoundError, version

from hypothesis import settings

settings.register_profile("rrise", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("rrise")


def pytest_report_header() -> str:
    found = []
    for name in ("numpy", "onnxruntime", "torch", "timm", "scipy", "pyarrow"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)
