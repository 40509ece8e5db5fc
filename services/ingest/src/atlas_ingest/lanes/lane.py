"""A lane: a private pair of staging halves, held by a session lock.

Two sessions: one holds the lock and copies into a half while the other flushes the other half. If
the locked one dies, the lane may get another owner at any moment; the flushing one is then stopped
by its epoch, which the new claim has outdated (AT003).
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from atlas_common.config import DatabaseConfig
from atlas_common.db import Connection, direct_connection
from atlas_common.db.transaction import begin_sql, begun
from atlas_common.token import Position
from atlas_ingest import encode
from atlas_ingest.lanes.batch import Batch, Flushed, Skipped
from atlas_ingest.lanes.load import Half
from atlas_ingest.store import Q

LANES = range(64)
LANE_LOST = "AT003"
# What is in staging must go through, however slow the disk is just now: a flush that is cut off
# would be begun again from its start.
_FLUSH_TIMEOUT = "120s"


class LaneLostError(Exception):
    """Another process has moved the lane on."""


@dataclass(frozen=True, slots=True)
class LaneState:
    """Where a lane stands. `timeline`: of the server's log; a failover changes it."""

    epoch: int
    sequence: int
    timeline: str


class LaneSessions:
    """The two sessions with which a lane is worked on."""

    def __init__(self, copier: Connection, flusher: Connection) -> None:
        self._copier = copier
        self._flusher = flusher

    @property
    def is_connected(self) -> bool:
        """Whether both sessions live, as far as this process knows."""
        return not any(
            connection.closed or connection.info.transaction_status == TransactionStatus.UNKNOWN
            for connection in (self._copier, self._flusher)
        )

    @property
    def lock_pid(self) -> int:
        """The server process that holds the lock."""
        return self._copier.info.backend_pid

    async def lock(self, lane: int) -> bool:
        """Own the lane for as long as the session lives; False: somebody else does."""
        row = await _fetch_one(self._copier, "lock_lane", {"lane": lane})
        return bool(row[0])

    async def lock_first(self, lanes: Sequence[int]) -> int | None:
        """Own the first lane that is free."""
        for lane in lanes:
            if await self.lock(lane):
                return lane
        return None

    async def evict(self, lane: int, pid: int) -> None:
        """End a session of ours that still holds the lane although its connection is gone."""
        await self._copier.execute(Q["evict_lane_owner"], {"lane": lane, "pid": pid})

    async def state(self, lane: int) -> LaneState:
        """Where the lane stands; its tables are made if they are missing."""
        row = await _fetch_one(self._flusher, "prepare_lane", {"lane": lane})
        return LaneState(row[0] or 0, row[1] or 0, row[2])

    async def leftovers(self, lane: int) -> list[Half]:
        """The halves that hold something, in the order in which they were filled."""
        cursor = await self._flusher.execute(Q["lane_leftovers"], {"lane": lane})
        return [row[0] for row in await cursor.fetchall()]

    async def claim(self, lane: int) -> tuple[int, int]:
        """Begin an epoch: (epoch, sequence of the last flush)."""
        row = await _fetch_one(self._flusher, "claim_lane", {"lane": lane})
        return row[0], row[1]

    async def empty(self, lane: int) -> None:
        """Throw away what lies in both halves."""
        await self._flusher.execute(Q["empty_lane"], {"lane": lane})

    async def discard(self, lane: int, half: Half, reason: str) -> int:
        """Put a half that cannot be flushed aside as dead letters; the number of batches."""
        values = {"lane": lane, "half": half, "reason": reason}
        row = await _fetch_one(self._flusher, "discard_half", values)
        return int(row[0])

    async def wal_proof(self) -> tuple[int, int]:
        """How far the server's log is written, and how far it is on its disk, in bytes."""
        row = await _fetch_one(self._copier, "wal_proof", {})
        return row[0], row[1]

    async def reached(self, position: Position) -> bool:
        """Whether the position is stored. Raises LookupError while that is open."""
        values = {
            "lane": position.lane,
            "epoch": position.epoch,
            "sequence": position.sequence,
        }
        row = await _fetch_one(self._flusher, "position_state", values)
        if row[0] == "pending":
            raise LookupError(f"{position} is neither stored nor lost")
        return bool(row[0] == "reached")

    async def stage(self, lane: int, half: Half, batches: Sequence[Batch], sequence: int) -> None:
        """Copy the batches into a half, all or none. Raises psycopg.Error."""
        settings = {"synchronous_commit": "off"}  # Unlogged: no disk is waited for anyway.
        begin = begin_sql(read_only=False, isolation=None, settings=settings)
        async with begun(self._copier, begin):
            # In one transaction with the points: a half with points but without what they are
            # known by would be stored a second time when the batch is repeated.
            known_by = [batch.ledger_row(sequence) for batch in batches]
            await self._copy(lane, half, "batches", encode.BATCH_COLUMNS, known_by)
            rows = [batch.rows for batch in batches if batch.rows]
            if rows:
                await self._copy(lane, half, "points", encode.POINT_COLUMNS, rows)

    async def flush(self, position: Position, half: Half, *, durable: bool) -> Flushed:
        """Move a half onward to the position; `durable`: the WAL is on disk when this returns.

        Raises LaneLostError, psycopg.Error. After an error with a living connection nothing has
        changed, and the same call may be made again.
        """
        parameters = {
            "lane": position.lane,
            "half": half,
            "epoch": position.epoch,
            "sequence": position.sequence,
        }
        # `local`: the commit returns when this server's disk has it, which one fsync does for all
        # calls of the flush. Otherwise it returns at once; the WAL writer follows.
        settings = {
            "synchronous_commit": "local" if durable else "off",
            "statement_timeout": _FLUSH_TIMEOUT,
        }
        begin = begin_sql(read_only=False, isolation=None, settings=settings)
        try:
            async with begun(self._flusher, begin):
                cursor = await self._flusher.execute(Q["stage_flush"], parameters)
                row = await cursor.fetchone()
        except psycopg.DatabaseError as error:
            if error.sqlstate == LANE_LOST:
                raise LaneLostError(f"lane {position.lane} has another owner") from error
            raise
        assert row is not None
        return _flushed(position, row)

    async def _copy(
        self, lane: int, half: Half, table: str, columns: Sequence[str], rows: Sequence[bytes]
    ) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
            sql.Identifier("staging", f"lane_{lane}_{half}_{table}"),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
        )
        async with self._copier.cursor() as cursor, cursor.copy(statement) as copy:
            await copy.write(b"".join((encode.HEADER, *rows, encode.TRAILER)))


@asynccontextmanager
async def lane_sessions(config: DatabaseConfig, *, name: str) -> AsyncIterator[LaneSessions]:
    """Two sessions, until the block ends. Raises ServiceError UNAVAILABLE: the server is away."""
    async with (
        direct_connection(config, name=f"{name} copy") as copier,
        direct_connection(config, name=f"{name} flush") as flusher,
    ):
        yield LaneSessions(copier, flusher)


async def _fetch_one(connection: Connection, query: str, values: dict[str, Any]) -> Any:
    row = await (await connection.execute(Q[query], values)).fetchone()
    assert row is not None
    return row


def _flushed(position: Position, row: tuple[Any, ...]) -> Flushed:
    point_count, skipped, tenants, entities, versions = row
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
        skipped={found["batch_no"]: _skipped(found) for found in skipped},
        changes=changes,
    )


def _skipped(found: dict[str, Any]) -> Skipped:
    return Skipped(
        position=Position(found["lane"], found["epoch"], found["sequence"]),
        body_hash=bytes.fromhex(found["body_hash"]),
        answer=bytes.fromhex(found["answer"]),
        expected=found["expected"] if found["reason"] == "gap" else None,
    )
