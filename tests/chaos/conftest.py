"""A Postgres of these tests alone, since they kill it, and an arena on it for each test."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from atlas_devstack.database import another
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

from .arena import Arena


@pytest.fixture(scope="session")
def chaos_stack(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Stack]:
    """A primary alone, embedded whatever the command line says: it gets killed."""
    servers = replace(
        server_options,
        postgres=replace(server_options.postgres, replicas=0),
        pg_dsn=None,
        replica_dsns=(),
        valkey=False,
        containers=False,
    )
    stack = Stack.start(
        tmp_path_factory.mktemp("chaos") / "state", StackOptions(services=(), servers=servers)
    )
    try:
        yield stack
    finally:
        stack.remove()


@pytest.fixture
def arena(chaos_stack: Stack, tmp_path: Path) -> Iterator[Arena]:
    """A database and processes of this test alone."""
    primary = chaos_stack.postgres.primary
    if not primary.is_running():
        primary.start()  # The test before left it dead.
    with another(chaos_stack.database) as database, ExitStack() as cleanup:
        arena = Arena(chaos_stack, database, tmp_path)
        cleanup.callback(arena.stop)
        cleanup.callback(primary.wait_ready)
        cleanup.callback(primary.relaunch_if_dead)
        yield arena
