"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rrise.training.artifacts import refuse_existing


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``out`` when the block ends, and is gone if it raises."""
    refuse_existing(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
