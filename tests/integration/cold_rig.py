"""Points of cold attributes, written by hand, and the partial indexes over them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st

from atlas_common.catalog import AttributeDef
from atlas_common.db import load_queries
from atlas_common.values import DataType, Scalar, us_to_datetime
from atlas_query.filters import ColdMatch, Filter, check_filter, compile_cold_filter
from atlas_query.store import match_arguments

from .filter_model import POOLS

FIND = load_queries("atlas_query")["find_by_latest"]
T0 = datetime(2026, 3, 1, tzinfo=UTC)
_COLUMNS = {
    DataType.BOOL: "boolean",
    DataType.INT: "bigint",
    DataType.DOUBLE: "double precision",
    DataType.DECIMAL: "numeric",
    DataType.TEXT: "text",
    DataType.TIME: "timestamptz",
    DataType.JSON: "jsonb",
}


@dataclass(frozen=True)
class Point:
    """A point; `place`: its arrival, `second`: its event time."""

    entity_id: int
    attribute: AttributeDef
    value: Scalar
    second: int
    place: int


def histories(attribute: AttributeDef) -> st.SearchStrategy[list[tuple[int, Scalar]]]:
    """Points of one attribute as they arrive: seconds, which may be equal or fall, and values."""
    pool = POOLS[attribute.data_type]
    return st.lists(st.tuples(st.integers(0, 2), st.sampled_from(pool)), min_size=1, max_size=4)


def latest(history: Sequence[tuple[int, Scalar]]) -> Scalar:
    """The value of the newest event; of equal ones the last to arrive."""
    newest = max(range(len(history)), key=lambda place: (history[place][0], place))
    return history[newest][1]


def store(admin: "psycopg.Connection[Any]", tenant_id: int, points: Iterable[Point]) -> None:
    """Into entity_values_ts as flushes would, over the partitions of yesterday and today."""
    rows = list(points)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    names = ", ".join(f"value_{data_type}" for data_type in _COLUMNS)
    arrays = ", ".join(f"%({data_type})s::{column}[]" for data_type, column in _COLUMNS.items())
    admin.execute(
        "INSERT INTO entity_values_ts (tenant_id, entity_id, attribute_id, event_time,"
        f" ingested_at, {names}) SELECT %(tenant)s, v.* FROM unnest(%(entities)s::bigint[],"
        " %(attributes)s::int[], %(times)s::timestamptz[], %(arrivals)s::timestamptz[],"
        f" {arrays}) AS v",
        {
            "tenant": tenant_id,
            "entities": [row.entity_id for row in rows],
            "attributes": [row.attribute.attribute_id for row in rows],
            "times": [T0 + timedelta(seconds=row.second) for row in rows],
            "arrivals": [midnight + timedelta(seconds=row.place - 2) for row in rows],
            **{
                str(data_type): [
                    _column(row.value, data_type) if row.attribute.data_type is data_type else None
                    for row in rows
                ]
                for data_type in _COLUMNS
            },
        },
    )


def _column(value: Scalar, data_type: DataType) -> Scalar | datetime:
    return us_to_datetime(int(value)) if data_type is DataType.TIME else value


def add_attributes(
    admin: "psycopg.Connection[Any]", tenant_id: int, attributes: Mapping[str, AttributeDef]
) -> None:
    """Their definitions, and that those which are indexed are."""
    for one in attributes.values():
        admin.execute(
            "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, is_hot)"
            " VALUES (%s, %s, %s, %s, %s)",
            [tenant_id, one.attribute_id, one.name, str(one.data_type), one.is_hot],
        )
        if one.is_indexed:
            index(admin, tenant_id, one)


def index(admin: "psycopg.Connection[Any]", tenant_id: int, attribute: AttributeDef) -> None:
    """What a job leaves: the row that says "ready", and an index of each partition."""
    admin.execute(
        "INSERT INTO attribute_indexes (tenant_id, attribute_id, data_type, state, created_at,"
        " updated_at) VALUES (%s, %s, %s, 'ready', now(), now())",
        [tenant_id, attribute.attribute_id, str(attribute.data_type)],
    )
    for (name,) in admin.execute("SELECT name FROM partitions_of('entity_values_ts')").fetchall():
        admin.execute("SELECT index_new_partition(%s)", [name])


def cold_match_of(tree: Filter, attributes: Mapping[str, AttributeDef]) -> ColdMatch:
    """The filter as the service asks for it."""
    check_filter(tree, attributes)
    return compile_cold_filter(tree, attributes)


def cold_page(
    connection: "psycopg.Connection[Any]",
    tenant_id: int,
    match: ColdMatch,
    *,
    after: int = 0,
    size: int = 100,
) -> list[int]:
    """The ids of one page."""
    rows = connection.execute(
        FIND,
        {
            "tenant_id": tenant_id,
            "attribute_ids": list(match.cold_ids),
            "after": after,
            "page_size": size,
            **match_arguments(match),
        },
    ).fetchall()
    assert all(entity_id is not None for entity_id, _ in rows), "an index is not ready"
    return sorted(entity_id for entity_id, _ in rows)


def cold_pages(
    connection: "psycopg.Connection[Any]", tenant_id: int, match: ColdMatch, size: int
) -> list[int]:
    """The ids of all pages."""
    found: list[int] = []
    while True:
        ids = cold_page(connection, tenant_id, match, after=found[-1] if found else 0, size=size)
        found += ids
        if len(ids) < size:
            return found
