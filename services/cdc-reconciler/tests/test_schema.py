"""A warehouse's file of any earlier release is brought up to date, one of a later is left alone."""

import duckdb
import pytest

from atlas_cdc_reconciler.sink import schema


def tables(connection: duckdb.DuckDBPyConnection) -> set[tuple[str, str, str]]:
    return set(
        connection.execute(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
        ).fetchall()
    )


def version_of(connection: duckdb.DuckDBPyConnection) -> int:
    (version,) = connection.execute("SELECT max(version) FROM cdc_schema").fetchall()
    return int(version[0])


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_a_file_of_before_becomes_what_a_new_one_is(
    monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    with duckdb.connect() as new, duckdb.connect() as old:
        schema.migrate(new)
        with monkeypatch.context() as before:
            before.setattr(schema, "VERSION", version)
            schema.migrate(old)
        old.execute("INSERT INTO cdc_levelling VALUES ('kept', current_timestamp)")
        assert version_of(old) < version_of(new)
        for _ in range(2):
            schema.migrate(old)
            assert (tables(old), version_of(old)) == (tables(new), version_of(new))
        assert old.execute("SELECT reason FROM cdc_levelling").fetchall() == [("kept",)]


def test_digests_that_were_made_in_another_way_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with duckdb.connect() as connection:
        with monkeypatch.context() as before:
            before.setattr(schema, "VERSION", 2)
            schema.migrate(connection)
        for tenant_id in (1, 2):
            connection.execute(
                "INSERT INTO cdc_windows SELECT ?, 0, 60, 1, 2, 3, 1, 2, 3, true, 60, 0",
                [tenant_id],
            )
            connection.execute("INSERT INTO cdc_verifications VALUES (?, 60, 60)", [tenant_id])
        schema.migrate(connection)
        for table in ("cdc_windows", "cdc_verifications"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchall() == [(0,)]


def test_a_file_of_the_future_is_refused_as_it_is() -> None:
    with duckdb.connect() as connection:
        schema.migrate(connection)
        connection.execute("INSERT INTO cdc_schema VALUES (99)")
        before = tables(connection)
        with pytest.raises(schema.SchemaVersionError, match="schema 99"):
            schema.migrate(connection)
        assert tables(connection) == before
