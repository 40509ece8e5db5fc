"""Writes projections by hand, as the flush would, and asks them as the query service does."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg

from atlas_common.catalog import AttributeDef
from atlas_common.db import load_queries
from atlas_common.values import DataType, Scalar, us_to_datetime
from atlas_query.filters import Filter, Match, check_filter, compile_filter

FIND = load_queries("atlas_query")["find_entities"]


def add_entities(admin: "psycopg.Connection[Any]", tenant_id: int, ids: Iterable[int]) -> None:
    """Entities with keys like "unit-7"."""
    admin.execute(
        "INSERT INTO entities (tenant_id, entity_id, key)"
        " SELECT %s, n, 'unit-' || n FROM unnest(%s::bigint[]) AS n",
        [tenant_id, list(ids)],
    )


def project(
    admin: "psycopg.Connection[Any]",
    tenant_id: int,
    entities: Mapping[int, Mapping[str, Scalar]],
    attributes: Mapping[str, AttributeDef],
) -> None:
    """Entity id -> attribute -> value, into entity_jsonb by hot_value(); of no values, no row."""
    rows = [
        (entity_id, attributes[name], value)
        for entity_id, values in entities.items()
        for name, value in values.items()
    ]
    columns = {
        str(data_type): [
            _column(v, data_type) if a.data_type is data_type else None for _, a, v in rows
        ]
        for data_type in DataType
    }
    admin.execute(
        """
        INSERT INTO entity_jsonb (tenant_id, entity_id, version, attrs, attr_times)
        SELECT %(tenant_id)s, v.entity_id, 1,
            jsonb_object_agg(v.attribute_id,
                hot_value(v.bool, v.int, v.double, v.decimal, v.text, v.time, v.json)),
            jsonb_object_agg(v.attribute_id, 0)
        FROM unnest(%(entity_ids)s::bigint[], %(attribute_ids)s::integer[], %(bool)s::boolean[],
                %(int)s::bigint[], %(double)s::double precision[], %(decimal)s::numeric[],
                %(text)s::text[], %(time)s::timestamptz[], %(json)s::jsonb[])
            AS v (entity_id, attribute_id, bool, int, double, decimal, text, time, json)
        GROUP BY v.entity_id
        """,
        {
            "tenant_id": tenant_id,
            "entity_ids": [entity_id for entity_id, _, _ in rows],
            "attribute_ids": [attribute.attribute_id for _, attribute, _ in rows],
            **columns,
        },
    )


def _column(value: Scalar, data_type: DataType) -> Scalar | datetime:
    return us_to_datetime(int(value)) if data_type is DataType.TIME else value


@contextmanager
def as_query(connection: "psycopg.Connection[Any]", tenant_id: int | None) -> Iterator[None]:
    """Within the open transaction of a superuser: the role of the query service, and its tenant."""
    connection.execute("SET LOCAL ROLE atlas_query")
    if tenant_id is not None:
        connection.execute(f"SET LOCAL atlas.tenant_id = {tenant_id}")
    try:
        yield
    finally:
        connection.execute("RESET ROLE")


def match_of(tree: Filter, attributes: Mapping[str, AttributeDef]) -> Match:
    """The filter as the service asks for it."""
    check_filter(tree, attributes)
    return compile_filter(tree, attributes)


def page(
    connection: "psycopg.Connection[Any]",
    tenant_id: int | None,
    match: Match,
    *,
    after: int = 0,
    size: int = 100,
) -> list[int]:
    """The ids of one page."""
    parameters: dict[str, Any] = {
        "tenant_id": tenant_id,
        "condition": match.condition,
        "narrowing": match.narrowing,
        "documents": match.documents,
        "matches_empty": match.matches_empty,
        "attribute_ids": [],
        "after": after,
        "page_size": size,
    }
    # One after the other is how they come, but no rule of SQL's.
    return sorted(entity_id for entity_id, _ in connection.execute(FIND, parameters))


def indexed(connection: "psycopg.Connection[Any]", tenant_id: int, match: Match) -> list[int]:
    """The ids of all that match by the index alone, for a match that narrows."""
    row = connection.execute(
        "SELECT find_by_index(%s, %s::jsonpath, %s::jsonpath, %s::jsonb, 0, 1000)",
        [tenant_id, match.condition, match.narrowing, match.documents],
    ).fetchone()
    assert row is not None
    found: list[int] = row[0]
    return found


def pages(
    connection: "psycopg.Connection[Any]", tenant_id: int, match: Match, size: int
) -> list[int]:
    """The ids of all pages."""
    found: list[int] = []
    while True:
        ids = page(connection, tenant_id, match, after=found[-1] if found else 0, size=size)
        found += ids
        if len(ids) < size:
            return found
