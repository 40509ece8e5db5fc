"""The primary: the projection, and how far its lanes are."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg

from atlas_common.db import (
    Database,
    Freshness,
    Isolation,
    load_queries,
    tenant_snapshot,
)
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_common.values import DataType, from_hot_text
from atlas_hotcache.lag import PrimaryView
from atlas_hotcache.marks import Claims
from atlas_hotcache.ports import HotRow, HotValue, PrimaryRead, PrimaryUnavailableError

Q = load_queries("atlas_hotcache", expect={"hot_values", "lane_positions", "lane_claims"})


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
