"""The query service's reads of Postgres. Every function runs in the snapshot that it is given."""

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from atlas.type.freshness import Position
from atlas_common import errors
from atlas_common.catalog import AttributeDef
from atlas_common.db import NO_BEAT, Beat, Database, Isolation, ReadConnection, load_queries
from atlas_common.values import DataType, Scalar, from_hot_text
from atlas_query.election import Identity
from atlas_query.filters import ColdMatch, Match
from atlas_query.readings import Reading
from atlas_query.standings import Standing

Q = load_queries("atlas_query")

READINGS_MAX = 200_000
"""Most readings one unary answer may have; a bound for memory here and on the server."""

_VALUE_INDEX = {
    data_type: index
    for index, data_type in enumerate(
        (
            DataType.BOOL,
            DataType.INT,
            DataType.DOUBLE,
            DataType.DECIMAL,
            DataType.TEXT,
            DataType.TIME,
            DataType.JSON,
        )
    )
}


class Look(NamedTuple):
    """A server as it was found. `sent`, `received`: this process's monotonic seconds."""

    identity: Identity
    beat: Beat
    positions: tuple[Position, ...]
    clock: datetime
    sent: float
    received: float


class Progress(NamedTuple):
    """How far a server has replayed."""

    beat: Beat
    positions: tuple[Position, ...]


class HotRow(NamedTuple):
    """An entry of the projection, its value as JSON text."""

    entity_id: int
    attribute_id: int
    text: str
    event_us: int


class HotRows(NamedTuple):
    """Entries of the projection, and the attributes asked for that this snapshot has not there."""

    rows: list[HotRow]
    cold_ids: frozenset[int]


class FoundRows(NamedTuple):
    """Ids and keys of entities; the filter's attributes that cannot be asked in this snapshot."""

    entities: list[tuple[int, str]]
    unready_ids: frozenset[int]


class PointRow(NamedTuple):
    """A point, its value in the column of its attribute's type."""

    entity_id: int
    attribute_id: int
    event_us: int
    quality: int
    values: tuple[Any, ...]


async def look(database: Database) -> Look:
    """Who a server is, and how far. Raises ServiceError, psycopg.Error."""
    async with database.transaction(read_only=True) as connection:
        sent = time.monotonic()  # After the wait for a connection: it would widen the bound.
        cursor = await connection.execute(Q["server_look"], {})
        row = await cursor.fetchone()
        received = time.monotonic()
    assert row is not None
    beat = NO_BEAT if row[4] is None else Beat(row[4], row[5])
    return Look(Identity(*row[:3]), beat, _positions(*row[6:]), row[3], sent, received)


async def _progress(connection: ReadConnection) -> Progress:
    cursor = await connection.execute(Q["tier_progress"], {})
    row = await cursor.fetchone()
    if row is None:
        return Progress(NO_BEAT, ())
    return Progress(Beat(row[0], row[1]), _positions(*row[2:]))


async def primary_standing(database: Database) -> Standing:
    """Where the primary stands, asked in the order that standings.py explains.

    Raises ServiceError, psycopg.Error.
    """
    async with database.transaction(read_only=True) as connection:  # Each statement looks anew.
        cursor = await connection.execute(Q["flushes_under_way"], {})
        row = await cursor.fetchone()
        assert row is not None
        cursor = await connection.execute(Q["primary_positions"], {})
        lanes = await cursor.fetchall()
    return Standing(
        clock=row[0],
        in_flight=row[1],
        positions=tuple(Position(*lane) for lane in lanes),
    )


async def position_standing(
    database: Database, positions: Sequence[Position]
) -> tuple[str, Progress]:
    """Where a server stands to positions (reached, pending or lost), and how far it is.

    Raises ServiceError, psycopg.Error.
    """
    isolation = Isolation.REPEATABLE_READ  # Both answers of one view.
    async with database.transaction(read_only=True, isolation=isolation) as connection:
        cursor = await connection.execute(
            Q["worst_position_state"],
            {
                "lanes": [position.lane for position in positions],
                "epochs": [position.epoch for position in positions],
                "sequences": [position.sequence for position in positions],
            },
        )
        row = await cursor.fetchone()
        progress = await _progress(connection)
    assert row is not None
    return row[0], progress


async def hot_values(
    connection: ReadConnection,
    tenant_id: int,
    entity_ids: Sequence[int],
    attribute_ids: Sequence[int] | None,
) -> HotRows:
    """The projection of these entities; `attribute_ids=None`: of all attributes hot here."""
    cursor = await connection.execute(
        Q["hot_values"],
        {
            "tenant_id": tenant_id,
            "entity_ids": list(entity_ids),
            "attribute_ids": attribute_ids,
            "rows_max": READINGS_MAX + 1,
        },
    )
    rows = await cursor.fetchall()
    cold_ids = frozenset(row[1] for row in rows if row[0] is None)
    if cold_ids:
        return HotRows([], cold_ids)
    return HotRows([HotRow(*row) for row in _bounded(rows)], cold_ids)


async def latest_values(
    connection: ReadConnection,
    tenant_id: int,
    entity_ids: Sequence[int],
    attribute_ids: Sequence[int] | None,
) -> list[PointRow]:
    """The newest points of these entities; `attribute_ids=None`: of every attribute they have."""
    query = "latest_of_all" if attribute_ids is None else "latest_values"
    cursor = await connection.execute(
        Q[query],
        {
            "tenant_id": tenant_id,
            "entity_ids": list(entity_ids),
            **({} if attribute_ids is None else {"attribute_ids": list(attribute_ids)}),
            "rows_max": READINGS_MAX + 1,
        },
    )
    return [PointRow._make((*row[:4], row[4:])) for row in _bounded(await cursor.fetchall())]


async def find_entities(
    connection: ReadConnection,
    tenant_id: int,
    match: Match | ColdMatch,
    attribute_ids: Sequence[int],
    *,
    after: int,
    page_size: int,
    cold_seconds_max: float,
) -> FoundRows:
    """The next entities that match, by id. `attribute_ids`: those of the filter.

    Raises ServiceError DEADLINE_EXCEEDED when a filter over cold attributes takes longer than
    `cold_seconds_max`; all further statements of the transaction are bounded likewise.
    """
    arguments = {
        "tenant_id": tenant_id,
        "attribute_ids": list(attribute_ids),
        "after": after,
        "page_size": page_size,
        **match_arguments(match),
    }
    if isinstance(match, Match):
        cursor = await connection.execute(Q["find_entities"], arguments)
    else:
        await _bound_statements(connection, cold_seconds_max)
        try:
            cursor = await connection.execute(Q["find_by_latest"], arguments)
        except psycopg.errors.QueryCanceled as error:
            raise _too_slow(cold_seconds_max) from error
    rows = await cursor.fetchall()
    return FoundRows(
        # One after the other is how they come, but no rule of SQL's.
        sorted((entity_id, key) for entity_id, key in rows if entity_id is not None),
        frozenset(int(key) for entity_id, key in rows if entity_id is None),
    )


def match_arguments(match: Match | ColdMatch) -> dict[str, Any]:
    """A filter as parameters of its query."""
    if isinstance(match, ColdMatch):
        return {
            "condition": match.condition,
            "hot_condition": match.hot_condition,
            "documents": match.documents,
            "ways": match.ways,
            "cold_ids": list(match.cold_ids),
        }
    return {
        "condition": match.condition,
        "narrowing": match.narrowing,
        "documents": match.documents,
        "matches_empty": match.matches_empty,
    }


async def _bound_statements(connection: ReadConnection, seconds: float) -> None:
    sql = f"SET LOCAL statement_timeout = {round(seconds * 1000)}"
    await connection.execute(sql.encode(), prepare=False)


def _too_slow(seconds: float) -> errors.ServiceError:
    return errors.deadline_exceeded(
        "DEADLINE_EXCEEDED",
        f"the filter over cold attributes took longer than {seconds:g} s: ask for a rarer value,"
        " add a condition on a hot attribute that few entities meet, or promote the attributes",
        field="filter",
    )


def hot_reading(row: HotRow, attribute: AttributeDef) -> Reading:
    """A row with its attribute's definition. The projection keeps no qualities: all are 0."""
    value = from_projection(attribute.data_type, row.text)
    return Reading(attribute.name, attribute.data_type, value, row.event_us, 0)


def point_reading(row: PointRow, attribute: AttributeDef) -> Reading:
    """A row with its attribute's definition."""
    value: Scalar = row.values[_VALUE_INDEX[attribute.data_type]]
    return Reading(attribute.name, attribute.data_type, value, row.event_us, row.quality)


def from_projection(data_type: DataType, text: str) -> Scalar:
    """A value from its JSON text, as hot_value() in db writes it."""
    if data_type is DataType.JSON:
        return text  # With its quotes, if it is a string: they are part of the document.
    if data_type is DataType.TEXT:
        bare: str = json.loads(text)
        return bare
    return from_hot_text(data_type, text.strip('"'))


def _positions(
    lanes: Sequence[int], epochs: Sequence[int], sequences: Sequence[int]
) -> tuple[Position, ...]:
    return tuple(
        Position(lane, epoch, sequence)
        for lane, epoch, sequence in zip(lanes, epochs, sequences, strict=True)
    )


def _bounded(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if len(rows) > READINGS_MAX:
        raise errors.invalid_argument(
            "BATCH_TOO_LARGE",
            f"the answer has more than {READINGS_MAX} readings:"
            " ask for fewer entities or attributes at a time",
            readings_max=READINGS_MAX,
        )
    return rows
