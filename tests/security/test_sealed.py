"""With all its stores by verified TLS the platform works; and what it knows in secret it keeps."""

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import redis

import atlas_db
from atlas_client import AggregateFunction, Attribute, DataType, Point
from atlas_client.consistency import analytics, at_least_as_fresh, strong
from atlas_client.errors import AtlasError
from atlas_common.config import load
from atlas_devstack.identity import ProcessIdentity
from atlas_devstack.platform import SERVICES as KINDS
from atlas_devstack.servers import ServerOptions
from atlas_devstack.waiting import Patience, wait_until

from .fortress import METHODS, SERVICES, path
from .sealed import PRIVATE_FILES, Sealed, sealed

TENANTS = {"acme": 11, "globex": 22}
PATIENCE = Patience(60.0)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def heard() -> list[bytes]:
    """All that callers were told in these tests."""
    return []


@pytest.fixture(scope="module")
def given() -> list[str]:
    """Credentials that callers brought, good and bad."""
    return []


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Sealed]:
    with sealed(tmp_path_factory.mktemp("sealed"), server_options) as platform:
        asyncio.run(_set_up(platform))
        yield platform


async def _set_up(platform: Sealed) -> None:
    held = platform.held
    async with held.client(held.token(scopes=["platform.admin"])) as operator:
        for tenant in TENANTS:
            await operator.create_tenant(tenant)
    for tenant in TENANTS:
        async with held.client(held.token(tenant)) as client:
            await client.upsert_attributes([Attribute("rpm", DataType.INT, hot=True)])


async def _works(platform: Sealed, given: list[str]) -> None:
    """Both tenants write, and read what they wrote, each its own, from every store."""
    for tenant, value in TENANTS.items():
        token = platform.held.token(tenant)
        given.append(token)
        async with platform.held.client(token) as client:
            written = await client.write([Point("pump", "rpm", value)])
            fresh = at_least_as_fresh(written.token)
            for consistency in (strong(), fresh, fresh):  # The last by way of the cache.
                read = await client.get_entities(["pump"], consistency=consistency)
                assert read["pump"].values["rpm"] == value
            rows = [
                row
                async for row in client.aggregate(
                    ["rpm"], [AggregateFunction.MAX], consistency=analytics(token=written.token)
                )
            ]
            assert len(rows) == 1


async def _fails(platform: Sealed, heard: list[bytes], given: list[str]) -> None:
    """Until calls of every kind fail, for want of a database; what they are told is kept."""
    token = platform.held.token("acme")
    given.append(token)
    async with platform.held.client(token) as client:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: client.write([Point("pump", "rpm", TENANTS["acme"])], timeout=3),
            lambda: client.get_entities(["pump"], consistency=strong(), timeout=3),
        ]
        for call in calls:
            async with asyncio.timeout(60):
                while True:
                    try:
                        await call()
                    except AtlasError as error:
                        heard.append(f"{error!r} {error}".encode())
                        break


def _logged(platform: Sealed, text: str) -> Callable[[], bool]:
    """Whether every service has written that since now, to its log."""
    logs = {name: platform.held.stack.state.logs / f"{name}.log" for name in SERVICES}
    sizes = {name: log.stat().st_size for name, log in logs.items()}
    return lambda: all(
        text.encode() in log.read_bytes()[sizes[name] :] for name, log in logs.items()
    )


async def _works_again(platform: Sealed, given: list[str]) -> None:
    async with asyncio.timeout(90):
        while True:
            try:
                return await _works(platform, given)
            except AtlasError:
                await asyncio.sleep(0.2)


async def test_the_platform_works_with_stores_by_tls_alone(
    platform: Sealed, given: list[str]
) -> None:
    await _works(platform, given)
    with psycopg.connect(platform.servers.database.admin_dsn) as admin:
        found = admin.execute("SELECT usename, backend_type FROM pg_stat_activity").fetchall()
    users = {str(user) for user, _ in found}
    assert {"atlas_ingest", "atlas_query", "atlas_hotcache", "atlas_reconciler"} <= users
    assert ("atlas_reconciler", "walsender") in found, "no stream to the warehouse"
    assert platform.postgres.tls.taken >= len([user for user in users if "atlas_" in user])
    assert platform.valkey.tls.taken > 0


async def test_servers_that_turn_false_are_left_and_taken_again_when_they_are_true(
    platform: Sealed, heard: list[bytes], given: list[str]
) -> None:
    logged = _logged(platform, "certificate verify failed")
    fronts = (platform.postgres, platform.valkey)
    for front in fronts:
        front.be_false()
    taken = [front.tls.taken for front in fronts]
    await _fails(platform, heard, given)
    await asyncio.to_thread(wait_until, logged, "all services say why", patience=PATIENCE)
    assert [front.tls.taken for front in fronts] == taken, "a false server was told something"
    for front in fronts:
        front.be_true()
    await _works_again(platform, given)


async def test_logins_that_are_refused_are_not_told(
    platform: Sealed, heard: list[bytes], given: list[str]
) -> None:
    database = platform.held.stack.database
    logged = _logged(platform, "password authentication failed")
    atlas_db.set_role_passwords(
        platform.servers.database.admin_dsn, dict.fromkeys(database.role_passwords, "another")
    )
    with redis.Redis.from_url(platform.servers.valkey.url) as administrator:
        right = str(administrator.config_get("requirepass")["requirepass"])
        administrator.config_set("requirepass", "another")
        try:
            platform.postgres.tls.cut()
            platform.valkey.tls.cut()
            await _fails(platform, heard, given)
            await asyncio.to_thread(wait_until, logged, "all services say why", patience=PATIENCE)
        finally:
            administrator.config_set("requirepass", right)
            atlas_db.set_role_passwords(
                platform.servers.database.admin_dsn, dict(database.role_passwords)
            )
    await _works_again(platform, given)


def _told(channel: Any, method: Any, metadata: tuple[tuple[str, str], ...]) -> bytes:
    call = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[method.client_streaming, method.server_streaming](path(method))
    request: Any = iter([b"\xff"]) if method.client_streaming else b"\xff"
    try:
        answer = call(request, metadata=metadata, timeout=60)
        return b"".join(answer) if method.server_streaming else bytes(answer)
    except grpc.RpcError as error:
        failed: Any = error
        return f"{failed.code()} {failed.details()} {failed.trailing_metadata()}".encode()


def test_credentials_that_are_refused_are_not_said_back(
    platform: Sealed, heard: list[bytes], given: list[str]
) -> None:
    issuer = platform.held.verified.issuer
    good = platform.held.token("acme")
    bad = [
        good[:-8] + "AAAAAAAA",
        issuer.token(tenant="acme", exp=int(time.time()) - 3600),
        issuer.token(tenant="acme", aud="canary-of-another-audience"),
        "canary-that-is-no-token",
    ]
    given += [good, *bad]
    tried = [("authorization", f"Bearer {token}") for token in (*bad, good)]
    tried.append(("authorization", f"Basic {bad[-1]}"))
    told = []
    for service in SERVICES:
        with platform.held.channel(service) as channel:
            methods = [method for name, method in METHODS if name == service]
            told += [_told(channel, method, (pair,)) for method in methods for pair in tried]
    assert {b"UNAUTHENTICATED", b"INVALID_ARGUMENT"} <= {
        each.split()[0].rpartition(b".")[2] for each in told
    }
    heard += told


@pytest.mark.parametrize("service", SERVICES)
def test_settings_are_told_without_what_is_secret(
    platform: Sealed, service: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, heard: list[bytes]
) -> None:
    record = ProcessIdentity.read(platform.held.stack.state.run / f"{service}.json")
    assert record is not None
    environment = Path(f"/proc/{record.pid}/environ").read_bytes().decode().split("\0")
    own = dict(each.split("=", 1) for each in environment if each.startswith("ATLAS_"))
    secret = [name for name in own if name.endswith(("__DSN", "__URL", "__KEYS", "_REPLICAS"))]
    assert {"ATLAS_PRIMARY__DSN", "ATLAS_DIRECT__DSN"} <= set(secret)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    config = importlib.import_module(f"{KINDS[service].module}.config").Config

    def said(*arguments: str) -> tuple[Any, bytes]:
        with pytest.raises(SystemExit) as ended:
            load(config, arguments)
        told = capsys.readouterr()
        return ended.value.code, (told.out + told.err).encode()

    for arguments in (("--check-config",), ("--help",)):
        status, told = said(*arguments)
        assert (status, b"ATLAS_PRIMARY__DSN" in told or b'"dsn"' in told) == (0, True)
        heard.append(told)
    for name in secret:
        for broken in (own[name] + "%zz", "[" + own[name], own[name].replace(":", ";")):
            monkeypatch.setenv(name, broken)
            heard.append(said("--check-config")[1])
        monkeypatch.setenv(name, own[name])


def test_what_is_secret_is_nowhere(platform: Sealed, heard: list[bytes], given: list[str]) -> None:
    """In nothing that was told, logged, exported or written since the platform began."""
    secrets = platform.secrets | {
        f"token {number}": [token.encode(), *(part.encode() for part in token.split(".")[1:])]
        for number, token in enumerate(given)
    }
    assert len(given) > 5
    assert len(heard) > 100
    since = len(platform.exports)

    def exported() -> bool:
        later = platform.exports[since:]
        return all(any(name.encode() in each for each in later) for name in SERVICES)

    wait_until(exported, "all services tell the collector", patience=PATIENCE)
    assert any(b"db.transaction" in each for each in platform.exports), "no span was exported"
    private: list[Path] = []
    public: list[Path] = []
    for file in platform.files():
        (private if file.name in PRIVATE_FILES else public).append(file)
    places: dict[str, bytes] = {
        "told": b"\n".join(heard),
        "exported": b"\n".join(platform.exports),
        "arguments": b"\n".join(_arguments()),
        **{str(file): file.read_bytes() for file in public},
    }
    assert {f"{name}.log" for name in SERVICES} <= {file.name for file in public}
    assert any(file.suffix == ".duckdb" for file in public)
    assert any(file.name.endswith(".spans.jsonl") for file in public)
    assert {file.stat().st_mode & 0o077 for file in private} == {0}
    kept = b"".join(file.read_bytes() for file in private)
    assert all(
        forms[0] in kept for name, forms in secrets.items() if name.startswith("password")
    ), "what is looked for is not what is secret"
    found = {
        (place, name)
        for place, content in places.items()
        for name, forms in secrets.items()
        if any(form in content for form in forms)
    }
    assert found == set()


def _arguments() -> Iterator[bytes]:
    """Of every process there is."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "cmdline").read_bytes()
        except OSError:  # It is gone.
            continue
