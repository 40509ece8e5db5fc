"""The disk is full: callers are told so, nothing is lost, and it goes on once there is space."""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from atlas_devstack.account import server_account
from atlas_devstack.disk import SmallDisk
from atlas_devstack.dsn import with_database
from atlas_devstack.errors import DevstackError
from atlas_devstack.postgres import PostgresNode
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from tests.integration.waiting import eventually

from .arena import OVERLOADED, Arena, arena_on

SIZE_MB = 96


@contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk]:
    """Skips the test where it cannot be made."""
    mounting = SmallDisk.mounted(path, SIZE_MB, server_account())
    try:
        disk = mounting.__enter__()
    except DevstackError as error:
        pytest.skip(f"no small disk can be made here: {error}")
    try:
        yield disk
    finally:
        disk.free()
        mounting.__exit__(None, None, None)


@contextmanager
def lying_on(arena: Arena, disk: SmallDisk) -> Iterator[None]:
    """The arena's whole database is on the disk; the server's log is not."""
    space = sql.Identifier(f"disk_{arena.database.name}")
    dsn = with_database(arena.database.admin_dsn, "postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:

        def move(tablespace: sql.Composable) -> None:
            move = sql.SQL("ALTER DATABASE {} SET TABLESPACE {}")
            connection.execute(move.format(sql.Identifier(arena.database.name), tablespace))

        create = sql.SQL("CREATE TABLESPACE {} LOCATION {}")
        connection.execute(create.format(space, sql.Literal(str(disk.path))))
        move(space)
        try:
            yield
        finally:
            disk.free()
            arena.stop()
            move(sql.Identifier("pg_default"))
            connection.execute(sql.SQL("DROP TABLESPACE {}").format(space))


async def test_of_the_tables(arena: Arena) -> None:
    """Postgres refuses the copy or the flush and lives on."""
    place = arena.primary.data_directory.parent / f"disk-{arena.database.name}"
    with small_disk(place) as disk, lying_on(arena, disk):
        await arena.start_ingest(environment={"ATLAS_FLUSH__PENDING_POINTS_MAX": "10000"})
        async with arena.load(writers=8, points=400):
            disk.fill()
            await eventually(lambda: arena.ledger.failures[OVERLOADED] > 5)
            disk.free()
            await arena.recovered(time.monotonic())
            await arena.verify_now()
        await arena.verify()


def put_log_on(primary: PostgresNode, disk: SmallDisk) -> None:
    """Move the server's log; it starts again."""
    primary.stop()
    log = primary.data_directory / "pg_wal"
    shutil.copytree(log, disk.path / "pg_wal")
    shutil.rmtree(log)
    log.symlink_to(disk.path / "pg_wal")
    account = server_account()
    if account is not None:
        for path in (disk.path / "pg_wal").rglob("*"):
            os.chown(path, account.uid, account.gid)
        os.chown(disk.path / "pg_wal", account.uid, account.gid)
    primary.start()


def takes_no_more(arena: Arena) -> bool:
    """Have the server begin the next file of its log; say whether it died of that."""
    try:
        arena.query("SELECT pg_switch_wal(), txid_current()")
    except psycopg.OperationalError:
        return True
    return False


async def test_of_the_log(
    start_stack: StartStack, server_options: ServerOptions, tmp_path: Path
) -> None:
    """Postgres itself cannot live without it: it dies, and comes back when there is space."""
    small = {"max_wal_size": "48MB", "min_wal_size": "32MB"}
    postgres = replace(server_options.postgres, replicas=0, settings=small)
    servers = ServerOptions(postgres=postgres, valkey=False)
    stack = start_stack(services=(), servers=servers)
    primary = stack.postgres.primary
    with small_disk(primary.data_directory.parent / "log-disk") as disk:
        put_log_on(primary, disk)
        with arena_on(stack, tmp_path) as arena:
            await arena.start_ingest()
            async with arena.load():
                disk.fill()
                await eventually(lambda: takes_no_more(arena))
                await eventually(lambda: not primary.is_running())
                disk.free()
                primary.launch()
                freed = time.monotonic()
                await asyncio.to_thread(primary.wait_ready)
                await arena.recovered(freed)
                await arena.verify_now()
                await arena.more_traffic()
            await arena.verify()
        primary.stop()
