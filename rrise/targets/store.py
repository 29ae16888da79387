"""Counts on disk: Parquet shards beside a manifest, each written whole or not at all, so that a run can be resumed."""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rrise.targets.counts import CountTable
from rrise.targets.folder import Folder
from rrise.targets.manifest import Manifest
from rrise.targets.shards import DamagedShardError, decode_shard, encode_shard, require_shard, shard_name

__all__ = ["CountStore", "CountTable", "Manifest"]

_MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class CountStore:
    """A folder of count shards, on a local disk or an object store; made by :meth:`open`.

    Each shard is one Parquet file, which appears under its name only when it is complete. There is one writer and any
    number of readers.
    """

    folder: Folder
    manifest: Manifest

    @classmethod
    def open(cls, uri: str | Path, manifest: Manifest | None = None, *, filesystem: Any = None) -> CountStore:
        """Return the store at a place; with a manifest, make it there or check that it holds the same facts.

        Parameters
        ----------
        uri : str or Path
            A local folder, or a URI that ``pyarrow.fs`` knows (``s3://``, ``gs://``, ...).
        manifest : Manifest, optional
            Without one the store must exist.
        filesystem : pyarrow.fs.FileSystem, optional
            Used instead of the one that the URI names; ``uri`` is then a path in it.

        Raises
        ------
        FileNotFoundError
            If there is no store and no manifest to make one.
        ValueError
            If the store's manifest differs: each field and both its values are named.
        """
        folder = Folder.at(str(uri), filesystem)
        if _MANIFEST in folder.names():
            with folder.open(_MANIFEST) as file:
                found = Manifest.from_json(file.read(), f"{folder.uri}/{_MANIFEST}")
            if manifest is not None:
                manifest.require_match(found, folder.uri)
            return cls(folder, manifest or found)
        if manifest is None:
            raise FileNotFoundError(f"counts: {folder.uri} holds no {_MANIFEST}. Run `rrise sample` first.")
        folder.publish(_MANIFEST, manifest.to_json())
        return cls(folder, manifest)

    @property
    def uri(self) -> str:
        """The place it was opened at."""
        return self.folder.uri

    @property
    def shards(self) -> int:
        """Number of shards, finished or not."""
        return self.manifest.shards

    @property
    def sha256(self) -> str:
        """Digest of the counts, the same however they were sharded; of several views, that of their digests."""
        each = [self.table(view).sha256 for view in range(self.manifest.views)]
        return each[0] if len(each) == 1 else hashlib.sha256(f"rrise-views/1,{','.join(each)}".encode()).hexdigest()

    def missing(self, opened: range | None = None) -> list[int]:
        """Return the shards that are not finished, in order.

        A damaged (truncated) shard is named in a warning and counts as missing, so that it is computed again.

        Parameters
        ----------
        opened : range, optional
            Shards whose files are opened; of the others it is only seen that they are there. Default: all.

        Raises
        ------
        ValueError
            If a shard's file was not written for this store.
        """
        listed = self.folder.names()
        names = {shard_name(shard) for shard in range(self.shards)}
        if strangers := sorted(name for name in listed - names if re.fullmatch(r"shard-\d+\.parquet", name)):
            raise ValueError(f"counts: {self.uri} has {self.shards} shards, but holds {strangers[0]}. Delete the file.")
        looked_at = range(self.shards) if opened is None else opened
        return [
            shard
            for shard in range(self.shards)
            if shard_name(shard) not in listed or (shard in looked_at and not self._finished(shard))
        ]

    def forget_if_empty(self) -> None:
        """Remove the manifest if no shard is there, so that other settings may be tried at this place."""
        names = self.folder.names()
        if _MANIFEST in names and not any(name.startswith("shard-") for name in names):
            self.folder.remove(_MANIFEST)

    def _finished(self, shard: int) -> bool:
        where = f"{self.uri}/{shard_name(shard)}"
        try:
            with self.folder.open(shard_name(shard)) as file:
                require_shard(file, shard, self.manifest, where)
        except DamagedShardError as error:
            text = f"counts: {where} is damaged ({error}); it counts as missing and will be computed again."
            warnings.warn(text, RuntimeWarning, stacklevel=4)
            return False
        return True

    def write(self, shard: int, table: CountTable) -> None:
        """Publish a shard: after this its file is complete and on disk; if it raises, there is no such file.

        (In an object store it may be complete even so, where only the answer was lost.)

        Raises
        ------
        ValueError
            If the table is not what the manifest says of this shard.
        OSError
            If it cannot be written (a full disk); other shards are not touched.
        """
        facts = self.manifest
        if not 0 <= shard < self.shards:
            raise ValueError(f"shard: expected 0 to {self.shards - 1}, got {shard}.")
        if table.num_classes != facts.num_classes:
            raise ValueError(f"counts: expected {facts.num_classes} classes (num_classes), got {table.num_classes}.")
        if len(table) != facts.size(shard):
            raise ValueError(f"counts: expected {facts.size(shard)} images in shard {shard}, got {len(table)}.")
        if (wrong := table.n[table.n != facts.n]).size:
            raise ValueError(f"counts: expected n={facts.n} draws of each image in shard {shard}, got {wrong[0]}.")
        self.folder.publish(shard_name(shard), encode_shard(table, shard, facts))

    def table(self, view: int = 0, *, images: int = 0) -> CountTable:
        """Return the counts of a view of all images, in the order of the shards; by default of the images themselves.

        Only the shards of that view are read, so that a fit reads the views one after the other; and only those of the
        first ``images``, if that is not 0.

        Raises
        ------
        ValueError
            If there is no such view, a shard of any is missing, or one that is read is damaged.
        """
        facts = self.manifest
        if not 0 <= view < facts.views:
            raise ValueError(f"view: expected 0 to {facts.views - 1}, one of the views of {self.uri}, got {view}.")
        shards = range(view * facts.shards_of_a_view, (view + 1) * facts.shards_of_a_view)
        if missing := self.missing(shards):
            state = f"{len(missing)} of {self.shards} shards of {self.uri} are missing"
            raise ValueError(f"counts: {state}. Run `rrise sample` to finish.")
        enough = -(-images // facts.size(0)) if images else len(shards)
        parts = [self._read(shard) for shard in shards[:enough]]
        ids, labels, n, counts = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "labels", "n", "counts")
        )
        return CountTable(ids, labels, n, counts)

    def _read(self, shard: int) -> CountTable:
        try:
            with self.folder.open(shard_name(shard)) as file:
                return decode_shard(file, self.manifest)
        except DamagedShardError as error:
            where = f"{self.uri}/{shard_name(shard)}"
            raise ValueError(f"counts: {where} is damaged ({error}). Delete it and sample again.") from error
