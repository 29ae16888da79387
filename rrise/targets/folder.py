"""A folder on a local disk or an object store, in which a file appears whole or not at all."""

from __future__ import annotations

import copy
import errno
import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from rrise.targets.uris import shown, without_secrets

_ADVICE = "Check address, bucket, credentials and network, then run again."


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder with one writer and any number of readers; made by :meth:`at`.

    Parameters
    ----------
    uri : str
        The place for messages: without credentials and parameters.
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
            For S3 ``s3://BUCKET/PATH``, and ``?endpoint_override=HOST:PORT&scheme=http`` for a server that is not
            Amazon's. Credentials belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws, not in the URI.
        filesystem : pyarrow.fs.FileSystem, optional
            Used instead of the one that the URI names; ``uri`` is then a path in it.

        Raises
        ------
        ValueError
            If ``pyarrow.fs`` does not know such a URI.
        OSError
            If what it names cannot be reached.
        """
        if filesystem is not None:
            return cls(uri, filesystem, uri.rstrip("/"))
        if re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", uri):
            raise ValueError(
                f"uri: expected a folder or a URI with two slashes, got {shown(uri)!r}. Write "
                f"{shown(uri).replace(':/', '://', 1)}, or ./{uri} for a folder of that name."
            )
        if "://" not in uri:
            return cls(uri, fs.LocalFileSystem(), str(Path(uri).absolute()))
        try:
            files, path = fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError) as error:
            reason = without_secrets(_reason(error), uri)  # pyarrow quotes what it cannot read: no `from error` either
            if isinstance(error, OSError):
                raise OSError(error.errno or errno.EIO, f"{shown(uri)} was not opened ({reason}). {_ADVICE}") from None
            text = f"uri: expected a folder or a URI of pyarrow.fs, got {shown(uri)!r} ({reason})."
            raise ValueError(text) from None
        return cls(shown(uri), _less_patient(files), path.rstrip("/"))

    def names(self) -> set[str]:
        """Return the names of the files in it, by one listing; none if there is no such folder.

        Raises
        ------
        FileNotFoundError
            If there is not even its bucket.
        OSError
            If it cannot be listed.
        """
        chosen = fs.FileSelector(self.path, allow_not_found=True)
        try:
            found = self.files.get_file_info(chosen)
            bucket = self.path.partition("/")[0]
            lost = not found and self._on_s3 and self.files.get_file_info(bucket).type == fs.FileType.NotFound
        except OSError as error:
            raise self.failure(error, self.uri, "listed") from error
        if lost:
            text = f"{self.uri}: there is no bucket {bucket!r}. Create it, or correct the URI."
            raise FileNotFoundError(errno.ENOENT, text)
        return {info.base_name for info in found if info.type == fs.FileType.File}

    def open(self, name: str) -> Any:
        """Return a file, open to be read at random; OSError, now or while it is read, carries an errno."""
        path = f"{self.path}/{name}"
        if self._is_local:
            return self.files.open_input_file(path)
        try:
            return _RemoteFile(self.files.open_input_file(path), self, name)
        except OSError as error:
            raise self.failure(error, f"{self.uri}/{name}", "read") from error

    def remove(self, name: str) -> None:
        """Remove a file, and the folder with it if that is local and empty then; OSError if it cannot be."""
        self.files.delete_file(f"{self.path}/{name}")
        if self._is_local:
            with suppress(OSError):  # something else is in it
                os.rmdir(self.path)

    def publish(self, name: str, content: Any) -> None:
        """Make a file of these bytes (or pyarrow.Buffer): complete and on disk after this, absent if this raises.

        On an object store it can also be complete although this raises: if only the answer was lost, or on Ctrl-C.

        Raises
        ------
        OSError
            If it cannot be written, for example because the disk is full or the network is cut.
        """
        if self._is_local:
            _publish_local(Path(self.path), name, content)
            return
        try:
            with ThreadPoolExecutor(1) as thread:  # Ctrl-C stops the main thread only, so that no stream ends early
                thread.submit(int).result()  # it runs now: of one that is interrupted at its start, no end is awaited
                thread.submit(self._put, f"{self.path}/{name}", content).result()
        except OSError as error:
            raise self.failure(error, f"{self.uri}/{name}", "written") from error

    def _put(self, path: str, content: Any) -> None:
        if not self._on_s3:  # which has no folders; marks of them would need rights outside this one
            self.files.create_dir(self.path, recursive=True)
        stream = self.files.open_output_stream(path)
        try:
            with stream:  # object stores publish on close
                stream.write(content)
        except BaseException:
            # Nothing in pyarrow gives an upload up: after a failed write, close can have published what came before.
            with suppress(OSError):
                if self.files.get_file_info(path).size != len(content):
                    self.files.delete_file(path)
            raise
        # A proxy or login page that answers everything with success would be taken for a store that keeps it.
        if (held := self.files.get_file_info(path).size) != len(content):
            has = "nothing" if held is None else f"{held:,} bytes"
            raise OSError(errno.EIO, f"the store answered with success, but holds {has} of {len(content):,} bytes")

    @property
    def _is_local(self) -> bool:
        return isinstance(self.files, fs.LocalFileSystem)

    @property
    def _on_s3(self) -> bool:
        return bool(self.files.type_name == "s3")

    def failure(self, error: OSError, where: str, what: str) -> OSError:
        """Return the error as it is told: where, what was not done, why, and what to do."""
        text = f"{where} was not {what} ({_reason(error)})."
        if what == "written":
            text += " Files finished before are kept."
        if error.errno is None:  # the network or the server: with an errno, nobody takes it for damaged content
            return OSError(errno.EIO, f"{text} {_ADVICE}")
        return OSError(error.errno, text)


class _RemoteFile(io.RawIOBase):
    """A file of an object store that is read through Python, so that what fails is reported as in a Folder."""

    def __init__(self, file: Any, folder: Folder, name: str) -> None:
        self._file, self._folder, self._where = file, folder, f"{folder.uri}/{name}"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int | None = -1) -> bytes:
        try:
            return bytes(self._file.read(None if size is None or size < 0 else size))
        except OSError as error:
            raise self._folder.failure(error, self._where, "read") from error

    def close(self) -> None:
        self._file.close()
        super().close()


def _less_patient(files: Any) -> Any:
    """Return S3 with pyarrow's usual 3 tries of a request: from a URI it makes 31, minutes if a server is silent."""
    if files.type_name != "s3":
        return files
    usual = copy.copy(files)  # pyarrow copies all that a Python caller can set, which the tries of a URI are not
    return usual if usual.equals(files) else files


def _reason(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or str(error).partition("\n")[0].rstrip(".")


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
    flush(folder)


def flush(folder: Path) -> None:
    """Put a local folder's names on disk."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)  # a new name itself must survive a loss of power
    finally:
        os.close(directory)
