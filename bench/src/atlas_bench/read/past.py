"""The older points, by SQL: only so do they lie in the partitions of the days they are from.

The platform stores everything in the partition of the moment at which it came. The rows written
here are what it would have stored then: of entities and attributes of the catalog, with the values
of `estate`, ingested a second after their event time. The projection stays true, since every hot
attribute has a newer point, which comes through the platform. As administrator: no role of the
platform may write telemetry.
"""

from typing import Any

import psycopg

from atlas_bench.partitions import make_past_partitions
from atlas_bench.read.estate import (
    HOUR_US,
    MEASURED,
    MINUTE_US,
    OFFSETS,
    PAST_STEP_US,
    STRIDES,
    Estate,
)
from atlas_bench.read.values import RAW_VALUES, SERVICED, STATUSES, WORDS

_SERIES = """
CREATE TEMPORARY TABLE {name} AS
SELECT e.entity_id, substring(e.key FROM '[0-9]+$')::bigint AS entity_no,
    a.attribute_id, n.number - 1 AS attribute_no, a.data_type, a.allowed_values
FROM entities AS e
CROSS JOIN unnest(%(names)s::text[]) WITH ORDINALITY AS n (name, number)
JOIN attributes AS a ON a.tenant_id = e.tenant_id AND a.name = n.name
WHERE e.tenant_id = %(tenant_id)s AND e.key = ANY (%(keys)s)
ORDER BY e.entity_id, a.attribute_id
"""
# As Estate.raw() and values.value_of() have it.
_FILL = """
INSERT INTO entity_values_ts (tenant_id, entity_id, attribute_id, event_time, ingested_at, quality,
    value_double, value_int, value_bool, value_decimal, value_text, value_time)
SELECT %(tenant_id)s, s.entity_id, s.attribute_id, t.at, t.at + interval '1 second', 0,
    CASE s.data_type WHEN 'double' THEN r.raw / 8.0 END,
    CASE s.data_type WHEN 'int' THEN r.raw END,
    CASE s.data_type WHEN 'bool' THEN r.raw %% 10 = 0 END,
    CASE s.data_type WHEN 'decimal' THEN r.raw / 1000.0 END,
    CASE WHEN s.attribute_no = 0 THEN s.allowed_values[(1 + r.walked %% %(statuses)s)::int]
        WHEN s.attribute_no = 1
            THEN s.allowed_values[(1 + r.walked / %(statuses)s %% %(tiers)s)::int]
        WHEN s.data_type = 'text' THEN (%(words)s::text[])[(1 + r.raw %% 4)::int] END,
    CASE s.data_type WHEN 'time' THEN %(serviced)s + make_interval(mins => r.raw::int) END
FROM {name} AS s
CROSS JOIN (SELECT to_timestamp(%(at_us)s::bigint / 1e6) AS at) AS t
CROSS JOIN LATERAL (
    SELECT (s.entity_no * 7919 + s.attribute_no * 104729 + %(shift)s) %% %(raw_values)s AS raw,
        (s.entity_no * %(stride)s + %(offset)s) %% %(entities)s + %(shift)s AS walked
) AS r
"""


def fill(admin: "psycopg.Connection[Any]", estate: Estate, tenant_id: int, base_us: int) -> None:
    """Write the past of the measured tenant."""
    days = 1 + -(-max(estate.past_rounds * PAST_STEP_US, 3 * HOUR_US) // (24 * HOUR_US))
    make_past_partitions(admin, days)
    names = [attribute.name for attribute in estate.attributes]
    facts = {
        "tenant_id": tenant_id,
        "entities": estate.entities,
        "statuses": len(STATUSES),
        "tiers": estate.tiers,
        "words": list(WORDS),
        "serviced": SERVICED,
        "raw_values": RAW_VALUES,
        "stride": STRIDES[MEASURED],
        "offset": OFFSETS[MEASURED],
    }
    keys = estate.entity_keys
    _series(admin, "bench_pairs", tenant_id, names[:2], keys)
    for number in range(estate.past_rounds, 0, -1):
        at_us = base_us - number * PAST_STEP_US
        admin.execute(_FILL.format(name="bench_pairs"), {**facts, "at_us": at_us, "shift": number})
    _series(admin, "bench_followed", tenant_id, names[: estate.hot], keys[: estate.followed])
    for number in range(estate.followed_minutes):
        at_us = estate.followed_start_us(base_us) + number * MINUTE_US
        admin.execute(
            _FILL.format(name="bench_followed"), {**facts, "at_us": at_us, "shift": 1 + number}
        )
    admin.execute("DROP TABLE bench_pairs, bench_followed")


def _series(
    admin: "psycopg.Connection[Any]",
    name: str,
    tenant_id: int,
    names: list[str],
    keys: list[str],
) -> None:
    admin.execute(_SERIES.format(name=name), {"tenant_id": tenant_id, "names": names, "keys": keys})
    admin.execute(f"ANALYZE {name}")
