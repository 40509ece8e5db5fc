"""The platform under test: ingest and the warehouse, with a history to compare."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from atlas_bench.catalog import make_catalog
from atlas_bench.errors import BenchError
from atlas_bench.partitions import make_past_partitions
from atlas_bench.progress import say
from atlas_bench.reconcile.options import ReconcileOptions
from atlas_devstack.errors import DevstackError
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.servers import ServerOptions
from atlas_devstack.services import Service
from atlas_devstack.stack import Stack, StackOptions

TENANT = "measured"
SERVICE = "cdc-reconciler"
_ATTRIBUTES = 10
_ROWS_AT_A_TIME = 250_000
_SETTLE_SECONDS_MAX = 600.0
_POLL_SECONDS = 0.1
_FOLLOWED = """
SELECT coalesce(bool_and(confirmed_flush_lsn >= %(lsn)s), false)
FROM pg_replication_slots WHERE slot_type = 'logical' AND active
"""
# (entity, attribute) is unique: a peer needs a key. Values of three types, as telemetry has them.
# Doubles are small: the peer casts them to 13 decimal places, which DuckDB rounds for large ones,
# and would find a million differences that are none.
_FILL = """
INSERT INTO entity_values_ts (tenant_id, entity_id, attribute_id, event_time, ingested_at, quality,
    value_double, value_int, value_text)
SELECT %(tenant_id)s, n / 10 + 1, n %% 10 + 1, at - interval '1 second', at, 0,
    CASE WHEN n %% 10 < 7 THEN n %% 1000000 / 8.0 END, CASE WHEN n %% 10 IN (7, 8) THEN n END,
    CASE WHEN n %% 10 = 9 THEN 'state ' || n %% 100 END
FROM (
    SELECT n, {at} AS at FROM generate_series(%(first)s::bigint, %(last)s::bigint - 1) AS n
) AS numbered
"""
_AT_PAST = "%(start)s::timestamptz + (n * %(step_us)s) * interval '1 microsecond'"
_AT_NOW = "clock_timestamp()"


@dataclass
class Rig:
    """A running platform, and the rows that are in it."""

    options: ReconcileOptions
    stack: Stack
    admin: "psycopg.Connection[Any]"
    tenant_id: int = 0
    rows: int = 0

    @property
    def service(self) -> Service:
        """The reconciler."""
        return self.stack.services[SERVICE]

    def fill(self) -> None:
        """Store the history, and wait until the warehouse has it. Raises BenchError."""
        (self.tenant_id,) = make_catalog(self.stack.endpoints, {TENANT: ()}, ())
        days = int(self.options.hours // 24) + 2
        make_past_partitions(self.admin, days)
        row = self.admin.execute(
            "SELECT now() - make_interval(secs => %s)", [(self.options.hours + 1) * 3600]
        ).fetchone()
        assert row is not None
        step_us = self.options.hours * 3.6e9 / self.options.rows
        while self.rows < self.options.rows:
            count = min(_ROWS_AT_A_TIME, self.options.rows - self.rows)
            self._insert(_AT_PAST, count, start=row[0], step_us=step_us)
            if self.rows % (4 * _ROWS_AT_A_TIME) == 0:
                say(f"  {self.rows:,} rows stored")
        self.admin.execute("VACUUM (ANALYZE) entity_values_ts")
        self.settle()

    def add_new(self) -> int:
        """Store as many new rows as an incremental run is to find; returns how many."""
        before = self.rows
        self._insert(_AT_NOW, max(1, round(self.options.rows * self.options.new_share)))
        self.settle()
        return self.rows - before

    def settle(self) -> None:
        """Wait until the warehouse has what was written. Raises BenchError when it does not."""
        deadline = time.monotonic() + _SETTLE_SECONDS_MAX
        row = self.admin.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        while self.admin.execute(_FOLLOWED, {"lsn": row[0]}).fetchone() != (True,):
            if time.monotonic() > deadline:
                raise BenchError(f"the warehouse was behind for {_SETTLE_SECONDS_MAX:.0f} s")
            time.sleep(_POLL_SECONDS)

    def _insert(self, at: str, count: int, **parameters: object) -> None:
        last = self.rows + count
        numbers = {"tenant_id": self.tenant_id, "first": self.rows, "last": last}
        self.admin.execute(_FILL.format(at=at).encode(), {**numbers, **parameters})
        self.rows = last


@contextmanager
def running(options: ReconcileOptions) -> Iterator[Rig]:
    """Start a platform in a temporary directory; removed afterwards. Raises BenchError."""
    settings = {"max_wal_size": "16GB", "checkpoint_timeout": "30min"}
    postgres = PostgresOptions(
        replicas=0, shared_buffers_mb=options.shared_buffers_mb, settings=settings
    )
    with ExitStack() as undo:
        directory = undo.enter_context(tempfile.TemporaryDirectory(prefix="atlas-bench-"))
        stack_options = StackOptions(
            services=("ingest", "hotcache", SERVICE),
            servers=ServerOptions(postgres=postgres),
            # By itself it would compare in the middle of what is measured.
            environment={SERVICE: {"ATLAS_RECONCILE__INTERVAL_SECONDS": "0"}},
            heal_services=False,  # One that dies is a result, not something to hide.
        )
        try:
            stack = Stack.start(Path(directory) / "state", stack_options)
        except DevstackError as error:
            raise BenchError(f"the platform did not start: {error}") from error
        undo.callback(stack.remove)
        admin = undo.enter_context(psycopg.connect(stack.endpoints.primary, autocommit=True))
        yield Rig(options, stack, admin)
