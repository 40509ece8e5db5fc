"""Postgres and Valkey are reached by TLS alone that verifies them; every handshake is real."""

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from redis.exceptions import RedisError

import atlas_db
from atlas_cdc_reconciler.config import RedshiftConfig
from atlas_cdc_reconciler.sink.redshift.client import Session
from atlas_cdc_reconciler.source.walsender import open_walsender
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database, direct_connection, tenant_transaction
from atlas_common.errors import ServiceError
from atlas_devstack.authority import Authority, CertificateFiles
from atlas_devstack.database import Database as Devstack
from atlas_devstack.dsn import with_words
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.tls_front import TlsFront
from atlas_devstack.valkey import Valkey, ValkeySite
from atlas_devstack.waiting import Patience, wait_until
from atlas_hotcache.config import ValkeyConfig
from atlas_hotcache.valkey_client import Client, open_client
from atlas_hotcache.valkey_url import ValkeyUrl

NAME = "db.atlas.example"
TENANTS = {1: "acme-pump", 2: "globex-pump"}
PASSWORD = "canary-of-the-cache"
pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Pki:
    right: Authority
    stranger: Authority

    def certificate(self, *names: str) -> CertificateFiles:
        return self.right.issue(*(names or (LOOPBACK, "localhost", NAME)))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    directory = tmp_path_factory.mktemp("pki")
    return Pki(Authority(directory, "right"), Authority(directory, "stranger"))


@pytest.fixture(scope="module")
def database(module_database: Devstack) -> Devstack:
    """With two tenants, each with an entity."""
    with psycopg.connect(module_database.admin_dsn) as admin:
        admin.execute("INSERT INTO tenants (tenant_id, key) VALUES (1, 'acme'), (2, 'globex')")
        for row in TENANTS.items():
            admin.execute(
                "INSERT INTO entities (tenant_id, entity_id, key) VALUES (%s, 1, %s)", row
            )
    return module_database


def port_of(dsn: str) -> int:
    return int(conninfo_to_dict(dsn)["port"] or 0)


def verified(dsn: str, port: int, ca_file: Path, name: str = NAME) -> str:
    """As outside dev: the name is the certificate's, the address is this host's."""
    words = {"host": name, "hostaddr": LOOPBACK, "port": str(port)}
    return with_words(dsn, words | {"sslmode": "verify-full", "sslrootcert": str(ca_file)})


def config_of(dsn: str, **settings: Any) -> DatabaseConfig:
    config = DatabaseConfig(dsn=SecretStr(dsn), pool_size_max=2, **settings)
    assert config.unverified() is None
    return config


async def read(source: Any) -> None:
    for tenant_id, key in TENANTS.items():
        async with tenant_transaction(source, tenant_id, read_only=True) as connection:
            rows = await (await connection.execute("SELECT key FROM entities")).fetchall()
        assert rows == [(key,)]


@contextmanager
def stripped(answer: bytes) -> Iterator[tuple[int, bytearray]]:
    """Somebody on the way who says that there is no TLS, and keeps what is sent to him."""
    heard = bytearray()

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(20)
                heard.extend(connection.recv(4096))
                connection.sendall(answer)
                while more := connection.recv(4096):
                    heard.extend(more)

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield listener.getsockname()[1], heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def by_pool(dsn: str) -> None:
    async with Database.open(config_of(dsn), name="tls") as pool:
        await read(pool)


async def by_session(dsn: str) -> None:
    async with direct_connection(config_of(dsn), name="tls") as direct:
        await read(direct)


async def by_stream(dsn: str) -> None:
    async with open_walsender(config_of(dsn)) as walsender:
        await walsender.command(psycopg.sql.SQL("IDENTIFY_SYSTEM"))


async def by_migration(dsn: str) -> None:
    await asyncio.to_thread(atlas_db.upgrade, dsn)


WAYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "pool": ("atlas_query", by_pool),
    "session": ("atlas_ingest", by_session),
    "stream": ("atlas_reconciler", by_stream),
    "migration": ("", by_migration),
}


def dsn_of(database: Devstack, role: str) -> str:
    return database.dsn(role) if role else database.admin_dsn


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_the_database_verifies_it(
    database: Devstack, pki: Pki, way: str
) -> None:
    role, connect = WAYS[way]
    dsn = dsn_of(database, role)
    target = port_of(dsn)
    refused = (ServiceError, psycopg.OperationalError)
    with TlsFront.listen(target, pki.certificate(), asks_first=True) as front:
        await connect(verified(dsn, front.port, pki.right.ca_file))
        taken = front.taken
        assert taken > 0
        for ca_file, name in (
            (pki.stranger.ca_file, NAME),
            (pki.right.ca_file, "other.atlas.example"),
        ):
            with pytest.raises(refused):
                await connect(verified(dsn, front.port, ca_file, name))
        assert front.taken == taken, "somebody went on with a server that he did not believe"
    with pytest.raises(refused):  # The server itself, which has no TLS.
        await connect(verified(dsn, target, pki.right.ca_file))


async def test_who_strips_tls_off_hears_nothing(database: Devstack, pki: Pki) -> None:
    with stripped(b"N") as (port, heard), pytest.raises(ServiceError):
        await by_session(verified(database.dsn("atlas_ingest"), port, pki.right.ca_file))
    assert bytes(heard) == b"\0\0\0\x08\x04\xd2\x16\x2f", "more than the question whether there is"


async def test_cancelling_a_statement_goes_by_tls_too(database: Devstack, pki: Pki) -> None:
    """What cancels it is a secret of the session: older libraries send it in the clear."""
    dsn = database.dsn("atlas_ingest")
    running = "SELECT FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%pg_sleep%%'"
    with (
        TlsFront.listen(port_of(dsn), pki.certificate(), asks_first=True) as front,
        psycopg.connect(database.admin_dsn, autocommit=True) as admin,
    ):
        config = config_of(verified(dsn, front.port, pki.right.ca_file))
        async with direct_connection(config, name="tls") as direct:
            pid = direct.info.backend_pid

            def is_running() -> bool:
                return admin.execute(running, [pid]).fetchone() is not None

            sleeping = asyncio.create_task(direct.execute("SELECT pg_sleep(600)"))
            await asyncio.to_thread(wait_until, is_running, "it runs", patience=Patience(30.0))
            taken = front.taken
            await direct.cancel_safe(timeout=20)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await sleeping
            assert front.taken == taken + 1


async def test_certificate_and_authority_are_rotated_while_calls_run(
    database: Devstack, pki: Pki, tmp_path: Path
) -> None:
    shown, ca_file = pki.certificate(), tmp_path / "ca.pem"
    right, stranger = (each.ca_file.read_bytes() for each in (pki.right, pki.stranger))
    ca_file.write_bytes(right)
    dsn = database.dsn("atlas_query")
    with TlsFront.listen(port_of(dsn), shown, asks_first=True) as front:
        # Connections live for a second: all of them are made anew.
        config = config_of(
            verified(dsn, front.port, ca_file),
            connection_lifetime_seconds=1,
            acquire_timeout_seconds=30,
        )
        async with Database.open(config, name="tls") as pool:

            async def until_new_connections() -> None:
                before = front.taken
                async with asyncio.timeout(60):
                    while front.taken < before + 2:
                        await read(pool)

            async def replace_certificate(by: CertificateFiles) -> None:
                shown.replace_with(by)
                front.renew()
                await until_new_connections()

            await until_new_connections()
            await replace_certificate(pki.certificate())
            ca_file.write_bytes(right + stranger)
            await until_new_connections()
            await replace_certificate(pki.stranger.issue(NAME))
            ca_file.write_bytes(stranger)
            await until_new_connections()


# Its driver's ways: an older constructor, and a socket that it leaves to the garbage collector.
@pytest.mark.filterwarnings("ignore:ssl:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_name_of_a_redshift_cluster_is_verified(
    database: Devstack, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its driver, up to where a cluster would answer; what does here is Postgres."""
    monkeypatch.setenv("SSL_CERT_FILE", str(pki.right.ca_file))
    given = conninfo_to_dict(database.dsn("atlas_reconciler"))
    for certificate, is_believed in (
        (pki.certificate("other.atlas.example"), False),
        (pki.stranger.issue("localhost"), False),
        (pki.certificate("localhost"), True),
    ):
        target = int(given["port"] or 0)
        with TlsFront.listen(target, certificate, asks_first=True) as front:
            config = RedshiftConfig(
                host="localhost",
                port=front.port,
                database=str(given["dbname"]),
                user=str(given["user"]),
                password=SecretStr(str(given["password"])),
                iam_role="default",
                bucket="atlas-staging",
                region="eu-central-1",
            )
            session = Session(config)
            with suppress(Exception):  # Postgres asks for a login as no cluster does.
                session.run("SELECT 1")
            session.close()
            assert (front.taken > 0) == is_believed
    gc.collect()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    directory = tmp_path_factory.mktemp("valkey")
    site = ValkeySite(directory, directory, directory, free_port(set()), PASSWORD)
    valkey = Valkey(site, Patience(20.0))
    valkey.start()
    try:
        yield valkey
    finally:
        valkey.stop()


@asynccontextmanager
async def cache_client(port: int, ca_file: Path, more: str = "") -> AsyncIterator[Client]:
    url = f"rediss://:{PASSWORD}@localhost:{port}/0?ssl_ca_certs={ca_file}{more}"
    config = ValkeyConfig(
        url=SecretStr(url), connect_timeout_seconds=10.0, call_timeout_seconds=10.0
    )
    async with open_client(ValkeyUrl.parse(url), config) as client:
        yield client


async def count(client: Client) -> None:
    for tenant in ("acme", "globex"):
        await client.execute("INCR", f"{{{tenant}}}:calls")


async def test_the_cache_is_verified(valkey: Valkey, pki: Pki) -> None:
    with TlsFront.listen(valkey.port, pki.certificate()) as front:
        async with cache_client(front.port, pki.right.ca_file) as client:
            await count(client)
        async with cache_client(front.port, pki.stranger.ca_file) as client:
            with pytest.raises((RedisError, OSError)):
                await count(client)
    with TlsFront.listen(valkey.port, pki.certificate(NAME)) as front:
        async with cache_client(front.port, pki.right.ca_file) as client:
            with pytest.raises((RedisError, OSError)):
                await count(client)
        assert front.taken == 0
    with stripped(b"-ERR only in the clear\r\n") as (port, heard):
        async with cache_client(port, pki.right.ca_file) as client:
            with pytest.raises((RedisError, OSError)):
                await count(client)
    assert heard
    assert PASSWORD.encode() not in heard


async def test_the_cache_may_ask_who_we_are(valkey: Valkey, pki: Pki) -> None:
    own = pki.right.issue("hotcache.atlas")
    files = f"&ssl_certfile={own.certificate}&ssl_keyfile={own.key}"
    listen = partial(TlsFront.listen, valkey.port, pki.certificate())
    with listen(client_ca_file=pki.right.ca_file) as front:
        async with cache_client(front.port, pki.right.ca_file, files) as client:
            await count(client)
        async with cache_client(front.port, pki.right.ca_file) as client:
            with pytest.raises((RedisError, OSError)):
                await count(client)


async def test_the_caches_certificate_is_rotated_while_calls_run(valkey: Valkey, pki: Pki) -> None:
    shown = pki.certificate()
    with TlsFront.listen(valkey.port, shown) as front:
        async with cache_client(front.port, pki.right.ca_file) as client:
            await count(client)
            shown.replace_with(pki.certificate())
            front.renew()
            await count(client)
            front.cut()  # What was open is made again, by the new certificate.
            await count(client)
            assert front.taken >= 2
