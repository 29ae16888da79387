"""A folder on a local disk or an object store, in which a file appears whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder with one writer and any number of readers; made by :meth:`at`.

    Parameters
    ----------
    uri : str
        As the user gave it, for messages.
    files : pyarrow.fs.FileSystem
    path : str
        The folder's path in ``files``.
    """

    uri: str
    files: Any
    path: str

    @classmethod
    def at(cls, uri: str, filesystem: Any = None) -> Folder:
        """Return the folder at a local path or a URI that ``pyarrow.fs`` knows; it need not exist yet.

        Parameters
        ----------
        uri : str
        filesystem : pyarrow.fs.FileSystem, optional
            Used instead of the one that the URI names; ``uri`` is then a path in it.
        """
        if filesystem is not None:
            return cls(uri, filesystem, uri.rstrip("/"))
        if "://" not in uri:
            return cls(uri, fs.LocalFileSystem(), str(Path(uri).absolute()))
        try:
            files, path = fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid as error:
            raise ValueError(f"uri: expected a folder or a URI of pyarrow.fs, got {uri!r} ({error}).") from error
        return cls(uri, files, path.rstrip("/"))

    def names(self) -> set[str]:
        """Return the names of the files in it, by one listing; none if there is no such folder."""
        chosen = fs.FileSelector(self.path, allow_not_found=True)
        return {info.base_name for info in self.files.get_file_info(chosen) if info.type == fs.FileType.File}

    def open(self, name: str) -> Any:
        """Return a file, open to be read at random."""
        return self.files.open_input_file(f"{self.path}/{name}")

    def publish(self, name: str, content: Any) -> None:
        """Make a file of these bytes (or pyarrow.Buffer): complete and on disk after this, absent if this raises.

        Raises
        ------
        OSError
            If it cannot be written, for example because the disk is full.
        """
        if isinstance(self.files, fs.LocalFileSystem):
            _publish_local(Path(self.path), name, content)
            return
        self.files.create_dir(self.path, recursive=True)
        with self.files.open_output_stream(f"{self.path}/{name}") as stream:  # object stores publish on close
            stream.write(content)


def _publish_local(folder: Path, name: str, content: Any) -> None:
    partial = folder / f".{name}.partial"  # one writer, so the leftover of a killed run is simply written over
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, folder / name)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            text = f"{folder / name} was not written ({error.strerror}). Files finished before are kept."
            raise OSError(error.errno, text) from error
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)  # the new name itself must survive a loss of power
    finally:
        os.close(directory)
