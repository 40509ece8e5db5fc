"""`python -m atlas_cdc_reconciler.archives`: takes what retention archived into a warehouse.

For a warehouse that is made anew: what retention dropped at the source is nowhere else. Exit codes:
0 done, 1 an archive is not what was said, 2 wrong usage, or the file cannot be owned.
"""

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from pyarrow import parquet

from atlas_cdc_reconciler.config import WarehouseConfig
from atlas_cdc_reconciler.sink.books import forget_rows
from atlas_cdc_reconciler.sink.history import append_rows
from atlas_cdc_reconciler.sink.warehouse_file import opened
from atlas_cdc_reconciler.tables import HISTORY
from atlas_common.errors import FatalError

_ROWS_AT_A_TIME = 122_880
_EPILOG = """\
The service must not run meanwhile: one process owns the file. Each archive is one transaction and
replaces what the warehouse has of its tenants in its span: repeat it whenever you like.

example, with what the primary says it has archived:
  psql --csv --tuples-only -c "SELECT path, row_count FROM atlas.partition_archives" |
    python -m atlas_cdc_reconciler.archives --warehouse /var/lib/atlas/warehouse.duckdb \\
      --directory /srv/atlas/archive
"""


class ArchiveError(Exception):
    """An archive is missing, cannot be read, or has other rows than were written into it."""


@dataclass(frozen=True, slots=True)
class Archived:
    """A file of retention's."""

    path: Path
    row_count: int
    """That it must have."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m atlas_cdc_reconciler.archives",
        description="Take Parquet archives of retention into the warehouse. Their names and"
        " numbers of rows are read from stdin, as CSV.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--warehouse", type=Path, required=True, help="the DuckDB file")
    parser.add_argument("--directory", type=Path, required=True, help="where the archives are")
    arguments = parser.parse_args(argv)
    try:
        archives = list(_listed(sys.stdin, arguments.directory))
        with opened(WarehouseConfig(path=arguments.warehouse)) as warehouse:
            for archive in archives:
                rows = load(warehouse, archive)
                sys.stdout.write(f"{archive.path.name}: {rows:,} rows\n")
                sys.stdout.flush()
    except ArchiveError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except FatalError as error:
        sys.stderr.write(f"--warehouse: {error}\n")
        return 2
    return 0


def load(warehouse: duckdb.DuckDBPyConnection, archive: Archived) -> int:
    """Take one in, in a transaction of its own; how many rows. Raises ArchiveError."""
    try:
        with parquet.ParquetFile(archive.path) as file, _transaction(warehouse):
            _make_room(warehouse, file)
            rows = sum(_append(warehouse, batch) for batch in file.iter_batches(_ROWS_AT_A_TIME))
            if rows != archive.row_count:
                raise ArchiveError(
                    f"{archive.path} has {rows} rows, {archive.row_count} were archived:"
                    " nothing of it was loaded; look for another copy of the file"
                )
    except (OSError, pa.ArrowException, KeyError) as error:
        raise ArchiveError(f"{archive.path} cannot be read as an archive: {error}") from error
    return rows


def _make_room(warehouse: duckdb.DuckDBPyConnection, file: parquet.ParquetFile) -> None:
    """Delete what is here already of the tenants and the span."""
    described = file.schema_arrow.metadata or {}
    lower, upper = (
        datetime.fromisoformat(described[name].decode())
        for name in (b"atlas.lower_bound", b"atlas.upper_bound")
    )
    tenants = file.read(columns=["tenant_id"]).column(0).unique().to_pylist()
    for tenant_id in tenants:
        deleted = warehouse.execute(
            f"DELETE FROM {HISTORY.name} WHERE tenant_id = ?"  # noqa: S608 - our own name.
            " AND ingested_at >= ? AND ingested_at < ?",
            [tenant_id, lower, upper],
        ).fetchone()
        forget_rows(warehouse, {tenant_id: deleted[0] if deleted else 0})


def _append(warehouse: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> int:
    rows = pa.Table.from_batches([batch])
    append_rows(warehouse, HISTORY, rows)
    counted = rows.group_by("tenant_id").aggregate([([], "count_all")]).to_pydict()
    added = zip(counted["tenant_id"], counted["count_all"], strict=True)
    forget_rows(warehouse, {tenant_id: -count for tenant_id, count in added})
    return int(rows.num_rows)


@contextmanager
def _transaction(warehouse: duckdb.DuckDBPyConnection) -> Iterator[None]:
    warehouse.begin()
    try:
        yield
        warehouse.commit()
    except BaseException:
        warehouse.rollback()
        raise


def _listed(lines: Iterable[str], directory: Path) -> Iterator[Archived]:
    for number, line in enumerate(csv.reader(lines), 1):
        try:
            path, rows = line
            yield Archived(directory / path, int(rows))
        except ValueError:
            raise ArchiveError(
                f"line {number} of stdin: expected a file's name and its number of rows, as"
                f" partition_archives has them, not {','.join(line)!r}"
            ) from None


if __name__ == "__main__":
    sys.exit(main())
