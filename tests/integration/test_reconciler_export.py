"""Parquet files of days: verified rows only, whole or not there, written again when rows change."""

from collections.abc import AsyncIterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.export import DAY_US, Exporter
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.verification_store import VerificationStore
from atlas_cdc_reconciler.warehouse_digests import WarehouseDigests
from atlas_cdc_reconciler.windows import Span, WindowComparison
from atlas_common.tenant import Tenant

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")
FIRST_DAY = 20_454  # 2026-01-01
T0_US = FIRST_DAY * DAY_US
HOUR_US = 3_600_000_000
ROWS = 4_000
# Two days and some, of both tenants, no row like another.
FILL = """
    INSERT INTO entity_values_ts BY NAME
    SELECT 1 + n % 2 AS tenant_id, n % 3 AS attribute_id, n AS entity_id,
        make_timestamptz(n) AS event_time,
        make_timestamptz(($t0 + n * 2.2 * 86400000000 // $rows)::BIGINT) AS ingested_at,
        0 AS quality, n / 8.0 AS value_double
    FROM (SELECT range AS n FROM range($rows))
"""
BEAT = "INSERT INTO replication_heartbeat VALUES (1, 1, make_timestamptz($at))"


@pytest.fixture
async def warehouse(tmp_path: Path) -> AsyncIterator[DuckDbWarehouse]:
    async with DuckDbWarehouse.open(WarehouseConfig(path=tmp_path / "w.duckdb")) as warehouse:
        await VerificationStore(warehouse).use_width(HOUR_US)
        await warehouse.write(
            [(FILL, {"t0": T0_US, "rows": ROWS}), (BEAT, {"at": T0_US + 3 * DAY_US - HOUR_US})]
        )
        yield warehouse


async def verify(warehouse: DuckDbWarehouse, tenant: Tenant, days: int) -> None:
    """Remember that so many days of the tenant are equal on both sides."""
    store, span = VerificationStore(warehouse), Span(T0_US, T0_US + days * DAY_US)
    digests = await WarehouseDigests(warehouse).digests(tenant, span, HOUR_US)
    await store.keep(
        tenant,
        span,
        [
            WindowComparison(Span(number * HOUR_US, (number + 1) * HOUR_US), digest, digest)
            for number, digest in digests.items()
        ],
        compared_through_us=span.stop_us,
        checked_at_us=span.stop_us,
    )


def file_of(directory: Path, day: str) -> Path:
    return directory / "entity_values_ts" / f"ingested_day={day}" / "points.parquet"


async def test_days_are_written_once_all_tenants_are_verified(
    warehouse: DuckDbWarehouse, tmp_path: Path
) -> None:
    exporter = Exporter(warehouse, tmp_path / "out")
    assert await exporter.write_missing() == []
    await verify(warehouse, ACME, 3)
    assert await exporter.write_missing() == []
    await verify(warehouse, GLOBEX, 1)
    assert [day.name for day in await exporter.write_missing()] == ["2026-01-01"]
    await verify(warehouse, GLOBEX, 3)
    # The third day is not over, although all of it that there is is verified.
    assert [day.name for day in await exporter.write_missing()] == ["2026-01-02"]
    assert await exporter.write_missing() == []
    assert await Exporter(warehouse, tmp_path / "out").write_missing() == []
    async with warehouse.reader() as reader:
        stored = await reader.all(
            "SELECT tenant_id, entity_id, value_double FROM entity_values_ts"
            " WHERE ingested_at < make_timestamptz($stop) ORDER BY ALL",
            {"stop": T0_US + 2 * DAY_US},
        )
    exported = [
        (row["tenant_id"], row["entity_id"], row["value_double"])
        for day in ("2026-01-01", "2026-01-02")
        for row in pq.ParquetFile(file_of(tmp_path / "out", day)).read().to_pylist()
    ]
    assert sorted(exported) == stored
    tenants = pq.ParquetFile(file_of(tmp_path / "out", "2026-01-01")).read()["tenant_id"]
    assert pc.equal(tenants, tenants.take(pc.sort_indices(tenants))).to_pylist().count(False) == 0


async def test_a_day_is_written_again_when_its_rows_were_corrected(
    warehouse: DuckDbWarehouse, tmp_path: Path
) -> None:
    exporter = Exporter(warehouse, tmp_path / "out")
    for tenant in (ACME, GLOBEX):
        await verify(warehouse, tenant, 2)
    assert len(await exporter.write_missing()) == 2
    await warehouse.write(
        [
            ("UPDATE entity_values_ts SET value_double = -1 WHERE entity_id = 7", {}),
            ("UPDATE cdc_windows SET is_matched = false WHERE start_us = $at", {"at": T0_US}),
        ]
    )
    # In doubt, it stays as it was.
    assert await exporter.write_missing() == []
    await verify(warehouse, GLOBEX, 2)
    await verify(warehouse, ACME, 2)
    assert [day.name for day in await exporter.write_missing()] == ["2026-01-01"]
    rows = pq.ParquetFile(file_of(tmp_path / "out", "2026-01-01")).read().to_pylist()
    assert [row["value_double"] for row in rows if row["entity_id"] == 7] == [-1.0]


async def test_what_cannot_be_finished_is_not_there(
    warehouse: DuckDbWarehouse, tmp_path: Path
) -> None:
    for tenant in (ACME, GLOBEX):
        await verify(warehouse, tenant, 2)
    # More rows than were verified, and nobody said so: they must not go out as verified ones.
    await warehouse.write(
        [("INSERT INTO entity_values_ts SELECT * FROM entity_values_ts WHERE entity_id = 7", {})]
    )
    exporter, path = Exporter(warehouse, tmp_path / "out"), file_of(tmp_path / "out", "2026-01-01")
    with pytest.raises(OSError, match=r"2026-01-01 has .* rows, .* were verified"):
        await exporter.write_missing()
    assert list(path.parent.iterdir()) == []
    # What another left there is replaced, and so is what a crash left behind.
    await warehouse.write([("DELETE FROM entity_values_ts WHERE entity_id = 7", {})])
    for tenant in (ACME, GLOBEX):
        await verify(warehouse, tenant, 2)
    path.write_bytes(b"half a file")
    path.with_name(".points.parquet.unfinished").write_bytes(b"half a file")
    assert len(await exporter.write_missing()) == 2
    assert list(path.parent.iterdir()) == [path]
    assert pq.ParquetFile(path).metadata.num_rows > 0
