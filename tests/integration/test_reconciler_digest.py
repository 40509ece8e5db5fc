"""The digest is the same on all engines, whatever the values: the same rows put into each.

The reference is `canonical`: each row's text made in Python of the values that Postgres was given,
except for JSON, of which Postgres' own text is the canonical one.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, localcontext
from typing import Any

import duckdb
import psycopg
import pytest
import sqlglot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from atlas_cdc_reconciler.canonical import StoredRow, tagged
from atlas_cdc_reconciler.columns import table_from
from atlas_cdc_reconciler.digest import (
    Digest,
    Engine,
    Range,
    bucket_digests_sql,
    canonical_sql,
    rows_sql,
    window_digests_sql,
)
from atlas_cdc_reconciler.sink.history import append_rows
from atlas_cdc_reconciler.sink.schema import migrate
from atlas_cdc_reconciler.source.copy import CopyColumns
from atlas_cdc_reconciler.tables import HISTORY
from atlas_common.values import DataType, Scalar, datetime_to_us
from atlas_devstack.database import Database

WIDTH_US = 1_000_000
T0 = datetime(2026, 3, 1, tzinfo=UTC)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
MOMENTS = st.timedeltas(timedelta(), LAST - FIRST).map(lambda since: FIRST + since)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
VALUES = st.one_of(
    st.tuples(st.just("value_bool"), st.booleans()),
    st.tuples(st.just("value_int"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("value_double"), st.floats()),
    st.tuples(
        st.just("value_decimal"),
        # As text: arithmetic would round to 28 digits.
        st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}e-18"))
        | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**19), max_value=10**19),
    ),
    st.tuples(st.just("value_text"), TEXTS),
    st.tuples(st.just("value_time"), MOMENTS),
    st.tuples(st.just("value_json"), JSON.map(Jsonb)),
)
ROWS = st.tuples(
    st.integers(1, 2),  # Tenants.
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**63 - 1),
    MOMENTS,
    st.integers(0, 3 * WIDTH_US).map(lambda us: T0 + timedelta(microseconds=us)),
    st.integers(0, 255),
    VALUES,
)

POSTGRES_SQL = window_digests_sql(
    Engine.POSTGRES, ("%(tenant_id)s", "%(start)s", "%(stop)s", "%(width_us)s::bigint")
)
DUCKDB_SQL = window_digests_sql(
    Engine.DUCKDB, ("$tenant_id", "$start::TIMESTAMPTZ", "$stop::TIMESTAMPTZ", "$width_us::BIGINT")
)


class Engines:
    """The same table, empty, on both."""

    def __init__(self, postgres: "psycopg.Connection[Any]") -> None:
        self.postgres = postgres
        self.postgres.execute("CREATE TEMP TABLE entity_values_ts (LIKE atlas.entity_values_ts)")
        self.duckdb = duckdb.connect()
        self.duckdb.execute("SET TimeZone = 'UTC'")
        migrate(self.duckdb)

    def fill(self, rows: list[Any]) -> None:
        """Replace the rows of both."""
        self.postgres.execute("TRUNCATE entity_values_ts")
        self.duckdb.execute("DELETE FROM entity_values_ts")
        for tenant, attribute, entity, event, ingested, quality, (column, value) in rows:
            self.postgres.execute(
                "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time,"
                f" ingested_at, quality, {column}) VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [tenant, attribute, entity, event, ingested, quality, value],
            )
        columns = CopyColumns(len(HISTORY.columns))
        names = ", ".join(HISTORY.column_names)
        copy = f"COPY (SELECT {names} FROM entity_values_ts) TO STDOUT (FORMAT BINARY)"
        with self.postgres.cursor().copy(copy) as data:
            for piece in data:
                columns.feed(bytes(piece))
        fields = zip(HISTORY.columns, columns.take(), strict=True)
        append_rows(
            self.duckdb,
            HISTORY,
            table_from({column.name: (column.type, values) for column, values in fields}),
        )

    def json_texts(self) -> dict[int, str]:
        """The texts of JSON values, by entity."""
        sql = (
            "SELECT entity_id, value_json::text FROM entity_values_ts WHERE value_json IS NOT NULL"
        )
        return dict(self.postgres.execute(sql).fetchall())

    def canonical(self) -> tuple[list[str], list[str]]:
        """Every row's canonical text, sorted."""
        sql = "SELECT {} FROM entity_values_ts"
        ours = self.postgres.execute(sql.format(canonical_sql(Engine.POSTGRES)).encode())
        theirs = self.duckdb.execute(sql.format(canonical_sql(Engine.DUCKDB)))
        return sorted(row[0] for row in ours), sorted(row[0] for row in theirs.fetchall())

    def digests(self, tenant_id: int) -> tuple[dict[int, Digest], dict[int, Digest]]:
        """Every window's digest."""
        parameters = {
            "tenant_id": tenant_id,
            "start": T0,
            "stop": T0 + timedelta(seconds=10),
            "width_us": WIDTH_US,
        }
        postgres = self.postgres.execute(POSTGRES_SQL.encode(), parameters).fetchall()
        parameters["start"], parameters["stop"] = "2026-03-01 00:00:00+00", "2026-03-01 00:00:10+00"
        warehouse = self.duckdb.execute(DUCKDB_SQL, parameters).fetchall()
        made = [
            {number: Digest(count, int(high), int(low)) for number, count, high, low in rows}
            for rows in (postgres, warehouse)
        ]
        return made[0], made[1]


@pytest.fixture(scope="module")
def engines(database: Database) -> Iterator[Engines]:
    with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
        yield Engines(connection)


def reference(rows: list[Any], json_texts: dict[int, str]) -> list[tuple[int, StoredRow]]:
    """The rows and their tenants."""
    found = []
    for tenant, attribute, entity, event, ingested, quality, (column, value) in rows:
        data_type = DataType(column.removeprefix("value_"))
        scalar = scalar_of(data_type, value, json_texts.get(entity))
        times = datetime_to_us(ingested), datetime_to_us(event)
        row = StoredRow(times[0], entity, attribute, times[1], quality, tagged(data_type, scalar))
        found.append((tenant, row))
    return found


def scalar_of(data_type: DataType, value: Any, json_text: str | None) -> Scalar:
    """What the domain means by the value."""
    match data_type:
        case DataType.JSON:
            assert json_text is not None
            return json_text
        case DataType.TIME:
            return datetime_to_us(value)
        case DataType.DECIMAL:
            return at_scale(value)
        case _:
            scalar: Scalar = value
            return scalar


def at_scale(value: Decimal) -> Decimal:
    """As numeric(38, 18) rounds it: half away from zero."""
    with localcontext() as context:
        context.prec = 80
        return value.quantize(Decimal("1e-18"), rounding=ROUND_HALF_UP)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(ROWS, min_size=1, max_size=12, unique_by=lambda row: row[2]))
def test_all_engines_make_the_same_digests(engines: Engines, rows: list[Any]) -> None:
    engines.fill(rows)
    postgres, warehouse = engines.canonical()
    assert postgres == warehouse
    wanted = reference(rows, engines.json_texts())
    assert postgres == sorted(row.text(tenant) for tenant, row in wanted)
    for tenant_id in (1, 2):
        ours, theirs = engines.digests(tenant_id)
        assert ours == theirs
        made: dict[int, Digest] = {}
        for tenant, row in wanted:
            if tenant == tenant_id:
                number = row.ingested_us // WIDTH_US
                made[number] = made.get(number, Digest()) + row.digest(tenant)
        assert ours == made


def test_redshift_understands_the_statements() -> None:
    """As far as that can be known without one: each parses in its dialect, and uses its functions.

    The value of each function is what Redshift documents; no cluster has been asked.
    """
    rows = Range("%s", "%s", "%s")
    for statement in (
        window_digests_sql(Engine.REDSHIFT, ("%s", "%s", "%s", "%s")),
        bucket_digests_sql(Engine.REDSHIFT, rows, "%s"),
        rows_sql(Engine.REDSHIFT, rows, "%s", "bucket = '0'", "%s"),
    ):
        parsed = sqlglot.parse_one(statement.replace("%s", "1"), read="redshift")
        assert not list(parsed.find_all(sqlglot.exp.Command)), "not understood, only passed on"
        for other in ("concat_ws", "float8send", "date_bin", "epoch_us", "timestamptz_send"):
            assert other not in statement


def test_values_that_print_alike_are_told_apart(engines: Engines) -> None:
    base = (1, 1, 1, T0, T0, 0)
    values = [
        ("value_double", 0.0),
        ("value_double", -0.0),
        ("value_int", 0),
        ("value_decimal", Decimal(0)),
        ("value_text", "0"),
        ("value_text", ""),
        ("value_json", Jsonb(0)),
        ("value_json", Jsonb("0")),
        ("value_bool", False),
        ("value_time", datetime(1970, 1, 1, tzinfo=UTC)),
        ("value_double", float("nan")),
        ("value_text", "nan"),
    ]
    engines.fill([(*base, value) for value in values])
    postgres, warehouse = engines.canonical()
    assert postgres == warehouse
    assert len(set(postgres)) == len(values)


def test_two_equal_rows_do_not_cancel_out(engines: Engines) -> None:
    row = (1, 1, 1, T0, T0, 0, ("value_int", 7))
    engines.fill([row])
    (once,) = engines.digests(1)[0].values()
    engines.fill([row, row])
    (twice,) = engines.digests(1)[1].values()
    assert twice == once + once
    assert twice.checksum == f"{2 * int(once.checksum, 16):x}"
