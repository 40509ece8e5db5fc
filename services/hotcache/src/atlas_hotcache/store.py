"""The primary: the projection, and how far its lanes are."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import psycopg

from atlas_common.db import (
    Database,
    Freshness,
    Isolation,
    ReadConnection,
    load_queries,
    tenant_snapshot,
)
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_common.values import DataType, from_hot_text
from atlas_hotcache.lag import PrimaryView
from atlas_hotcache.marks import Claims
from atlas_hotcache.ports import (
    Change,
    HotRow,
    HotValue,
    Missed,
    MissedFlush,
    PrimaryRead,
    PrimaryUnavailableError,
)

Q = load_queries(
    "atlas_hotcache",
    expect={"hot_values", "lane_positions", "lane_claims", "missed_flushes"},
)


class PrimaryStore:
    """Reads the primary."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock

    async def read(
        self, tenant: Tenant, entity_ids: Sequence[int], positions: tuple[Position, ...]
    ) -> PrimaryRead:
        """One row per id, in that order, of a snapshot that holds the positions.

        Raises BehindError, PositionLostError when it does not; other ServiceErrors, psycopg.Error.
        """
        return await self._read(tenant, entity_ids, positions)

    async def peek(self, tenant: Tenant, entity_id: int) -> PrimaryRead:
        """One row, for nobody who waits for it. Raises PrimaryUnavailableError."""
        try:
            return await self._read(tenant, [entity_id], ())
        except (ServiceError, psycopg.Error) as error:
            raise PrimaryUnavailableError(str(error)) from error

    async def _read(
        self, tenant: Tenant, entity_ids: Sequence[int], positions: tuple[Position, ...]
    ) -> PrimaryRead:
        fresh = Freshness(positions=positions)
        parameters = {"tenant_id": tenant.id, "entity_ids": list(entity_ids)}
        async with tenant_snapshot(self._database, tenant, fresh=fresh) as snapshot:
            cursor = await snapshot.connection.execute(Q["hot_values"], parameters)
            values = await cursor.fetchall()
            cursor = await snapshot.connection.execute(Q["lane_positions"], {})
            lanes = await cursor.fetchall()
        rows = _rows(values)
        return PrimaryRead(
            rows=tuple(rows.get(entity_id) or HotRow(entity_id, 0, ()) for entity_id in entity_ids),
            positions=_positions(row[2:] for row in lanes),
            source=lanes[0][1],
            as_of_us=lanes[0][0],
        )

    async def view(self) -> PrimaryView:
        """How far the lanes are, and which claims they have had. Raises PrimaryUnavailableError."""
        try:
            return await self._view()
        except (ServiceError, psycopg.Error) as error:
            raise PrimaryUnavailableError(str(error)) from error

    async def _view(self) -> PrimaryView:
        isolation = Isolation.REPEATABLE_READ
        async with self._database.transaction(read_only=True, isolation=isolation) as connection:
            return await self._viewed(connection)

    async def missed(self, after: Mapping[int, int], changes_max: int) -> Missed:
        """Flushes after these sequences, and how far the lanes were in the same snapshot.

        Raises PrimaryUnavailableError.
        """
        try:
            return await self._missed(after, changes_max)
        except (ServiceError, psycopg.Error) as error:
            raise PrimaryUnavailableError(str(error)) from error

    async def _missed(self, after: Mapping[int, int], changes_max: int) -> Missed:
        parameters = {
            "lanes": list(after),
            "sequences": list(after.values()),
            "changes_max": changes_max,
        }
        isolation = Isolation.REPEATABLE_READ
        async with self._database.transaction(read_only=True, isolation=isolation) as connection:
            view = await self._viewed(connection)
            cursor = await connection.execute(Q["missed_flushes"], parameters)
            flushes = tuple(_missed_flush(*row) for row in await cursor.fetchall())
        return Missed(view, flushes)

    async def _viewed(self, connection: ReadConnection) -> PrimaryView:
        sent = self._clock()  # Before the first query, which takes the snapshot.
        cursor = await connection.execute(Q["lane_positions"], {})
        lanes = await cursor.fetchall()
        cursor = await connection.execute(Q["lane_claims"], {})
        claims: dict[int, dict[int, int]] = {}
        for lane, epoch, first_sequence in await cursor.fetchall():
            claims.setdefault(lane, {})[epoch] = first_sequence
        return PrimaryView(
            sent=sent,
            as_of_us=lanes[0][0],
            source=lanes[0][1],
            positions=_positions(row[2:] for row in lanes),
            claims=Claims(claims),
        )


def _missed_flush(lane: int, epoch: int, sequence: int, *changed: Sequence[int]) -> MissedFlush:
    changes = tuple(Change(*change) for change in zip(*changed, strict=True))
    return MissedFlush(Position(lane, epoch, sequence), changes)


def _positions(rows: Iterable[tuple[Any, ...]]) -> dict[int, Position]:
    return {
        lane: Position(lane, epoch, sequence) for lane, epoch, sequence in rows if lane is not None
    }


def _rows(values: Iterable[tuple[Any, ...]]) -> dict[int, HotRow]:
    versions: dict[int, int] = {}
    found: dict[int, list[HotValue]] = {}
    for entity_id, version, name, data_type, text, event_us in values:
        versions[entity_id] = version
        hot_values = found.setdefault(entity_id, [])
        if name is not None:
            kind = DataType(data_type)
            hot_values.append(HotValue(name, kind, from_hot_text(kind, text), event_us))
    return {
        entity_id: HotRow(entity_id, versions[entity_id], tuple(hot_values))
        for entity_id, hot_values in found.items()
    }
