"""Counts letters and rows again, and compares them with the books: the books could be wrong."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from atlas_cdc_reconciler.letters import HeldTable
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.queries import Q
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger

_DISCREPANCIES_MAX = 100
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Audit:
    """What one audit found."""

    discrepancies: tuple[str, ...] = ()
    open_letters: Mapping[str, int] = field(default_factory=dict)
    """By class."""
    held_tables: tuple[HeldTable, ...] = ()
    audited_at: float | None = None
    """Seconds since 1970; None: never yet."""


class Auditor:
    """Audits now and then, and remembers the last finding."""

    def __init__(self, warehouse: DuckDbWarehouse) -> None:
        self._warehouse = warehouse
        self.last = Audit()

    async def run(self, interval_seconds: float) -> None:
        """Audit for ever; an audit that fails is done again next time."""
        while True:
            try:
                await self.audit()
            except (ServiceError, duckdb.Error) as error:
                _log.warning("the books could not be audited", error=str(error))
            await asyncio.sleep(interval_seconds)

    async def audit(self) -> Audit:
        """Audit now, in one snapshot. Raises ServiceError when the warehouse is too busy."""
        found = []
        async with self._warehouse.reader() as reader:
            for table, tenant, read, accounted in await reader.all(Q["unbalanced"]):
                found.append(f"{table}, tenant {tenant}: {read} read, {accounted} accounted for")
            for table, tenant, booked, counted in await reader.all(Q["letters_miscounted"]):
                found.append(f"{table}, tenant {tenant}: {booked} letters booked, {counted} there")
            for tenant, booked, counted in await reader.all(Q["rows_miscounted"]):
                found.append(f"history, tenant {tenant}: {booked} rows booked, {counted} there")
            open_letters = dict(await reader.all(Q["open_letters"]))
            held = tuple(HeldTable(*row) for row in await reader.all(Q["held_tables"]))
        if found:
            _log.critical(
                "the books are not what the tables say",
                discrepancies=found[:_DISCREPANCIES_MAX],
                count=len(found),
            )
        now = time.time()  # To be shown only.
        self.last = Audit(tuple(found[:_DISCREPANCIES_MAX]), open_letters, held, now)
        return self.last
