"""What tests of access statistics need: the counts of a running platform, once they are told."""

from collections.abc import Callable
from typing import Any

import psycopg

from atlas_devstack.waiting import wait_until

from .query_reading import PATIENCE

COUNTING = {"ATLAS_ACCESS__SAMPLE_EVERY": "1", "ATLAS_ACCESS__FLUSH_SECONDS": "0.1"}
"""Query counts every call, and tells soon."""
DECIDING = {
    "ATLAS_PROMOTION__MODE": "dry_run",
    "ATLAS_PROMOTION__INTERVAL_SECONDS": "0.2",
    "ATLAS_PROMOTION__HOURS_MIN": "1",
    "ATLAS_PROMOTION__CONFIRMATIONS": "2",
    "ATLAS_PROMOTION__DWELL_HOURS": "0",
    "ATLAS_PROMOTION__IDLE_READS_PER_HOUR": "1",
}
"""Hotcache says often what it would do, and does nothing."""
WHATEVER_IS_HOT = ""

Counts = dict[tuple[str, str], tuple[int, int, int, int]]


class AccessCounts:
    """The counts in a database, by the keys of tenants and the names of attributes."""

    def __init__(self, admin: "psycopg.Connection[Any]") -> None:
        self._admin = admin

    def forget(self) -> None:
        """Nothing was counted yet, and nothing is on its way."""
        self.after_a_flush()
        self._admin.execute("TRUNCATE attribute_access")

    def flushes(self) -> int:
        """How often was told what was counted."""
        row = self._admin.execute(
            "SELECT coalesce(sum(flush_count), 0) FROM access_hours"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def after_a_flush(self) -> None:
        """Return after a flush that began after this call: the one under way, and the next."""
        seen = self.flushes()
        self.wait(lambda: self.flushes() >= seen + 2, "two flushes")

    def all(self) -> Counts:
        """(tenant, attribute) -> reads, of them while hot, filters, of them refused."""
        self.after_a_flush()
        found = self._admin.execute(
            "SELECT t.key, coalesce(a.name, ''), sum(read_count)::int, sum(hot_count)::int,"
            " sum(filter_count)::int, sum(refused_count)::int"
            " FROM attribute_access AS x JOIN tenants AS t USING (tenant_id)"
            " LEFT JOIN attributes AS a USING (tenant_id, attribute_id) GROUP BY 1, 2"
        ).fetchall()
        return {(row[0], row[1]): (row[2], row[3], row[4], row[5]) for row in found}

    def let_an_hour_pass(self) -> None:
        """What was counted was counted in the last full hour."""
        self.after_a_flush()
        self._admin.execute("UPDATE attribute_access SET hour = hour - interval '1 hour'")
        self._admin.execute(
            "INSERT INTO access_hours SELECT hour - interval '1 hour', 1 FROM access_hours"
            " ON CONFLICT DO NOTHING"
        )

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """With a deadline."""
        wait_until(condition, what, patience=PATIENCE)
