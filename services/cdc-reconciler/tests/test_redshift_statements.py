"""The SQL for Redshift: it parses in that dialect, and has nothing that Redshift has not."""

import logging
from collections.abc import Iterator

import pytest
import sqlglot
from sqlglot import exp

from atlas_cdc_reconciler.sink.redshift import ddl, letters, statements
from atlas_cdc_reconciler.sink.redshift.dialect import (
    Stored,
    literal,
    quoted,
    stored_as,
    stored_columns,
)
from atlas_cdc_reconciler.sink.redshift.queries import Q
from atlas_cdc_reconciler.tables import HISTORY, TABLES, Column, ColumnType

TENANTS = TABLES["tenants"]
KEYED = [table for table in TABLES.values() if table.key]
ROLE = "arn:aws:iam::123456789012:role/atlas-copy"
# As the Database Developer Guide names them; sqlglot knows the first four by names of its own.
DATE_FUNCTIONS = {exp.TsOrDsAdd, exp.TsOrDsDiff}
STANDARD = {exp.Count, exp.Coalesce, exp.Max, exp.Cast, exp.Exists, exp.And, exp.Or}
OTHERS = {"OCTET_LENGTH"}


def all_statements() -> Iterator[str]:
    """Everything that is ever sent, but for what sets up the session."""
    yield from ddl.schema_statements()
    yield from (sql for name, sql in Q.items() if name != "lock_owner")
    for table in TABLES.values():
        columns = stored_columns(table)
        key = ddl.distribution_key(table)
        yield ddl.create_stage("stage_x", columns, distributed_by=key)
        yield ddl.create_stage("stage_x", columns, distributed_by=key, with_copies=True)
        yield statements.insert(table, "stage_x")
        yield statements.miscounted_rows(table, "stage_x")
        yield statements.delete_rows(table, "stage_x")
    for table in KEYED:
        yield statements.merge(table, "stage_x")
        yield statements.update(table, "stage_x", stored_columns(table)[:3])
        yield statements.missing_keys(table, "stage_x")
        yield statements.delete_keys(table, "stage_x")
    for name, stage_columns in (
        (letters.LETTERS, letters.LETTER_COLUMNS),
        (letters.PARTS, letters.PART_COLUMNS),
    ):
        yield letters.create_stage("stage_x", stage_columns)
        yield letters.insert(name, "stage_x", stage_columns)
    yield statements.copy("stage_x", "s3://atlas/cdc/x.manifest", ROLE)
    yield statements.copy("stage_x", "s3://atlas/cdc/x.manifest", "default")
    yield statements.drop("stage_x")


@pytest.mark.parametrize("statement", list(all_statements()))
def test_a_statement_is_one_of_redshifts(statement: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (parsed,) = sqlglot.parse(statement, dialect="redshift")
    assert parsed is not None
    assert not caplog.records  # sqlglot warns of what it does not understand and lets it pass.
    assert not isinstance(parsed, exp.Command)
    for function in parsed.find_all(exp.Func):
        if isinstance(function, exp.Anonymous):
            assert function.name in OTHERS
        else:
            assert type(function) in DATE_FUNCTIONS | STANDARD, function
    for lacking in (exp.Returning, exp.OnConflict, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Array):
        assert parsed.find(lacking) is None, lacking
    assert not [column for column in parsed.find_all(exp.DataType) if column.is_type("array")]


@pytest.mark.parametrize("table", KEYED, ids=lambda table: table.name)
def test_a_merge_keeps_to_its_restrictions(table: object) -> None:
    assert isinstance(table, type(TENANTS))
    merge = sqlglot.parse_one(statements.merge(table, "stage_x"), dialect="redshift")
    assert isinstance(merge, exp.Merge)
    # Neither the target nor a sub-query as the source has an alias.
    assert isinstance(merge.this, exp.Table)
    assert isinstance(merge.args["using"], exp.Table)
    assert not merge.this.alias
    kinds = [(when.args["matched"], type(when.args["then"])) for when in merge.find_all(exp.When)]
    assert kinds == [(True, exp.Update), (False, exp.Insert)]
    # What decides is equality of columns and nothing else.
    on = merge.args["on"]
    conditions = list(on.flatten()) if isinstance(on, exp.And) else [on]
    assert len(conditions) == len(table.key)
    for condition in conditions:
        assert isinstance(condition, exp.EQ)
        assert isinstance(condition.left, exp.Column)
        assert isinstance(condition.right, exp.Column)
    set_columns = {
        equals.this.name
        for equals in merge.find(exp.Update).expressions  # type: ignore[union-attr]
    }
    assert set_columns == set(table.column_names) - set(table.key)


def test_equal_rows_are_found_null_safe_and_by_the_bits_of_doubles() -> None:
    statement = statements.delete_rows(HISTORY, "stage_x")
    assert "DISTINCT" not in statement
    assert '"value_double"' not in statement
    assert '"value_double_bits" IS NULL' in statement
    # NOT NULL columns are compared plainly: these are what a join can go by.
    assert '"entity_id" IS NULL' not in statement
    assert 'OCTET_LENGTH("stage_x"."value_text")' in statement


def test_every_column_of_a_table_is_stored() -> None:
    stored = stored_columns(HISTORY)
    assert [column.name for column in stored if not column.is_bits] == list(HISTORY.column_names)
    types = {column.name: column.sql_type for column in stored}
    assert types["value_decimal"] == "DECIMAL(38,18)"
    assert types["value_json"] == "VARCHAR(65535)"
    assert types["ingested_at"] == "TIMESTAMPTZ"
    assert types["value_double_bits"] == "BIGINT"


def test_times_are_staged_as_numbers() -> None:
    (time,) = stored_as(Column("at", ColumnType.TIME))
    assert (time.sql_type, time.staged_type) == ("TIMESTAMPTZ", "BIGINT")
    assert time.value("s") == (
        "DATEADD(microsecond, s.\"at\", TIMESTAMP '1970-01-01 00:00:00') AT TIME ZONE 'UTC'"
    )


def test_the_history_is_sorted_by_tenant_and_time_and_spread_by_entity() -> None:
    statement = ddl.create_table(HISTORY)
    assert statement.endswith(
        'DISTSTYLE KEY DISTKEY("entity_id") COMPOUND SORTKEY("tenant_id", "ingested_at")'
    )
    assert "PRIMARY KEY" not in statement


def test_names_are_quoted() -> None:
    assert quoted("raw") == '"raw"'
    assert quoted('a"b') == '"a""b"'
    for table in TABLES.values():
        made = sqlglot.parse_one(ddl.create_table(table), dialect="redshift")
        names = list(made.find_all(exp.Identifier))
        assert len(names) > len(table.columns)
        assert all(name.quoted for name in names)


@pytest.mark.parametrize("text", ["it's", "back\\slash", "new\nline"])
def test_a_constant_that_needs_an_escape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has a quote"):
        literal(text)


def test_copy_has_only_options_that_parquet_allows() -> None:
    statement = statements.copy("stage_x", "s3://atlas/cdc/x.manifest", ROLE)
    assert statement == (
        f"COPY \"stage_x\" FROM 's3://atlas/cdc/x.manifest' IAM_ROLE '{ROLE}'"
        " FORMAT AS PARQUET MANIFEST STATUPDATE OFF"
    )


def test_a_nullable_text_is_compared_by_its_length_too() -> None:
    text = Stored("x", ColumnType.TEXT, not_null=False)
    assert text.is_same("t", "s") == (
        '(t."x" = s."x" AND OCTET_LENGTH(t."x") = OCTET_LENGTH(s."x")'
        ' OR (t."x" IS NULL AND s."x" IS NULL))'
    )
