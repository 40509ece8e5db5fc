"""A service built on atlas_common, as a process: settings, start in any order, stop, refusal."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atlas_devstack.database import Database as Devstack

SERVICE = '''
"""A service that can tell whose call it is and what the database says of it."""
from contextlib import AsyncExitStack

import grpc
from pydantic import Field

from atlas_common import telemetry
from atlas_common.config import DatabaseConfig, ServiceConfig, load
from atlas_common.db import Database, Heartbeat, PostgresTenants, rights, tenant_transaction
from atlas_common.rpc import Access, authenticator, call_chain, new_server, run, serve
from atlas_common.tenant import current_tenant

NAME = "atlas.test.v1.Who"


class Config(ServiceConfig):
    """Settings of a service in a test."""

    primary: DatabaseConfig = Field(description="The primary.")


async def main() -> None:
    config = load(Config)
    async with AsyncExitStack() as stack:
        stack.enter_context(telemetry.setup("who", config.telemetry, instance=config.instance))
        identity = authenticator(config)
        primary = await stack.enter_async_context(Database.open(config.primary, name="primary"))

        async def ask(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with tenant_transaction(primary, current_tenant(), read_only=True) as connection:
                cursor = await connection.execute("SELECT current_setting('atlas.tenant_id')")
                return (await cursor.fetchone())[0].encode()

        chain = call_chain(
            config.rpc,
            authenticator=identity,
            tenants=PostgresTenants(primary),
            accesses={f"/{NAME}/Ask": Access("telemetry.read")},
        )
        server = new_server(config.rpc, chain)
        handler = grpc.unary_unary_rpc_method_handler(ask)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(NAME, {"Ask": handler}),)
        )
        await serve(
            server,
            config.rpc,
            services=[NAME],
            readiness={"primary": primary.check, "rights": rights.guard(primary)},
            background={"heartbeat": Heartbeat(primary).run},
        )


run(main)
'''
DEADLINE_SECONDS = 20.0


class Service:
    """The process and its files."""

    def __init__(self, folder: Path, dsn: str, **variables: str) -> None:
        self.port_file = folder / "port"
        self.log = folder / "log"
        script = folder / "service.py"
        script.write_text(SERVICE, encoding="utf-8")
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("ATLAS_")},
            "ATLAS_PRIMARY__DSN": dsn,
            "ATLAS_RPC__PORT_FILE": str(self.port_file),
            "ATLAS_IDENTITY__MODE": "insecure",
            "ATLAS_RPC__READINESS_INTERVAL_SECONDS": "0.1",
            **variables,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script)], env=environment, stderr=log
            )

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    @property
    def target(self) -> str:
        self.until(self.port_file.exists)
        return self.port_file.read_text().strip()

    def health(self) -> int:
        with grpc.insecure_channel(self.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(dsn: str, **variables: str) -> Service:
        started.append(Service(tmp_path, dsn, **variables))
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.wait()


def ask(service: Service, tenant: str) -> bytes:
    with grpc.insecure_channel(service.target) as channel:
        call: Any = channel.unary_unary("/atlas.test.v1.Who/Ask")
        answer: bytes = call(b"", metadata=(("x-atlas-tenant", tenant),), timeout=5)
        return answer


def test_a_service_serves_its_tenants_and_stops_on_sigterm(
    database: Devstack, start: Callable[..., Service], admin: Callable[[str], list[Any]]
) -> None:
    for key in ("first-tenant", "second-tenant"):
        admin(f"INSERT INTO atlas.tenants (key) VALUES ('{key}') ON CONFLICT DO NOTHING")
    ids = dict(admin("SELECT key, tenant_id::text FROM atlas.tenants"))
    service = start(database.dsn("atlas_ingest"))
    service.until(lambda: service.health() == health_pb2.HealthCheckResponse.SERVING)
    for key in ("first-tenant", "second-tenant", "first-tenant"):
        assert ask(service, key).decode() == ids[key]
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(10) == 0
    lines = service.lines()
    events = [line["event"] for line in lines]
    assert [event for event in events if event in ("serving", "ready", "draining", "stopped")] == [
        "serving",
        "ready",
        "draining",
        "stopped",
    ]
    assert {line["service"] for line in lines} == {"who"}


def test_a_service_starts_before_its_database_and_is_not_ready(
    start: Callable[..., Service],
) -> None:
    service = start(
        "host=127.0.0.1 port=9 dbname=atlas", ATLAS_PRIMARY__ACQUIRE_TIMEOUT_SECONDS="0.2"
    )
    assert service.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    service.until(lambda: any(line["event"] == "not ready" for line in service.lines()))
    assert service.process.poll() is None
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(10) == 0


def test_a_service_with_rights_in_excess_stops_and_names_them(
    database: Devstack, start: Callable[..., Service]
) -> None:
    service = start(database.admin_dsn)
    assert service.process.wait(DEADLINE_SECONDS) == 1
    last = service.log.read_text().splitlines()[-1]
    assert last.startswith("fatal: the database role has rights in excess: SUPERUSER (ALTER ROLE")


def test_callers_are_not_believed_in_production(
    database: Devstack, start: Callable[..., Service]
) -> None:
    service = start(database.dsn("atlas_ingest"), ATLAS_ENVIRONMENT="prod")
    assert service.process.wait(DEADLINE_SECONDS) == 1
    assert (
        "ATLAS_IDENTITY__MODE=insecure is refused in environment 'prod'" in service.log.read_text()
    )


def test_unverified_callers_are_not_what_one_gets_by_default(
    database: Devstack, start: Callable[..., Service]
) -> None:
    service = start(database.dsn("atlas_ingest"), ATLAS_IDENTITY__MODE="verified")
    assert service.process.wait(DEADLINE_SECONDS) == 1
    assert "it is not set how callers are verified" in service.log.read_text()


def test_a_bad_setting_stops_it_by_name(start: Callable[..., Service]) -> None:
    service = start("host=nowhere", ATLAS_RPC__PORT="http")
    assert service.process.wait(DEADLINE_SECONDS) == 2
    assert service.log.read_text().startswith("ATLAS_RPC__PORT: ")


@pytest.fixture
def admin(database: Devstack) -> Callable[[str], list[Any]]:
    """Run a statement with all rights; its rows."""

    def run(sql: str) -> list[Any]:
        with psycopg.connect(database.admin_dsn, autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    return run
