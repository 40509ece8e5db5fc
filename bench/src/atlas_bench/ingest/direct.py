"""What the platform is compared to: psycopg writing the same points straight into the table.

No staging, no projection, no validation, no ledger: the rows, their indexes and their WAL. As
administrator, since COPY refuses tables with row-level security to everybody else; into tenants
that are in no catalog.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import psycopg

from atlas_bench.copy_format import (
    COLUMNS,
    HEADER,
    POSTGRES_EPOCH_US,
    TRAILER,
    VALUE_TYPES,
    WHOSE,
    copy_row,
    whose,
)
from atlas_bench.ingest.blocks import Block, joined
from atlas_bench.ingest.fleet import Fleet, Window
from atlas_bench.template import Template

FIRST_TENANT_ID = 2_000_000_001
COPY_ROWS = 20_000
EXECUTEMANY_ROWS = 1_000
_EXECUTEMANY_BATCHES = 60
_TEMPLATES_MAX = 2_000
_COPY = f"COPY entity_values_ts ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_INSERT = (
    f"INSERT INTO entity_values_ts ({', '.join(COLUMNS)})"  # noqa: S608 - names of ours.
    f" VALUES ({', '.join(['%s'] * len(COLUMNS))})"
)

_Row: TypeAlias = tuple[tuple[int, int, int], tuple[Any, ...]]
"""What stands before the two times, and after them."""


@dataclass(frozen=True)
class Written:
    """What a run stored."""

    rows: int
    seconds: float

    @property
    def rows_per_s(self) -> float:
        """Its rate."""
        return self.rows / self.seconds if self.seconds else 0.0


class Direct:
    """An open connection, and the fleet's points in the forms that psycopg takes."""

    def __init__(self, connection: "psycopg.Connection[Any]", fleet: Fleet) -> None:
        self._connection = connection
        self._fleet = fleet
        self._block = cache(self._make_block)
        self._copies = cache(self._make_copies)
        self._inserts = cache(self._make_inserts)
        self._turn = 0

    def prepare(self, rows_per_copy: int = COPY_ROWS) -> None:
        """Encode the batches of copy(): not a part of any run."""
        self._copies(rows_per_copy)

    def copy(self, seconds: float, rows_per_copy: int = COPY_ROWS) -> Written:
        """COPY and commit, batch after batch."""
        templates = self._copies(rows_per_copy)
        rows = len(templates[0].offsets) // 2

        def one(turn: int) -> int:
            body = templates[turn % len(templates)].with_big_endian(_copy_times(rows))
            with self._connection.cursor().copy(_COPY) as copy:
                copy.write(body)
            return rows

        return self._repeat(seconds, one)

    def executemany(self, seconds: float) -> Written:
        """INSERT and commit 1,000 rows at a time, as it is written without knowing better."""
        batches = self._inserts()

        def one(turn: int) -> int:
            now = datetime.now(UTC)
            rows = [
                (*head, now - timedelta(microseconds=number), now, *tail)
                for number, (head, tail) in enumerate(batches[turn % len(batches)])
            ]
            with self._connection.transaction():
                self._connection.cursor().executemany(_INSERT, rows)
            return len(rows)

        return self._repeat(seconds, one)

    def _repeat(self, seconds: float, one: Callable[[int], int]) -> Written:
        rows = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            rows += one(self._turn)
            self._turn += 1
        return Written(rows, time.perf_counter() - began)

    def _make_copies(self, rows_per_copy: int) -> list[Template]:
        windows = islice(self._fleet.windows(rows_per_copy), _TEMPLATES_MAX)
        return [self._copy_template(window) for window in windows]

    def _copy_template(self, window: Window) -> Template:
        tenant_id = tenant_ids(self._fleet)[window.tenant_index]
        parts = []
        for entity, profile in window.visits:
            block = self._block(profile)
            if window.points < len(self._fleet.attributes):
                block = block.cut(window.first_attribute, window.last_attribute)
            parts.append((block, whose(tenant_id, entity + 1)))
        return joined(parts, WHOSE, head=HEADER, tail=TRAILER)

    def _make_block(self, profile: int) -> Block:
        values = self._fleet.profile(profile)
        rows = zip(self._fleet.attributes, values, strict=True)
        return Block.of(
            [
                copy_row(number, attribute.data_type, value)
                for number, (attribute, value) in enumerate(rows, 1)
            ]
        )

    def _make_inserts(self) -> list[list[_Row]]:
        """Rows as the caller of executemany() has them: Python's own values."""
        windows = islice(self._fleet.windows(EXECUTEMANY_ROWS), _EXECUTEMANY_BATCHES)
        return [list(self._insert_rows(window)) for window in windows]

    def _insert_rows(self, window: Window) -> Iterator[_Row]:
        tenant_id = tenant_ids(self._fleet)[window.tenant_index]
        for entity, profile in window.visits:
            values = self._fleet.profile(profile)
            for number in range(window.first_attribute, window.last_attribute):
                kind = self._fleet.attributes[number].data_type.value
                fields = [values[number] if name == kind else None for name in VALUE_TYPES]
                yield (tenant_id, entity + 1, number + 1), (0, *fields)


def tenant_ids(fleet: Fleet) -> Sequence[int]:
    """Return the ids of the tenants here: far from those that a catalog gives."""
    return range(FIRST_TENANT_ID, FIRST_TENANT_ID + fleet.tenants)


@contextmanager
def opened(admin_dsn: str, fleet: Fleet) -> Iterator[Direct]:
    """Connect. The rows stay."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        yield Direct(connection, fleet)


def _copy_times(rows: int) -> npt.NDArray[np.int64]:
    now = time.time_ns() // 1_000 - POSTGRES_EPOCH_US
    times = np.empty((rows, 2), dtype=np.int64)
    times[:, 0] = now - rows + np.arange(rows)  # event_time
    times[:, 1] = now  # ingested_at
    return times.reshape(-1)
