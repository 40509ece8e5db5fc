"""Files of whole days for other tools: verified rows only, each day one Parquet file.

A file is written beside its name and moved there when it is complete, so whoever lists the
directory sees whole days only. It says in its metadata which rows it has, by their checksum; a day
whose rows were corrected since is written again.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atlas_cdc_reconciler.sink import WarehouseError
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.reading import Reader
from atlas_cdc_reconciler.verification_store import read_verification
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger

DAY_US = 86_400_000_000
_EPOCH = date(1970, 1, 1)
_CHECKSUM = b"atlas.checksum"
_ROWS_AT_A_TIME = 122_880
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Day:
    """A day of ingested_at as it was compared with the source."""

    number: int
    """Since 1970."""
    rows: int
    checksum: str
    """Of all tenants' rows, so that other rows have another one."""

    @property
    def name(self) -> str:
        """The day in ISO 8601."""
        return (_EPOCH + timedelta(days=self.number)).isoformat()

    def file(self, directory: Path) -> Path:
        """Where its rows go: a layout that tools know as partitions."""
        return directory / "entity_values_ts" / f"ingested_day={self.name}" / "points.parquet"


class Exporter:
    """Keeps a directory of days up to date."""

    def __init__(self, warehouse: DuckDbWarehouse, directory: Path) -> None:
        self._warehouse = warehouse
        self._directory = directory
        self._known: dict[int, str] = {}  # Checksums of the days whose files were looked at.

    async def run(self, interval_seconds: float) -> None:
        """Write what is missing, again and again, until cancelled."""
        while True:
            try:
                await self.write_missing()
            except (ServiceError, WarehouseError, OSError) as error:
                _log.warning("export interrupted", error=str(error))
            await asyncio.sleep(interval_seconds)

    async def write_missing(self) -> list[Day]:
        """Write the days that are sealed and have no file, or one of other rows; returns them.

        A day is sealed when it is over and every tenant's rows of it are verified. Raises
        ServiceError as a reader does, OSError when a file cannot be written.
        """
        written = []
        async with self._warehouse.reader() as reader:
            days = await _compared_days(reader)
        for day in days:
            path = day.file(self._directory)
            if self._known.get(day.number) == day.checksum and path.exists():
                continue
            if await asyncio.to_thread(_checksum_of, path) != day.checksum:
                # A snapshot for each: a long one keeps the space of everything deleted meanwhile.
                async with self._warehouse.reader() as reader:
                    if day not in await _compared_days(reader) or not await _is_sealed(reader, day):
                        continue
                    await self._write(reader, day, path)
                written.append(day)
            self._known[day.number] = day.checksum
        return written

    async def _write(self, reader: Reader, day: Day, path: Path) -> None:
        rows = 0
        with _replacing(path) as unfinished:
            writer: pq.ParquetWriter | None = None
            try:
                for tenant_id in await _tenants(reader, day):
                    parameters = {**_span(day), "tenant_id": tenant_id}
                    async for batch in reader.batches(Q["day_rows"], parameters, _ROWS_AT_A_TIME):
                        if writer is None:
                            schema = batch.schema.with_metadata({_CHECKSUM: day.checksum})
                            writer = pq.ParquetWriter(unfinished, schema, compression="zstd")
                        await asyncio.to_thread(writer.write_batch, batch)
                        rows += batch.num_rows
            finally:
                if writer is not None:
                    await asyncio.to_thread(writer.close)
            if rows != day.rows:
                raise OSError(f"{day.name} has {rows} rows, {day.rows} were verified")
        _log.info("day exported", day=day.name, rows=rows, path=str(path))


async def _compared_days(reader: Reader) -> list[Day]:
    """Days that are over and in which nothing is known to differ, the first one first."""
    rows = await reader.all(Q["compared_days"], {"day_us": DAY_US})
    return [Day(number, int(count), f"{count}:{high}:{low}") for number, count, high, low in rows]


async def _is_sealed(reader: Reader, day: Day) -> bool:
    for tenant_id in await _tenants(reader, day):
        found = await read_verification(reader, tenant_id)
        if found is None or found.verified_through_us < (day.number + 1) * DAY_US:
            return False
    return True


async def _tenants(reader: Reader, day: Day) -> list[int]:
    return [row[0] for row in await reader.all(Q["day_tenants"], _span(day))]


def _span(day: Day) -> dict[str, object]:
    return {"start": day.number * DAY_US, "stop": (day.number + 1) * DAY_US}


def _checksum_of(path: Path) -> str | None:
    """Of the rows in a file; None if there is no such file, or it is another's."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return None
    checksum: bytes | None = metadata.get(_CHECKSUM)
    return None if checksum is None else checksum.decode()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what was written takes the name in one step, if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        unfinished.unlink(missing_ok=True)
