"""Servers of these tests alone, since they hurt them: one stack for writes, one for reads."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from tests.integration.query_reading import TOKEN_ENVIRONMENT

from .arena import Arena, arena_on
from .read_arena import ReadArena, read_arena_on


@pytest.fixture(scope="session")
def chaos_stack(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Stack]:
    """A primary alone, embedded whatever the command line says: it gets killed."""
    servers = replace(
        server_options.embedded(),
        postgres=replace(server_options.postgres, replicas=0),
        valkey=False,
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
    with arena_on(chaos_stack, tmp_path) as arena:
        yield arena


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of soak.py."""
    group = parser.getgroup("chaos", "random faults")
    group.addoption("--soak-seconds", type=int, default=60, help="begin no further round then")
    group.addoption("--soak-seed", type=int, help="repeat the faults of this seed")


@pytest.fixture(scope="session")
def read_arena(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[ReadArena]:
    """A primary, two replicas, Valkey, ingest, hotcache and query, for all tests of reads.

    Embedded whatever the command line says. Leave it as you found it.
    """
    servers = replace(server_options.embedded(), valkey_url=None)
    directory = tmp_path_factory.mktemp("reads")
    options = StackOptions(
        services=("ingest",), servers=servers, environment={"ingest": TOKEN_ENVIRONMENT}
    )
    stack = Stack.start(directory / "state", options)
    try:
        with read_arena_on(stack, directory) as arena:
            yield arena
    finally:
        stack.remove()
