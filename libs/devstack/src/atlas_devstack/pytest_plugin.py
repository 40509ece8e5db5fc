"""Fixtures that run the platform's servers and services for tests.

Session scope: `database` (a migrated primary), `stack` (everything), `kafka` (a broker).
Module scope: `module_database` (a database for all its tests).
Function scope: `fresh_database` (a private database on the same server), `start_stack`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atlas_devstack.database import Database, another
from atlas_devstack.kafka import Kafka, KafkaSite
from atlas_devstack.ports import free_port
from atlas_devstack.postgres import PostgresOptions
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import Patience

StartStack = Callable[..., Stack]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the suite run on servers of one's own."""
    group = parser.getgroup("atlas", "AtlasCo devstack")
    group.addoption("--pg-dsn", help="administrator's DSN of a Postgres primary that runs already")
    group.addoption("--replica-dsn", action="append", default=[], help="a replica of it (repeat)")
    group.addoption("--valkey-url", help="URL of a Valkey or Redis that runs already")
    group.addoption(
        "--containers", action="store_true", help="take the servers from a Docker engine"
    )
    group.addoption("--pg-bin-dir", type=Path, help="Postgres' programs, instead of the wheel's")


@pytest.fixture(scope="session")
def postgres_options(request: pytest.FixtureRequest) -> PostgresOptions:
    """How test servers are built: no fsync, since no test pulls the plug."""
    return PostgresOptions(
        bin_dir=request.config.getoption("--pg-bin-dir"), fsync=False, shared_buffers_mb=48
    )


@pytest.fixture(scope="session")
def server_options(
    request: pytest.FixtureRequest, postgres_options: PostgresOptions
) -> ServerOptions:
    """Which servers tests use: embedded ones unless the command line names others."""
    return ServerOptions(
        postgres=postgres_options,
        pg_dsn=request.config.getoption("--pg-dsn"),
        replica_dsns=tuple(request.config.getoption("--replica-dsn")),
        valkey_url=request.config.getoption("--valkey-url"),
        containers=request.config.getoption("--containers"),
    )


@pytest.fixture(scope="session")
def database(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Database]:
    """A migrated database on a primary alone. Shared: use your own tenants in it."""
    servers = replace(
        server_options,
        postgres=replace(server_options.postgres, replicas=0),
        replica_dsns=(),
        valkey=False,
    )
    stack = Stack.start(
        tmp_path_factory.mktemp("database") / "state", StackOptions(services=(), servers=servers)
    )
    try:
        yield stack.database
    finally:
        stack.remove()


@pytest.fixture
def fresh_database(database: Database) -> Iterator[Database]:
    """A migrated database of this test alone, empty."""
    with another(database) as own:
        yield own


@pytest.fixture(scope="module")
def module_database(database: Database) -> Iterator[Database]:
    """A migrated database of this module's tests, which see what those before left in it."""
    with another(database) as own:
        yield own


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker alone, without topics. Shared: use topics of your own, leave it running."""
    directory = tmp_path_factory.mktemp("kafka")
    broker = Kafka(KafkaSite(directory, directory, directory, free_port(set())), Patience())
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Stack]:
    """The whole platform, shared. Leave it as you found it: what you break, start again."""
    options = StackOptions(servers=server_options, spans=True)
    stack = Stack.start(tmp_path_factory.mktemp("stack") / "state", options)
    try:
        yield stack
    finally:
        stack.remove()


@pytest.fixture
def start_stack(tmp_path: Path, server_options: ServerOptions) -> Iterator[StartStack]:
    """Start a stack of this test alone: start_stack(services=("ingest",), heal_services=False).

    Takes the fields of StackOptions; `servers` defaults to those of the command line. Returns the
    Stack. What was started is stopped and deleted after the test.
    """
    with ExitStack() as cleanup:

        def start(**fields: Any) -> Stack:
            options = StackOptions(**{"servers": server_options, "spans": True, **fields})
            stack = Stack.start(tmp_path / f"state-{len(started)}", options)
            started.append(stack)
            cleanup.callback(stack.remove)
            return stack

        started: list[Stack] = []
        yield start
