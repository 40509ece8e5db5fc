"""Writes the rows of a partition to a Parquet file that can be trusted.

Written under another name, synced, read back and compared, then renamed: a file under its own name
is whole, whatever died when.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from pyarrow import parquet

from atlas_common.config import DatabaseConfig
from atlas_common.db.connection import connect_arguments
from atlas_ingest.maintenance.parquet import SCHEMA, Checksum, rows_of, select_list

_GROUP_BYTES = 16 * 2**20
"""Of CSV; some 150,000 points. Bounds the memory that an archive takes."""
_SETTINGS = "SET statement_timeout = '6h'; SET work_mem = '64MB'"


class ArchiveError(Exception):
    """An archive could not be written, or is not what was written."""


@dataclass(frozen=True, slots=True)
class ArchiveOrder:
    """What an archive shall hold: the rows of some tenants in a span of a relation."""

    relation: tuple[str, str]
    """Schema and name."""
    partition_name: str
    retention_class: str
    part: int
    lower_bound: datetime
    upper_bound: datetime
    tenant_ids: Sequence[int]

    @property
    def path(self) -> Path:
        """Where, within the archive directory."""
        return Path(f"{self.partition_name}.{self.retention_class}.{self.part}.parquet")


@dataclass(frozen=True, slots=True)
class Archive:
    """A file that was written and read back."""

    path: Path
    row_count: int
    byte_count: int
    checksum: str


def write_archive(
    database: DatabaseConfig, directory: Path, order: ArchiveOrder, stop: threading.Event
) -> Archive:
    """Write one, on a connection of its own; blocks for long.

    Raises ArchiveError (also once `stop` is set), OSError, psycopg.Error.
    """
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / order.path
    making = final.with_name(f".{final.name}.making")  # One process archives at a time.
    try:
        written = _write(database, making, order, stop)
        _sync(making)
        read_back = checksum_of(making)
        if (read_back.row_count, read_back.text()) != (written.row_count, written.text()):
            raise ArchiveError(
                f"{making} reads back as {read_back.row_count} rows {read_back.text()}, written"
                f" were {written.row_count} rows {written.text()}"
            )
        making.replace(final)
        _sync(directory)
    except pa.ArrowException as error:
        raise ArchiveError(f"{order.partition_name}: {error}") from error
    finally:
        making.unlink(missing_ok=True)
    return Archive(order.path, written.row_count, final.stat().st_size, written.text())


def checksum_of(file: Path) -> Checksum:
    """Of what a file holds. Raises OSError, pa.ArrowException."""
    checksum = Checksum()
    with parquet.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            checksum.add(opened.read_row_group(group, use_threads=False).cast(SCHEMA))
    return checksum


def _write(
    database: DatabaseConfig, file: Path, order: ArchiveOrder, stop: threading.Event
) -> Checksum:
    checksum = Checksum()
    described = {
        "atlas.partition": order.partition_name,
        "atlas.retention_class": order.retention_class,
        "atlas.lower_bound": order.lower_bound.isoformat(),
        "atlas.upper_bound": order.upper_bound.isoformat(),
    }
    schema = SCHEMA.with_metadata(described)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for block in _blocks(database, order):
            if stop.is_set():
                raise ArchiveError("stopped")
            group = rows_of(block)
            checksum.add(group)
            writer.write_table(group.cast(schema), row_group_size=max(1, group.num_rows))
    return checksum


def _blocks(database: DatabaseConfig, order: ArchiveOrder) -> Iterator[bytearray]:
    """CSV of whole rows, a group at a time, in the order of the key."""
    block = bytearray()
    arguments: dict[str, Any] = connect_arguments(database, "ingest archive")
    with psycopg.connect(**arguments) as connection:
        connection.execute(_SETTINGS, prepare=False)
        with connection.cursor() as cursor, cursor.copy(_copy(order)) as copy:
            for row in copy:
                block += row
                if len(block) >= _GROUP_BYTES:
                    yield block
                    block = bytearray()
    if block:
        yield block


def _copy(order: ArchiveOrder) -> sql.Composed:
    return sql.SQL(
        "COPY (SELECT {columns} FROM {relation} WHERE tenant_id = ANY ({tenants})"
        " AND ingested_at >= {lower} AND ingested_at < {upper}"
        " ORDER BY tenant_id, entity_id, attribute_id, event_time, ingested_at)"
        " TO STDOUT (FORMAT csv)"
    ).format(
        columns=sql.SQL(select_list()),
        relation=sql.Identifier(*order.relation),
        tenants=sql.Literal(list(order.tenant_ids)),
        lower=sql.Literal(order.lower_bound),
        upper=sql.Literal(order.upper_bound),
    )


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
