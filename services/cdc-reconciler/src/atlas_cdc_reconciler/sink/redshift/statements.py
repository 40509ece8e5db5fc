"""What a batch does to the tables, as statements over staging tables; pure.

Tables are named in full instead of by an alias: MERGE takes none for its target, UPDATE and DELETE
have not always taken one.
"""

from collections.abc import Iterable, Sequence

from atlas_cdc_reconciler.sink.redshift.dialect import (
    CHANGE_NUMBER,
    COPIES,
    Stored,
    literal,
    quoted,
    stored_columns,
)
from atlas_cdc_reconciler.tables import Table


def copy(stage: str, manifest_url: str, iam_role: str) -> str:
    """Take in the files of a manifest, no more and no less: without one, a prefix would decide.

    Files of columns allow few options: no list of columns, no REGION, no COMPUPDATE.
    """
    return (
        f"COPY {quoted(stage)} FROM {literal(manifest_url)} IAM_ROLE {_role(iam_role)}"
        " FORMAT AS PARQUET MANIFEST STATUPDATE OFF"
    )


def drop(stage: str) -> str:
    """Give a staging table back before the session ends."""
    return f"DROP TABLE {quoted(stage)}"


def insert(table: Table, stage: str) -> str:
    """Add the staged rows."""
    columns = stored_columns(table)
    values = ", ".join(column.value(quoted(stage)) for column in columns)
    return (
        f"INSERT INTO {quoted(table.name)} ({_names(columns)}) SELECT {values} FROM {quoted(stage)}"  # noqa: S608
    )


def merge(table: Table, stage: str) -> str:
    """Store whole rows by their keys. No key may be staged twice: MERGE refuses that."""
    target, source, columns = quoted(table.name), quoted(stage), stored_columns(table)
    sets = ", ".join(
        f"{quoted(column.name)} = {column.value(source)}"
        for column in columns
        if column.name not in table.key
    )
    values = ", ".join(column.value(source) for column in columns)
    return (
        f"MERGE INTO {target} USING {source} ON {_same_key(table, stage)}"  # noqa: S608
        f" WHEN MATCHED THEN UPDATE SET {sets}"
        f" WHEN NOT MATCHED THEN INSERT ({_names(columns)}) VALUES ({values})"
    )


def update(table: Table, stage: str, columns: Sequence[Stored]) -> str:
    """Store some columns of rows that are there. Not a MERGE: that must say what it inserts."""
    sets = ", ".join(
        f"{quoted(column.name)} = {column.value(quoted(stage))}"
        for column in columns
        if column.name not in table.key
    )
    return (
        f"UPDATE {quoted(table.name)} SET {sets} FROM {quoted(stage)}"  # noqa: S608
        f" WHERE {_same_key(table, stage)}"
    )


def missing_keys(table: Table, stage: str) -> str:
    """Rows (change number): staged rows whose keys are not there."""
    first = f"{quoted(table.name)}.{quoted(table.key[0])}"
    number = f"{quoted(stage)}.{quoted(CHANGE_NUMBER)}"
    return (
        f"SELECT {number} FROM {quoted(stage)} LEFT JOIN {quoted(table.name)}"  # noqa: S608
        f" ON {_same_key(table, stage)} WHERE {first} IS NULL ORDER BY {number}"
    )


def delete_keys(table: Table, stage: str) -> str:
    """Delete rows by their keys."""
    return (
        f"DELETE FROM {quoted(table.name)} USING {quoted(stage)}"  # noqa: S608
        f" WHERE {_same_key(table, stage)}"
    )


def miscounted_rows(table: Table, stage: str) -> str:
    """Rows (change number, how many are there) where that is not how many are to be deleted.

    Without row ids one of several equal rows cannot be deleted: all are, and the rest is put back.
    """
    number, copies = (f"{quoted(stage)}.{quoted(name)}" for name in (CHANGE_NUMBER, COPIES))
    found = f"COUNT({quoted(table.name)}.{quoted(_never_null(table))})"
    return (
        f"SELECT {number}, {found} FROM {quoted(stage)} LEFT JOIN {quoted(table.name)}"  # noqa: S608
        f" ON {_same_row(table, stage)} GROUP BY {number}, {copies}"
        f" HAVING {found} <> {copies} ORDER BY {number}"
    )


def delete_rows(table: Table, stage: str) -> str:
    """Delete every row that has a staged row's values."""
    return (
        f"DELETE FROM {quoted(table.name)} USING {quoted(stage)}"  # noqa: S608
        f" WHERE {_same_row(table, stage)}"
    )


def _same_key(table: Table, stage: str) -> str:
    return " AND ".join(
        f"{quoted(table.name)}.{quoted(name)} = {quoted(stage)}.{quoted(name)}"
        for name in table.key
    )


def _same_row(table: Table, stage: str) -> str:
    compared = (
        column.is_same(quoted(table.name), quoted(stage)) for column in stored_columns(table)
    )
    return " AND ".join(same for same in compared if same is not None)


def _never_null(table: Table) -> str:
    return next(column.name for column in table.columns if column.not_null)


def _names(columns: Iterable[Stored]) -> str:
    return ", ".join(quoted(column.name) for column in columns)


def _role(iam_role: str) -> str:
    return "DEFAULT" if iam_role == "default" else literal(iam_role)
