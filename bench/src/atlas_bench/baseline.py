"""The raw baseline of ingest: one connection's binary COPY of the same points into the table.

As administrator, since COPY refuses tables with row-level security to everybody else; into tenants
that are in no catalog. The rows take part in everything below the table (WAL, replicas, warehouse)
like the platform's, so both are measured on the same ground.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from atlas_bench.copy_format import COLUMNS, POSTGRES_EPOCH_US, copy_template
from atlas_bench.tally import Outcome, Tally
from atlas_bench.workload import Shape

FIRST_TENANT_ID = 2_000_000_001
_COPY = f"COPY entity_values_ts ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"


class CopyBaseline:
    """An open connection, and the points as COPY takes them."""

    def __init__(self, connection: "psycopg.Connection[Any]", shape: Shape) -> None:
        self._connection = connection
        self._template = copy_template(shape, tenant_ids(shape))
        self.rows_per_copy = len(self._template.offsets) // 2

    def run(self, seconds: float) -> Tally:
        """COPY and commit, one after another, for so many seconds."""
        tally = Tally()
        began = time.perf_counter()
        while (sent := time.perf_counter()) - began < seconds:
            body = self._template.with_big_endian(self._times())
            with self._connection.cursor().copy(_COPY) as copy:
                copy.write(body)
            tally.record(time.perf_counter() - sent, Outcome())
        tally.elapsed_seconds = time.perf_counter() - began
        return tally

    def _times(self) -> npt.NDArray[np.int64]:
        now = time.time_ns() // 1_000 - POSTGRES_EPOCH_US
        times = np.empty((self.rows_per_copy, 2), dtype=np.int64)
        times[:, 0] = now - self.rows_per_copy + np.arange(self.rows_per_copy)  # event_time
        times[:, 1] = now  # ingested_at
        return times.reshape(-1)


def tenant_ids(shape: Shape) -> Sequence[int]:
    """Return the ids of the baseline's tenants: far from those that a catalog gives."""
    return range(FIRST_TENANT_ID, FIRST_TENANT_ID + shape.tenants)


@contextmanager
def opened(admin_dsn: str, shape: Shape, *, remove_rows: bool) -> Iterator[CopyBaseline]:
    """Give a baseline; `remove_rows` deletes afterwards what it wrote."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        try:
            yield CopyBaseline(connection, shape)
        finally:
            if remove_rows:
                connection.execute(
                    "DELETE FROM entity_values_ts WHERE tenant_id = ANY (%s)",
                    [list(tenant_ids(shape))],
                )
