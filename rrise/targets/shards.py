"""One shard of counts as the bytes of a Parquet file, and back; its footer repeats the manifest and its number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rrise.targets.counts import CountTable
from rrise.targets.manifest import Manifest

_MANIFEST = b"rrise.manifest"
_SHARD = b"rrise.shard"


class DamagedShardError(Exception):
    """A shard's file is truncated or altered; the store says which and what to do."""


def shard_name(shard: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{shard:05d}.parquet"


def encode_shard(table: CountTable, shard: int, manifest: Manifest) -> Any:
    """Return a Parquet file (a pyarrow.Buffer): id uint64, label int64, n int64, counts int32[K]; zstd, checksums.

    Where images have views there is one column more, view uint16, the same in all rows of a shard.
    """
    schema = _schema(manifest).with_metadata({_MANIFEST: manifest.to_json(), _SHARD: str(shard)})
    draws = pa.FixedSizeListArray.from_arrays(pa.array(table.counts.ravel()), type=schema.field("counts").type)
    sink = pa.BufferOutputStream()
    rows = [table.ids, table.labels, table.n, draws]
    rows += [np.full(len(table), manifest.view(shard), dtype=np.uint16)] if manifest.views > 1 else []
    columns = pa.Table.from_arrays(rows, schema=schema)
    pq.write_table(columns, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_shard(file: Any, manifest: Manifest) -> CountTable:
    """Return the counts in an open Parquet file; a page whose checksum is wrong raises DamagedShardError."""
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True).read()
        columns = table.cast(_schema(manifest)).combine_chunks()
        ids, labels, n = (columns.column(name).to_numpy() for name in ("id", "label", "n"))
        draws = columns.column("counts").chunk(0).flatten().to_numpy()
        return CountTable(ids, labels, n, draws.reshape(len(columns), manifest.num_classes))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _as_damage(error) from error


def require_shard(file: Any, shard: int, manifest: Manifest, where: str) -> None:
    """Check the footer of an open file, without reading the counts.

    Raises
    ------
    DamagedShardError
        If the file does not end in a Parquet footer.
    ValueError
        If it is a whole file, but not this shard of this manifest.
    """
    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise _as_damage(error) from error
    facts = footer.metadata or {}
    if not {_MANIFEST, _SHARD} <= facts.keys():
        raise ValueError(f"counts: {where} was not written by rrise. Move it away, or delete it.")
    manifest.require_match(Manifest.from_json(facts[_MANIFEST], where), where)
    if facts[_SHARD] != b"%d" % shard:
        raise ValueError(f"counts: {where} holds shard {facts[_SHARD].decode()}, not shard {shard}. Delete it.")


def _as_damage(error: Exception) -> Exception:
    # An errno means that the disk or the network failed, which says nothing about the file.
    return error if isinstance(error, OSError) and error.errno is not None else DamagedShardError(str(error))


def _schema(manifest: Manifest) -> Any:
    draws = pa.list_(pa.field("element", pa.int32(), nullable=False), manifest.num_classes)
    columns = {"id": pa.uint64(), "label": pa.int64(), "n": pa.int64(), "counts": draws}
    columns |= {"view": pa.uint16()} if manifest.views > 1 else {}
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    return pa.schema(fields)
