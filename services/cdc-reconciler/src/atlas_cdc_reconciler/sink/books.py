"""The books: what became of every change, per table and tenant, in the transaction of the rows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.work import Buried, Tally
from atlas_cdc_reconciler.tables import HISTORY
from atlas_common.telemetry import logger

_log = logger(__name__)
_SCHEMA = pa.schema(
    [
        ("table_name", pa.string()),
        ("tenant_id", pa.int32()),
        ("read_count", pa.int64()),
        ("applied_count", pa.int64()),
        ("dead_lettered_count", pa.int64()),
        ("skipped_count", pa.int64()),
        ("stored_rows", pa.int64()),
    ]
)


@dataclass(slots=True)
class Entry:
    """Changes of one table and tenant to be added to the books; less than 0: taken away."""

    table: str
    tenant_id: int | None
    read: int = 0
    applied: int = 0
    dead_lettered: int = 0
    skipped: int = 0
    stored_rows: int = 0
    """Of the history: rows added less rows deleted."""


class Ledger:
    """Entries of one transaction, one per table and tenant."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, int | None], Entry] = {}

    def entry(self, table: str, tenant_id: int | None) -> Entry:
        """The entry of a table and tenant."""
        key = (table, tenant_id)
        if key not in self._entries:
            self._entries[key] = Entry(table, tenant_id)
        return self._entries[key]

    def add_tally(self, table: str, tally: Tally) -> None:
        """Take in what was read, applied and stored."""
        for tenant_id, count in tally.read.items():
            self.entry(table, tenant_id).read += count
        for tenant_id, count in tally.applied.items():
            self.entry(table, tenant_id).applied += count
        for tenant_id, count in tally.stored_rows.items():
            self.entry(table, tenant_id).stored_rows += count

    def add_buried(self, table: str, buried: Iterable[Buried]) -> None:
        """Take in what became letters."""
        for tenant_id, count in Counter(each.tenant_id for each in buried).items():
            self.entry(table, tenant_id).dead_lettered += count

    def check(self, delivered: Mapping[str, int]) -> None:
        """Raise the alarm where the entries are not conserved, or not all that was delivered."""
        for entry in self._entries.values():
            if entry.read != entry.applied + entry.dead_lettered + entry.skipped:
                _alarm(entry.table, entry.tenant_id, "read", entry)
        for table, count in delivered.items():
            accounted = sum(entry.read for entry in self._entries.values() if entry.table == table)
            if accounted != count:
                metrics.violations.add(1, {"table": table})
                _log.critical(
                    "conservation is violated", table=table, delivered=count, read=accounted
                )

    def post(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Add them to the books, in the open transaction."""
        entries = list(self._entries.values())
        if not entries:
            return
        rows = pa.table(
            {
                "table_name": [entry.table for entry in entries],
                "tenant_id": [entry.tenant_id for entry in entries],
                "read_count": [entry.read for entry in entries],
                "applied_count": [entry.applied for entry in entries],
                "dead_lettered_count": [entry.dead_lettered for entry in entries],
                "skipped_count": [entry.skipped for entry in entries],
                "stored_rows": [entry.stored_rows for entry in entries],
            },
            schema=_SCHEMA,
        )
        connection.register("cdc_entries", rows)
        try:
            connection.execute(Q["post"])
        finally:
            connection.unregister("cdc_entries")

    def export(self) -> None:
        """Count them for the collector, once they are committed."""
        for entry in self._entries.values():
            for outcome in ("applied", "dead_lettered", "skipped"):
                count = getattr(entry, outcome)
                if count > 0:
                    tenant = "" if entry.tenant_id is None else entry.tenant_id
                    metrics.changes.add(
                        count, {"table": entry.table, "tenant": tenant, "outcome": outcome}
                    )


def forget_rows(connection: duckdb.DuckDBPyConnection, by_tenant: Mapping[int, int]) -> None:
    """Rows of the history were deleted by no change of the source: to be copied again, or repaired.

    In the transaction that deletes them; rows that are added that way count less than 0.
    """
    ledger = Ledger()
    for tenant_id, count in by_tenant.items():
        ledger.entry(HISTORY.name, tenant_id).stored_rows -= count
    ledger.post(connection)


def _alarm(table: str, tenant_id: int | None, what: str, entry: Entry) -> None:
    metrics.violations.add(1, {"table": table})
    _log.critical(
        "conservation is violated", table=table, tenant_id=tenant_id, what=what, entry=str(entry)
    )
