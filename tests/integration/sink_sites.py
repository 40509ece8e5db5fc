"""The warehouses that the conformance suite of sinks is run against, behind one interface."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import boto3
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from atlas_cdc_reconciler.config import RedshiftConfig, WarehouseConfig
from atlas_cdc_reconciler.digest import Engine, canonical_sql
from atlas_cdc_reconciler.sink import Sink
from atlas_cdc_reconciler.sink.duckdb import DuckDbWarehouse
from atlas_cdc_reconciler.sink.redshift.warehouse import RedshiftWarehouse
from atlas_cdc_reconciler.tables import TABLES, Column, ColumnType
from atlas_devstack.dsn import with_database

from .redshift_shim import Shim, open_shim

REGION = "eu-central-1"
Letter = tuple[str, str, str, bytes]
"""(table, kind of change, reason, raw bytes)"""


class Site(Protocol):
    """A warehouse that is there, whether a sink has it open or not."""

    text_octets_max: int
    """Of a text that it can hold."""

    def open(self) -> AbstractAsyncContextManager[Sink]:
        """A new instance of the sink, which has claimed it."""
        ...

    async def history(self, sink: Sink) -> list[str]:
        """Every row of the history as its canonical text, sorted."""
        ...

    async def rows(self, sink: Sink, table: str) -> list[tuple[Any, ...]]:
        """Every row of a table in plain values, sorted."""
        ...

    async def letters(self, sink: Sink) -> list[Letter]:
        """Every dead letter, in order."""
        ...

    async def spoil(self, sink: Sink, statement: str) -> None:
        """Change the warehouse behind the sink's back."""
        ...


class DuckSite:
    """A file."""

    text_octets_max = 2**30

    def __init__(self, path: Path) -> None:
        self._config = WarehouseConfig(path=path, memory_limit_mb=256)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[DuckDbWarehouse]:
        async with DuckDbWarehouse.open(self._config) as sink:
            await sink.claim("test")
            yield sink

    async def history(self, sink: Sink) -> list[str]:
        found = await self._all(
            sink, f"SELECT {canonical_sql(Engine.DUCKDB)} FROM entity_values_ts"
        )
        return sorted(row[0] for row in found)

    async def rows(self, sink: Sink, table: str) -> list[tuple[Any, ...]]:
        def plain(column: Column) -> str:
            is_time = column.type is ColumnType.TIME
            return f"epoch_us({column.name})" if is_time else column.name

        names = ", ".join(map(plain, TABLES[table].columns))
        found = await self._all(sink, f"SELECT {names} FROM {table}")
        return sorted(map(_frozen, found), key=repr)

    async def letters(self, sink: Sink) -> list[Letter]:
        return await self._all(
            sink, "SELECT table_name, kind, reason, raw FROM cdc_dead_letters ORDER BY letter_id"
        )

    async def spoil(self, sink: Sink, statement: str) -> None:
        assert isinstance(sink, DuckDbWarehouse)
        await sink.write([(statement, {})])

    async def _all(self, sink: Sink, statement: str) -> list[Any]:
        assert isinstance(sink, DuckDbWarehouse)
        async with sink.reader() as reader:
            return await reader.all(statement)


class RedshiftSite:
    """A Postgres behind the shim, and a bucket of moto's."""

    text_octets_max = 65_535

    def __init__(self, shim: Shim, s3: Any, dsn: str, config: RedshiftConfig) -> None:
        self.shim = shim
        self.s3 = s3
        self.config = config
        self._dsn = dsn

    @asynccontextmanager
    async def open(self) -> AsyncIterator[RedshiftWarehouse]:
        async with RedshiftWarehouse.open(self.config) as sink:
            await sink.claim("test")
            yield sink

    async def history(self, sink: Sink) -> list[str]:
        return self.history_now()

    def history_now(self) -> list[str]:
        """As `history`; nothing, while there are no tables yet."""
        if self.query("SELECT to_regclass('entity_values_ts')") == [(None,)]:
            return []
        # The columns have Postgres' names and types: its own digest reads them.
        statement = f"SELECT {canonical_sql(Engine.POSTGRES)} FROM entity_values_ts"
        return sorted(row[0] for row in self.query(statement))

    def environment(self) -> dict[str, str]:
        """What a process is told to use it."""
        told = self.config.model_dump(exclude_unset=True, exclude={"password"})
        told["password"] = self.config.password.get_secret_value()
        return {
            "ATLAS_SINK__KIND": "redshift",
            **{f"ATLAS_SINK__REDSHIFT__{name.upper()}": str(told[name]) for name in told},
        }

    async def rows(self, sink: Sink, table: str) -> list[tuple[Any, ...]]:
        columns = TABLES[table].columns
        found = self.query(f"SELECT {postgres_columns(table)} FROM {table}")
        plain = (
            tuple(
                json.loads(value) if column.type is ColumnType.TEXT_ARRAY else value
                for column, value in zip(columns, row, strict=True)
            )
            for row in found
        )
        return sorted(map(_frozen, plain), key=repr)

    async def letters(self, sink: Sink) -> list[Letter]:
        found = self.query(
            "SELECT letter_id, table_name, kind, reason, raw_bytes FROM cdc_dead_letters ORDER BY 1"
        )
        letters = []
        for letter_id, table, kind, reason, raw_bytes in found:
            parts = self.query(
                "SELECT raw_base64 FROM cdc_dead_letter_parts"
                f" WHERE letter_id = {letter_id} ORDER BY part"
            )
            raw = b"".join(base64.b64decode(part) for (part,) in parts)
            assert len(raw) == raw_bytes
            letters.append((table, kind, reason, raw))
        return letters

    async def spoil(self, sink: Sink, statement: str) -> None:
        self.query(statement)

    def query(self, statement: str) -> list[Any]:
        """Straight from the server."""
        with psycopg.connect(
            self._dsn, autocommit=True, options="-c search_path=atlas"
        ) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def files(self) -> list[str]:
        """Keys in the bucket."""
        page = self.s3.list_objects_v2(Bucket=self.config.bucket)
        return [item["Key"] for item in page.get("Contents", ())]


@contextmanager
def redshift_site(admin_dsn: str, endpoint_url: str) -> Iterator[RedshiftSite]:
    """A site on the server of this DSN, in a database and with a bucket of its own."""
    name = f"redshift_{secrets.token_hex(4)}"
    dsn = with_database(admin_dsn, name)
    server = conninfo_to_dict(admin_dsn)
    s3: Any = boto3.client("s3", region_name=REGION, endpoint_url=endpoint_url)
    bucket = name.replace("_", "-")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with open_shim(dsn, s3) as shim:
                config = RedshiftConfig(
                    host="127.0.0.1",
                    port=shim.port,
                    database=name,
                    user=str(server["user"]),
                    password=SecretStr(str(server.get("password", ""))),
                    tls=False,
                    iam_role="arn:aws:iam::123456789012:role/atlas-copy",
                    bucket=bucket,
                    region=REGION,
                    s3_endpoint_url=endpoint_url,
                    statement_timeout_seconds=20,
                )
                yield RedshiftSite(shim, s3, dsn, config)
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            admin.execute(drop)


def postgres_columns(table: str) -> str:
    """A table's columns in plain values, for Postgres to select."""
    return ", ".join(
        f"(extract(epoch FROM {column.name}) * 1000000)::bigint"
        if column.type is ColumnType.TIME
        else f"{column.name}::text"
        if column.type is ColumnType.NUMERIC_TEXT
        else column.name
        for column in TABLES[table].columns
    )


def source_rows(admin: "psycopg.Connection[Any]", table: str) -> list[tuple[Any, ...]]:
    """As Site.rows, of the source."""
    found = admin.execute(f"SELECT {postgres_columns(table)} FROM {table}".encode())
    return sorted(map(_frozen, found), key=repr)


def source_history(admin: "psycopg.Connection[Any]") -> list[str]:
    """As Site.history, of the source."""
    statement = f"SELECT {canonical_sql(Engine.POSTGRES)} FROM entity_values_ts"
    return sorted(row[0] for row in admin.execute(statement.encode()))


def _frozen(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(tuple(value) if isinstance(value, list) else value for value in row)
