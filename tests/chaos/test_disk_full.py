"""The disk is full: callers are told so, nothing is lost, and it goes on once there is space."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from atlas_devstack.account import server_account
from atlas_devstack.disk import SmallDisk
from atlas_devstack.dsn import with_database
from atlas_devstack.errors import DevstackError
from tests.integration.waiting import eventually

from .arena import Arena

SIZE_MB = 96


@contextmanager
def on_a_small_disk(arena: Arena) -> Iterator[SmallDisk]:
    """The whole database lies on a disk of its own; the WAL does not."""
    place = arena.primary.data_directory.parent / f"disk-{arena.database.name}"
    name = sql.Identifier(f"disk_{arena.database.name}")
    database = sql.Identifier(arena.database.name)
    try:
        mounting = SmallDisk.mounted(place, SIZE_MB, server_account())
        disk = mounting.__enter__()
    except DevstackError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    with psycopg.connect(
        with_database(arena.database.admin_dsn, "postgres"), autocommit=True
    ) as connection:

        def move(tablespace: sql.Composable) -> None:
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET TABLESPACE {}").format(database, tablespace)
            )

        create = sql.SQL("CREATE TABLESPACE {} LOCATION {}")
        connection.execute(create.format(name, sql.Literal(str(place))))
        move(name)
        yield disk
        disk.free()
        arena.stop()
        move(sql.Identifier("pg_default"))
        connection.execute(sql.SQL("DROP TABLESPACE {}").format(name))


async def test_full_under_load(arena: Arena) -> None:
    with on_a_small_disk(arena) as disk:
        await arena.start_ingest(environment={"ATLAS_FLUSH__PENDING_POINTS_MAX": "10000"})
        async with arena.load(writers=8, points=400):
            disk.fill()
            await eventually(lambda: arena.ledger.failures["RESOURCE_EXHAUSTED OVERLOADED"] > 5)
            disk.free()
            await arena.recovered(time.monotonic())
            await arena.verify_now()
        await arena.verify()
