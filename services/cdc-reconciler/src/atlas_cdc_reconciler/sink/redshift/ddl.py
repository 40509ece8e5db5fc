"""The warehouse's tables in Redshift; pure.

No key is declared: Redshift would not enforce it, but believe it when it plans.
"""

from collections.abc import Iterable, Iterator

from atlas_cdc_reconciler.sink.redshift import letters
from atlas_cdc_reconciler.sink.redshift.dialect import (
    CHANGE_NUMBER,
    COPIES,
    Stored,
    quoted,
    stored_columns,
)
from atlas_cdc_reconciler.tables import HISTORY, TABLES, Table

# A tenant's rows of a time lie together, so that others are not read. Spread by entity, not by
# tenant: one large tenant would otherwise be the work of one slice.
_LAYOUTS = {
    HISTORY.name: "DISTSTYLE KEY DISTKEY({entity_id}) COMPOUND SORTKEY({tenant_id}, {ingested_at})",
    "entities": "DISTSTYLE KEY DISTKEY({entity_id}) COMPOUND SORTKEY({tenant_id}, {entity_id})",
}
_SMALL = "DISTSTYLE ALL SORTKEY({keys})"
_BOOKS = (
    # The fence: who claimed last is the only one that may write.
    "CREATE TABLE IF NOT EXISTS cdc_owner (epoch BIGINT NOT NULL,"
    " owner VARCHAR(512) NOT NULL) DISTSTYLE ALL",
    "CREATE TABLE IF NOT EXISTS cdc_position"
    " (source_id VARCHAR(512) NOT NULL, log_offset BIGINT NOT NULL, lsn BIGINT NOT NULL)"
    " DISTSTYLE ALL",
    "CREATE TABLE IF NOT EXISTS cdc_counters (table_name VARCHAR(128) NOT NULL,"
    " read_count BIGINT NOT NULL, applied_count BIGINT NOT NULL,"
    " dead_lettered_count BIGINT NOT NULL, skipped_count BIGINT NOT NULL) DISTSTYLE ALL",
)


def schema_statements() -> Iterator[str]:
    """What makes all tables that are missing; may be run again."""
    for table in TABLES.values():
        yield create_table(table)
    yield from _BOOKS
    yield from letters.create_letters()


def create_table(table: Table) -> str:
    """The statement that makes a table, unless it is there."""
    columns = ", ".join(
        f"{quoted(stored.name)} {stored.sql_type}{' NOT NULL' if stored.not_null else ''}"
        for stored in stored_columns(table)
    )
    return f"CREATE TABLE IF NOT EXISTS {quoted(table.name)} ({columns}) {_layout(table)}"


def create_stage(
    name: str, columns: Iterable[Stored], *, distributed_by: str | None, with_copies: bool = False
) -> str:
    """The statement that makes a staging table; this session's own, so that no two share one.

    Its columns have the order of the Parquet files: COPY goes by that.
    """
    parts = [f"{quoted(CHANGE_NUMBER)} BIGINT NOT NULL"]
    if with_copies:
        parts.append(f"{quoted(COPIES)} BIGINT NOT NULL")
    parts += [f"{quoted(stored.name)} {stored.staged_type}" for stored in columns]
    layout = f" DISTKEY({quoted(distributed_by)})" if distributed_by else ""
    return f"CREATE TEMPORARY TABLE {quoted(name)} ({', '.join(parts)}){layout}"


def distribution_key(table: Table) -> str | None:
    """The column that decides where a row lies, so that what is joined to it lies there too."""
    return "entity_id" if table.name in _LAYOUTS else None


def _layout(table: Table) -> str:
    names = {name: quoted(name) for name in table.column_names}
    keys = ", ".join(map(quoted, table.key))
    return _LAYOUTS.get(table.name, _SMALL).format(**names, keys=keys)
