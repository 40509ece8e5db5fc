"""Passwords are rotated while calls run, and no call fails for it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql
from pydantic import SecretStr

from atlas_common.config import DatabaseConfig, ServiceConfig
from atlas_common.db import Connection, Database, direct_connection, tenant_transaction
from atlas_common.secrets import login_source
from atlas_common.secrets.opened import secrets_opened
from atlas_devstack.database import Database as Devstack
from atlas_devstack.dsn import dsn_as
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.valkey import Valkey, ValkeySite
from atlas_devstack.waiting import Patience
from atlas_hotcache.config import ValkeyConfig
from atlas_hotcache.valkey_client import open_client
from atlas_hotcache.valkey_url import ValkeyUrl

from .keepers import KINDS, FileKeeper, Keeper, Keepers

USERS = ("atlas_rotated_a", "atlas_rotated_b")
CALLERS = 3
pytestmark = pytest.mark.timeout(120)


class Login:
    """A login that somebody keeps, replaced whole."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.given: list[str] = []
        self.user, self.password = "", ""

    def make(self, user: str) -> None:
        self.user, self.password = user, f"canary-{secrets.token_hex(12)}"
        self.given.append(self.password)

    def publish(self) -> None:
        # With what the rotation of RDS writes besides.
        login = {"username": self.user, "password": self.password, "engine": "postgres"}
        self.keeper.publish(login)

    def is_known(self) -> bool:
        return login_source(self.keeper.named).read().username == self.user


class RotatedConfig(ServiceConfig):
    """Of a service whose login is rotated."""

    primary: DatabaseConfig


@pytest.fixture
def login(tmp_path: Path) -> Login:
    return Login(FileKeeper(tmp_path / "login"))


@pytest.fixture
def admin(fresh_database: Devstack) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    """With two tenants, and two users who may what the query service may."""
    with psycopg.connect(fresh_database.admin_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO tenants (tenant_id, key) VALUES (1, 'acme'), (2, 'globex')")
        connection.execute(
            "INSERT INTO entities (tenant_id, entity_id, key)"
            " VALUES (1, 1, 'acme-pump'), (2, 1, 'globex-pump')"
        )
        for user in USERS:
            name = sql.Identifier(user)
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE atlas_query").format(name))
        try:
            yield connection
        finally:
            for user in USERS:
                end_sessions(connection, user)
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


def set_password(admin: "psycopg.Connection[tuple[object, ...]]", login: Login) -> None:
    admin.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login.user), login.password)
    )


def end_sessions(admin: "psycopg.Connection[tuple[object, ...]]", user: str) -> None:
    admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [user]
    )


def has_no_sessions(admin: "psycopg.Connection[tuple[object, ...]]", user: str) -> bool:
    found = admin.execute("SELECT FROM pg_stat_activity WHERE usename = %s", [user])
    return found.fetchone() is None


class Traffic:
    """Calls made all the time; the first that fails is raised by `until`."""

    def __init__(self) -> None:
        self.done = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                for task in self.tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    async def until_more(self, calls: int) -> None:
        wanted = self.done + calls
        await self.until(lambda: self.done >= wanted)


@asynccontextmanager
async def traffic(calls: Sequence[Callable[[], Awaitable[None]]]) -> AsyncIterator[Traffic]:
    running, ended = Traffic(), asyncio.Event()

    async def again_and_again(call: Callable[[], Awaitable[None]]) -> None:
        while not ended.is_set():
            await call()
            running.done += 1

    running.tasks = [asyncio.create_task(again_and_again(call)) for call in calls]
    try:
        yield running
    finally:
        ended.set()
        await asyncio.gather(*running.tasks)


async def read(source: Database | Connection, tenant_id: int, key: str) -> None:
    async with tenant_transaction(source, tenant_id, read_only=True) as connection:
        rows = await (await connection.execute("SELECT key FROM entities")).fetchall()
    assert rows == [(key,)]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_database_password_is_rotated_while_calls_run(
    fresh_database: Devstack,
    admin: "psycopg.Connection[tuple[object, ...]]",
    keepers: Keepers,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    login = Login(keepers(kind))
    login.make(USERS[0])
    set_password(admin, login)
    login.publish()
    config = DatabaseConfig(
        dsn=SecretStr(dsn_as(fresh_database.admin_dsn, user="nobody", password="wrong")),
        password_source=login.keeper.named,
        pool_size_max=CALLERS,
        acquire_timeout_seconds=30,
        connection_lifetime_seconds=1,
    )

    async def log_in(tenant_id: int, key: str) -> None:
        async with direct_connection(config, name="rotated") as direct:
            await read(direct, tenant_id, key)

    service = RotatedConfig(primary=config, secrets=login.keeper.settings)
    async with secrets_opened(service), Database.open(config, name="rotated") as database:
        calls = [
            partial(call, tenant_id, key)
            for tenant_id, key in ((1, "acme-pump"), (2, "globex-pump"))
            for call in (log_in, partial(read, database))
        ]
        async with traffic(calls) as running:
            await running.until_more(20)
            # Each with a new password; then the other one's goes.
            for user in (USERS[1], USERS[0]):
                former = login.user
                login.make(user)
                set_password(admin, login)
                login.publish()
                await running.until(login.is_known)
                # Of itself: nothing but the age of its connections ends the former user's.
                await running.until(partial(has_no_sessions, admin, former))
                admin.execute(sql.SQL("ALTER ROLE {} PASSWORD NULL").format(sql.Identifier(former)))
                await running.until_more(20)
    told = caplog.text + "".join(capfd.readouterr())
    assert not [password for password in login.given if password in told]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    site = ValkeySite(tmp_path, tmp_path, tmp_path, free_port(set()), "administrator")
    valkey = Valkey(site, Patience(20.0))
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.stop()


async def test_the_cache_has_two_users_of_whom_one_is_always_good(
    valkey: Valkey, login: Login, caplog: pytest.LogCaptureFixture
) -> None:
    def grant() -> None:
        administrator.execute_command(
            "ACL", "SETUSER", login.user, "reset", "on", f">{login.password}", "~*", "+@all"
        )

    with redis.Redis.from_url(valkey.url) as administrator:
        login.make(USERS[0])
        grant()
        login.publish()
        url = f"redis://:wrong@{LOOPBACK}:{valkey.port}/0"
        config = ValkeyConfig.model_validate({"url": url, "password_source": login.keeper.named})
        async with open_client(ValkeyUrl.parse(url), config) as client:

            async def count(tenant: str) -> None:
                await client.execute("INCR", f"{{{tenant}}}:calls")

            calls = [partial(count, tenant) for tenant in ("acme", "globex")]
            async with traffic(calls) as running:
                await running.until_more(20)
                for user in (USERS[1], USERS[0], USERS[1]):
                    former = login.user
                    login.make(user)
                    grant()
                    login.publish()
                    # Ends the former user's connections: the calls on them go by the new login.
                    administrator.execute_command("ACL", "DELUSER", former)
                    await running.until_more(20)
                    assert former not in str(administrator.execute_command("CLIENT", "LIST"))
    assert not [password for password in login.given if password in caplog.text]
