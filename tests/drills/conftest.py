"""Drills: disasters that are caused for real, and ended by the scripts an operator would run."""

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

from .durations import Drill, Durations
from .site import ENVIRONMENT, Site, site_on

_DOCUMENT = Path(__file__).parents[2] / "docs" / "disaster-recovery.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of `make drills RECORD=1`."""
    group = parser.getgroup("drills", "disaster recovery")
    group.addoption(
        "--record", action="store_true", help=f"write durations into docs/{_DOCUMENT.name}"
    )


@pytest.fixture(scope="session")
def durations(request: pytest.FixtureRequest) -> Iterator[Durations]:
    """What was measured; written down at the end, if that is asked for and nothing failed."""
    durations = Durations()
    yield durations
    if request.config.getoption("--record") and not request.session.testsfailed:
        memory_gb = round(psutil.virtual_memory().total / 2**30)
        machine = f"{os.cpu_count()} cores ({platform.machine()}), {memory_gb} GB"
        durations.write_into(_DOCUMENT, machine, datetime.now(UTC).date())


@pytest.fixture
def drill(durations: Durations) -> Drill:
    """The clock of one drill."""
    return Drill(durations)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions) -> Iterator[Site]:
    """A platform with a warehouse, whose primary no drill hurts. Leave it working.

    Embedded whatever the command line says.
    """
    servers = replace(
        server_options.embedded(),
        postgres=replace(server_options.postgres, replicas=0),
        valkey=False,
    )
    # The second slot that is lost within an hour is a person's to look at.
    bound = {"ATLAS_SLOT__RECOVERIES_PER_HOUR_MAX": "1"}
    reconciler = {**ENVIRONMENT["cdc-reconciler"], **bound}
    options = StackOptions(
        services=("ingest", "query", "cdc-reconciler"),
        servers=servers,
        environment={**ENVIRONMENT, "cdc-reconciler": reconciler},
        heal_services=False,  # What is dead stays dead until the operator starts it.
    )
    directory = tmp_path_factory.mktemp("drills")
    stack = Stack.start(directory / "state", options)
    try:
        with site_on(stack, directory) as site:
            yield site
    finally:
        stack.remove()
