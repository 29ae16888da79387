"""Copies of what lies at a URI, on the local disk, where other libraries can open it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from rrise.targets.folder import Folder, flush

_CHUNK = 1 << 24


def local_copy(uri: str, into: Path) -> Path:
    """Return ``into/NAME``, a copy of the file, or folder of files, at a path or URI that ends in NAME.

    It has that name once it is complete and on disk, so that a copy that was killed is never taken for one; any number
    of processes may make it at once. A file or folder that has the name already is returned as it is, older or not:
    compare its sha256, or give an empty ``into``.

    Parameters
    ----------
    uri : str
        As for :meth:`Folder.at`.
    into : Path
        Local folder; made if there is none.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the URI, or a folder without files.
    ValueError
        If the URI has no name, or its folder holds folders.
    OSError
        If it cannot be read, or ``into`` cannot be written.
    """
    source = Folder.at(uri)
    name = PurePosixPath(source.path).name
    if name in ("", ".."):
        raise ValueError(f"uri: expected one that ends in the name of a file or folder, got {source.uri!r}.")
    target = into / name
    if target.exists():
        return target
    partial = into / f".{name}.{secrets.token_hex(8)}.partial"
    try:
        partial.mkdir(parents=True)
        if found := _copy(source, partial / name):
            _take_name(partial / name, target)
    except OSError as error:
        raise source.failure(error, source.uri, f"copied into {into}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not found:
        raise FileNotFoundError(errno.ENOENT, f"{source.uri}: expected a file or a folder of files. Correct the URI.")
    return target


def _copy(source: Folder, target: Path) -> bool:
    """Copy what is at the source, and return whether there was anything."""
    if source.files.get_file_info(source.path).type == fs.FileType.File:
        _copy_file(source.files, source.path, target)
        return True
    inside = source.files.get_file_info(fs.FileSelector(source.path, allow_not_found=True))
    if deeper := [info.base_name for info in inside if info.type != fs.FileType.File]:
        raise ValueError(f"{source.uri}: expected a folder of files, got one that holds the folder {deeper[0]!r}.")
    target.mkdir()
    for info in inside:
        _copy_file(source.files, info.path, target / info.base_name)
    flush(target)
    return bool(inside)


def _copy_file(files: Any, path: str, target: Path) -> None:
    with files.open_input_file(path) as source, target.open("xb") as stream:  # open_input_stream would decompress .gz
        shutil.copyfileobj(source, stream, _CHUNK)
        stream.flush()
        os.fsync(stream.fileno())


def _take_name(whole: Path, target: Path) -> None:
    try:
        os.rename(whole, target)
    except OSError:
        if not target.is_dir():  # else another process was first
            raise
    flush(target.parent)
