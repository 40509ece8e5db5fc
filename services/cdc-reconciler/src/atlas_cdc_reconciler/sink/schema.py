"""The warehouse's own schema, made and brought up to date by the process that owns the file."""

import duckdb

from atlas_cdc_reconciler.tables import TABLES, Table

# No keys and indexes: DuckDB checks them too eagerly for "delete and insert the same key in one
# transaction", and every key here is kept unique by the one writer.
_BOOKS = """
CREATE TABLE cdc_position (
    source_id VARCHAR NOT NULL, log_offset UBIGINT NOT NULL, lsn UBIGINT NOT NULL,
    timeline INTEGER NOT NULL);
CREATE TABLE cdc_levelling (reason VARCHAR NOT NULL, begun_at TIMESTAMPTZ NOT NULL);
CREATE TABLE cdc_pause (
    actor VARCHAR NOT NULL, reason VARCHAR NOT NULL, paused_at TIMESTAMPTZ NOT NULL);
CREATE TABLE cdc_audit (
    acted_at TIMESTAMPTZ NOT NULL, actor VARCHAR NOT NULL, action VARCHAR NOT NULL,
    tenant_id INTEGER, request_id VARCHAR NOT NULL, detail VARCHAR NOT NULL);
CREATE TABLE cdc_owner (
    epoch BIGINT NOT NULL, owner VARCHAR NOT NULL, claimed_at TIMESTAMPTZ NOT NULL);
CREATE TABLE cdc_columns (
    table_name VARCHAR NOT NULL, column_name VARCHAR NOT NULL, type_name VARCHAR NOT NULL,
    not_null BOOLEAN NOT NULL);
CREATE TABLE cdc_counters (
    table_name VARCHAR NOT NULL, tenant_id INTEGER, read_count BIGINT NOT NULL,
    applied_count BIGINT NOT NULL, dead_lettered_count BIGINT NOT NULL,
    skipped_count BIGINT NOT NULL, stored_rows BIGINT NOT NULL);
CREATE TABLE cdc_dead_letters (
    letter_id BIGINT NOT NULL, chain_id BIGINT NOT NULL, letter_class VARCHAR NOT NULL,
    reason VARCHAR NOT NULL, table_name VARCHAR NOT NULL, kind VARCHAR NOT NULL,
    tenant_id INTEGER, row_keys VARCHAR[] NOT NULL, log_offset UBIGINT NOT NULL,
    commit_lsn UBIGINT NOT NULL, codec VARCHAR NOT NULL, source_columns VARCHAR NOT NULL,
    raw BLOB NOT NULL, attempts INTEGER NOT NULL, first_attempt_at TIMESTAMPTZ NOT NULL,
    last_attempt_at TIMESTAMPTZ NOT NULL);
CREATE TABLE cdc_letter_number (next_id BIGINT NOT NULL);
INSERT INTO cdc_letter_number VALUES (1);
CREATE TABLE cdc_windows (
    tenant_id INTEGER NOT NULL, start_us BIGINT NOT NULL, end_us BIGINT NOT NULL,
    source_rows BIGINT NOT NULL, source_high HUGEINT NOT NULL, source_low HUGEINT NOT NULL,
    warehouse_rows BIGINT NOT NULL, warehouse_high HUGEINT NOT NULL, warehouse_low HUGEINT NOT NULL,
    is_matched BOOLEAN NOT NULL, checked_at BIGINT NOT NULL, doubts BIGINT NOT NULL);
CREATE TABLE cdc_verifications (
    tenant_id INTEGER PRIMARY KEY, compared_through BIGINT NOT NULL,
    checked_at BIGINT NOT NULL);
CREATE TABLE cdc_window_width (window_us BIGINT NOT NULL);
CREATE TABLE cdc_reports (
    report_id BIGINT NOT NULL, tenant_id INTEGER NOT NULL, cause VARCHAR NOT NULL,
    made_at TIMESTAMPTZ NOT NULL, through_us BIGINT NOT NULL, windows_compared BIGINT NOT NULL,
    windows_mismatched BIGINT NOT NULL, is_complete BOOLEAN NOT NULL);
CREATE TABLE cdc_differences (
    report_id BIGINT NOT NULL, number BIGINT NOT NULL, tenant_id INTEGER NOT NULL,
    kind VARCHAR NOT NULL, entity_id BIGINT NOT NULL, attribute_id INTEGER NOT NULL,
    event_us BIGINT NOT NULL, ingested_us BIGINT NOT NULL, source_quality SMALLINT,
    source_value VARCHAR, warehouse_quality SMALLINT, warehouse_value VARCHAR,
    copies BIGINT NOT NULL);
CREATE TABLE cdc_compaction (through_us BIGINT NOT NULL);
CREATE TABLE cdc_schema (version INTEGER NOT NULL);
"""

_UPGRADES = {
    2: """
CREATE TABLE cdc_table_differences (
    report_id BIGINT NOT NULL, tenant_id INTEGER NOT NULL, table_name VARCHAR NOT NULL,
    source HUGEINT[] NOT NULL, warehouse HUGEINT[] NOT NULL, is_complete BOOLEAN NOT NULL,
    differences VARCHAR NOT NULL);
""",
    # Digests of windows were made in another way: all are compared once more.
    3: "DELETE FROM cdc_windows; DELETE FROM cdc_verifications",
}
"""What a file of the version before needs; a new file begins with version 1."""
VERSION = max(_UPGRADES)


class SchemaVersionError(Exception):
    """The file was made by a newer release."""


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables that are not there. Raises SchemaVersionError for a file of the future."""
    connection.execute("BEGIN")
    known = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_name = 'cdc_schema'"
    ).fetchone()
    if known == (0,):
        for table in TABLES.values():
            connection.execute(_create(table))
        connection.execute(_BOOKS)
        connection.execute("INSERT INTO cdc_schema VALUES (1)")
        for name in TABLES:
            connection.execute("INSERT INTO cdc_counters VALUES (?, NULL, 0, 0, 0, 0, 0)", [name])
    row = connection.execute("SELECT max(version) FROM cdc_schema").fetchone()
    version = row[0] if row else None
    if version is None or version > VERSION:
        connection.execute("ROLLBACK")
        raise SchemaVersionError(f"the file has schema {version}, this release knows {VERSION}")
    for number in range(version + 1, VERSION + 1):
        connection.execute(_UPGRADES[number])
        connection.execute("INSERT INTO cdc_schema VALUES (?)", [number])
    connection.execute("COMMIT")


def _create(table: Table) -> str:
    columns = ", ".join(
        f"{column.name} {column.type.warehouse_type}{' NOT NULL' if column.not_null else ''}"
        for column in table.columns
    )
    return f"CREATE TABLE {table.name} ({columns})"
