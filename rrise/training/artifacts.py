"""A folder of files that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path


def publish(folder: Path, files: Mapping[str, bytes], *, overwrite: bool = False) -> None:
    """Write the files as a new folder: complete and on disk after this, absent if this raises.

    Parameters
    ----------
    folder : Path
    files : mapping of file name to bytes
    overwrite : bool
        Replace a folder of this name, which is lost only once the new one is complete.

    Raises
    ------
    FileExistsError
        If there is something of this name and ``overwrite`` is false.
    OSError
        If a file cannot be written, for example because the disk is full.
    """
    overwrite = overwrite and folder.is_dir()
    refuse_existing(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(8)
    partial, replaced = (folder.parent / f".{folder.name}.{token}.{state}" for state in ("partial", "replaced"))
    partial.mkdir()
    try:
        for name, content in files.items():
            with (partial / name).open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        _flush(partial)
        if overwrite and folder.exists():
            os.rename(folder, replaced)
        _take_name(partial, folder, overwrite)
    except BaseException:
        if replaced.exists() and not folder.exists():
            os.rename(replaced, folder)
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    _flush(folder.parent)


def _take_name(partial: Path, folder: Path, overwrite: bool) -> None:
    try:
        os.rename(partial, folder)
    except OSError:
        refuse_existing(folder, overwrite)  # made by another process meanwhile
        raise


def refuse_existing(folder: Path, overwrite: bool = False) -> None:
    """Raise FileExistsError if there is something of this name, unless it may be overwritten."""
    if os.path.lexists(folder) and not overwrite:
        raise FileExistsError(f"out: expected a new folder, got {folder}, which exists. Delete it or name another.")


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # names are only safe once their folder is on disk
    finally:
        os.close(descriptor)
