"""The question of `filter`, asked over rows as an entity-attribute-value table would be.

By psycopg, as the role of the query service, within the tenant: what the projection saves.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from atlas_bench.read.questions import FILTER_ATTRIBUTES, PAGE_SIZE
from atlas_bench.read.runs import Run
from atlas_bench.read.values import STATUSES, tier_names

# The newest point of each entity and attribute, then those that have both values.
_SORTED = """
SELECT latest.entity_id
FROM (
    SELECT DISTINCT ON (p.entity_id, p.attribute_id) p.entity_id, p.attribute_id, p.value_text
    FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.attribute_id = ANY (%(attribute_ids)s)
    ORDER BY p.entity_id, p.attribute_id, p.event_time DESC, p.ingested_at DESC
) AS latest
JOIN unnest(%(attribute_ids)s::integer[], %(values)s::text[]) AS wanted (attribute_id, value)
    ON wanted.attribute_id = latest.attribute_id AND wanted.value = latest.value_text
GROUP BY latest.entity_id
HAVING count(*) = cardinality(%(values)s::text[])
ORDER BY latest.entity_id
LIMIT %(page_size)s
"""
# Entity by entity through the index; the second attribute only of those that have the first value.
_LATEST = """
(
    SELECT p.value_text FROM entity_values_ts AS p
    WHERE p.tenant_id = %(tenant_id)s AND p.entity_id = e.entity_id
        AND p.attribute_id = (%(attribute_ids)s::integer[])[{number}]
    ORDER BY p.event_time DESC, p.ingested_at DESC LIMIT 1
) = (%(values)s::text[])[{number}]
"""
_LOOKED_UP = f"""
SELECT e.entity_id FROM entities AS e
WHERE e.tenant_id = %(tenant_id)s
    AND {_LATEST.format(number=1)} AND {_LATEST.format(number=2)}
ORDER BY e.entity_id
LIMIT %(page_size)s
"""  # noqa: S608 - parts of ours.
WAYS = {"sorted": _SORTED, "looked_up": _LOOKED_UP}
"""Two ways to say it. Which is faster depends on how much is stored, so both are asked."""


class Eav:
    """A session that asks."""

    def __init__(
        self, connection: "psycopg.Connection[Any]", tenant_id: int, tiers: tuple[str, ...]
    ) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._tiers = tiers
        with self._in_tenant():
            rows = connection.execute(
                "SELECT name, attribute_id FROM attributes WHERE name = ANY (%s)",
                [list(FILTER_ATTRIBUTES)],
            ).fetchall()
        ids = dict(rows)
        self._attribute_ids = [ids[name] for name in FILTER_ATTRIBUTES]

    def matching(self, status: int, tier: int, way: str) -> list[int]:
        """Return the ids of the entities of a page."""
        where = {
            "tenant_id": self._tenant_id,
            "attribute_ids": self._attribute_ids,
            "values": [STATUSES[status], self._tiers[tier]],
            "page_size": PAGE_SIZE,
        }
        with self._in_tenant():
            return [row[0] for row in self._connection.execute(WAYS[way], where).fetchall()]

    def run(self, status: int, tier: int) -> Run:
        """Ask in both ways; the latency is that of the faster one."""
        taken = {}
        for way in WAYS:
            began = time.perf_counter()
            found = self.matching(status, tier, way)
            taken[way] = round((time.perf_counter() - began) * 1_000, 3)
            assert len(found) == PAGE_SIZE, f"{len(found)} entities match"
        return {"latency_ms": {"p50": min(taken.values())}, "ways_ms": taken}

    @contextmanager
    def _in_tenant(self) -> Iterator[None]:
        with self._connection.transaction():
            self._connection.execute(f"SET LOCAL atlas.tenant_id = '{self._tenant_id}'")
            yield


@contextmanager
def opened(dsn: str, tenant_id: int, tiers: int) -> Iterator[Eav]:
    """Connect as the query service does."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield Eav(connection, tenant_id, tier_names(tiers))
