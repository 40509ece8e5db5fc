"""A lane: this process's private pair of staging halves, held by a session lock.

Two sessions: one holds the lock and copies into a half while the other flushes the other half. If
the locked one dies, the lane may get another owner at any moment; the flushing one is then stopped
by its epoch, which the new claim has outdated (AT003).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from atlas_common import errors
from atlas_common.config import DatabaseConfig
from atlas_common.db import Connection, direct_connection
from atlas_common.db.transaction import begin_sql, begun
from atlas_common.token import Position
from atlas_ingest import encode
from atlas_ingest.batch import Batch, Duplicate, Flushed
from atlas_ingest.store import Q

LANES = range(64)
HALVES = ("a", "b")
LANE_LOST = "AT003"


class LaneLostError(Exception):
    """Another process has claimed the lane."""


class Lane:
    """A claimed lane. `sequence` is that of the last flush."""

    def __init__(
        self, number: int, epoch: int, sequence: int, copier: Connection, flusher: Connection
    ) -> None:
        self.number = number
        self.epoch = epoch
        self.sequence = sequence
        self._copier = copier
        self._flusher = flusher

    @property
    def is_connected(self) -> bool:
        """Whether both sessions live, as far as this process knows."""
        return not any(
            connection.closed or connection.info.transaction_status == TransactionStatus.UNKNOWN
            for connection in (self._copier, self._flusher)
        )

    async def stage(self, half: str, batches: Sequence[Batch]) -> None:
        """Copy the batches into a half, all or none. Raises psycopg.Error."""
        settings = {"synchronous_commit": "off"}  # Unlogged: no disk is waited for anyway.
        begin = begin_sql(read_only=False, isolation=None, settings=settings)
        async with begun(self._copier, begin):
            # Ledger rows and points in one transaction: a half with points but without the ledger
            # rows would be stored a second time when the request is repeated.
            repeatable = [
                encode.batch_row(
                    batch.number,
                    batch.tenant_id,
                    batch.request_id,
                    batch.body_hash,
                    batch.answer,
                )
                for batch in batches
                if batch.request_id
            ]
            if repeatable:
                await self._copy(half, "batches", encode.BATCH_COLUMNS, repeatable)
            await self._copy(half, "points", encode.POINT_COLUMNS, [b.rows for b in batches])

    async def flush(self, half: str, *, durable: bool) -> Flushed:
        """Move a half onward; `durable`: the WAL is on disk when this returns.

        Raises LaneLostError, psycopg.Error. After an error with a living connection nothing has
        changed, and the same call may be made again.
        """
        sequence = self.sequence + 1
        parameters = {
            "lane": self.number,
            "half": half,
            "epoch": self.epoch,
            "sequence": sequence,
        }
        # `local`: the commit returns when this server's disk has it, which one fsync does for all
        # calls of the flush. Otherwise it returns at once; the WAL writer follows.
        settings = {
            "synchronous_commit": "local" if durable else "off",
            # What is in staging must go through, however slow the disk is just now: a flush that is
            # cut off would be begun again from its start.
            "statement_timeout": "120s",
        }
        begin = begin_sql(read_only=False, isolation=None, settings=settings)
        try:
            async with begun(self._flusher, begin):
                cursor = await self._flusher.execute(Q["stage_flush"], parameters)
                row = await cursor.fetchone()
        except psycopg.DatabaseError as error:
            if error.sqlstate == LANE_LOST:
                raise LaneLostError(f"lane {self.number} has another owner") from error
            raise
        assert row is not None
        self.sequence = sequence
        return _flushed(Position(self.number, self.epoch, sequence), row)

    async def _copy(
        self, half: str, table: str, columns: Sequence[str], rows: Sequence[bytes]
    ) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            sql.Identifier("staging", f"lane_{self.number}_{half}_{table}"),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
        )
        async with self._copier.cursor() as cursor, cursor.copy(statement) as copy:
            await copy.write(b"".join((encode.HEADER, *rows, encode.TRAILER)))


@asynccontextmanager
async def claimed(
    config: DatabaseConfig, *, name: str, lanes: Sequence[int] = LANES
) -> AsyncIterator[Lane]:
    """The first of the lanes that is free, until the block ends.

    Whatever an earlier owner left in it is the caller's to flush. Raises ServiceError UNAVAILABLE
    when none is free or the server is away, psycopg.Error otherwise.
    """
    async with (
        direct_connection(config, name=f"{name} copy") as copier,
        direct_connection(config, name=f"{name} flush") as flusher,
    ):
        number = await _lock_first(copier, lanes)
        row = await _fetch_one(copier, "claim_lane", {"lane": number})
        yield Lane(number, row[0], row[1], copier, flusher)


async def _lock_first(connection: Connection, lanes: Sequence[int]) -> int:
    for lane in lanes:
        row = await _fetch_one(connection, "lock_lane", {"lane": lane})
        if row[0]:
            return lane
    raise errors.unavailable(
        "DEPENDENCY_UNAVAILABLE", f"none of {len(lanes)} lanes is free", retry_after=1.0
    )


async def _fetch_one(connection: Connection, query: str, values: dict[str, Any]) -> Any:
    row = await (await connection.execute(Q[query], values)).fetchone()
    assert row is not None
    return row


def _flushed(position: Position, row: tuple[Any, ...]) -> Flushed:
    _flushed_at, point_count, duplicates, tenants, entities, versions = row
    changes: dict[int, tuple[list[int], list[int]]] = {}
    for tenant_id, entity_id, version in zip(
        tenants or (), entities or (), versions or (), strict=True
    ):
        entity_ids, entity_versions = changes.setdefault(tenant_id, ([], []))
        entity_ids.append(entity_id)
        entity_versions.append(version)
    return Flushed(
        position=position,
        point_count=point_count,
        duplicates={found["batch_no"]: _duplicate(found) for found in duplicates},
        changes=changes,
    )


def _duplicate(found: dict[str, Any]) -> Duplicate:
    return Duplicate(
        position=Position(found["lane"], found["epoch"], found["sequence"]),
        body_hash=bytes.fromhex(found["body_hash"]),
        answer=bytes.fromhex(found["answer"]),
    )
