"""Archives of retention are loaded into a warehouse, whole or not at all, and once."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyarrow import parquet

from atlas_cdc_reconciler import archives

LOWER = datetime(2026, 1, 1, tzinfo=UTC)
UPPER = LOWER + timedelta(days=1)
TENANTS = (1, 2)
TIME = pa.timestamp("us", tz="UTC")


def write_archive(path: Path, per_tenant: int) -> None:
    rows = [
        {
            "tenant_id": tenant,
            "entity_id": 1,
            "attribute_id": 1,
            "event_time": LOWER,
            "ingested_at": LOWER + timedelta(seconds=number),
            "quality": 0,
            "value_double": float(number),
        }
        for tenant in TENANTS
        for number in range(per_tenant)
    ]
    fields = {"tenant_id": pa.int32(), "entity_id": pa.int64(), "attribute_id": pa.int32()}
    fields |= {"event_time": TIME, "ingested_at": TIME, "quality": pa.int16()}
    schema = pa.schema({**fields, "value_double": pa.float64()}).with_metadata(
        {"atlas.lower_bound": LOWER.isoformat(), "atlas.upper_bound": UPPER.isoformat()}
    )
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def loads(monkeypatch: pytest.MonkeyPatch, warehouse: Path, listed: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    directory = str(warehouse.parent)
    return archives.main(["--warehouse", str(warehouse), "--directory", directory])


def rows_and_books(warehouse: Path) -> list[tuple[int, int, int]]:
    with duckdb.connect(str(warehouse)) as file:
        return file.execute(
            "SELECT tenant_id, count(*), any_value(c.stored_rows) FROM entity_values_ts"
            " JOIN cdc_counters AS c USING (tenant_id) WHERE c.table_name = 'entity_values_ts'"
            " GROUP BY 1 ORDER BY 1"
        ).fetchall()


def test_what_is_loaded_twice_is_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    write_archive(tmp_path / "day.month.1.parquet", 5)
    for _ in range(2):
        assert loads(monkeypatch, warehouse, "day.month.1.parquet,10\n") == 0
    assert rows_and_books(warehouse) == [(1, 5, 5), (2, 5, 5)]


@pytest.mark.parametrize("listed", ["day.month.1.parquet,11\n", "gone.parquet,1\n", "nonsense\n"])
def test_an_archive_that_is_not_what_was_archived_leaves_all_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    listed: str,
) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    write_archive(tmp_path / "day.month.1.parquet", 5)
    assert loads(monkeypatch, warehouse, "day.month.1.parquet,10\n") == 0
    assert loads(monkeypatch, warehouse, listed) == 1
    assert listed.split(",", maxsplit=1)[0].strip() in capsys.readouterr().err
    assert rows_and_books(warehouse) == [(1, 5, 5), (2, 5, 5)]


def test_a_file_that_is_no_warehouse_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = tmp_path / "warehouse.duckdb"
    warehouse.write_text("something of somebody's\n" * 1000)
    before = warehouse.read_bytes()
    assert loads(monkeypatch, warehouse, "") == 2
    assert "--warehouse" in capsys.readouterr().err
    assert warehouse.read_bytes() == before
