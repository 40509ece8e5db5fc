"""The images at work: the job migrates a database, and the four services serve it together."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import psycopg
import pytest

from atlas_client import AtlasClient, Attribute, DataType, Endpoints, Point, strong
from atlas_devstack.dsn import with_database
from atlas_devstack.platform import SERVICES as KINDS
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import Patience, wait_until

from .images import MIGRATION_JOB, SERVICES, Image, docker

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("server_images", "builder"),
]

PATIENCE = Patience(60)


@pytest.fixture
def servers(start_stack: StartStack) -> Stack:
    """Postgres and Valkey in containers, migrated, without services."""
    return start_stack(services=(), servers=ServerOptions(containers=True))


@pytest.fixture
def targets(servers: Stack) -> Iterator[dict[str, str]]:
    """The four services, each in its container; service name -> address."""
    for image in SERVICES:
        image.build()
    taken: set[int] = set()
    ports = {name: free_port(taken) for name in KINDS}
    with ExitStack() as cleanup:
        for image in SERVICES:
            environment = service_environment(servers, ports, image.name)
            cleanup.callback(docker, "rm", "--force", "--volumes", start(image, environment))
        for name in KINDS:
            wait_healthy(container_name(ports[name]))
        yield {name: f"{LOOPBACK}:{port}" for name, port in ports.items()}


def test_the_migration_job_makes_the_schema(servers: Stack) -> None:
    MIGRATION_JOB.build()
    dsn = with_database(servers.database.admin_dsn, "by_the_job")
    with psycopg.connect(servers.database.admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE DATABASE by_the_job")
    for _ in range(2):  # A job that is started again must not mind.
        docker(
            *("run", "--rm", "--network=host", "--read-only", "--env=ATLAS_ADMIN_DSN"),
            MIGRATION_JOB.tag,
            environment={**os.environ, "ATLAS_ADMIN_DSN": dsn},
        )
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM atlas.tenants").fetchone() == (0,)


async def test_the_services_work_together(targets: dict[str, str]) -> None:
    endpoints = Endpoints.from_json(json.dumps({"services": targets}))
    speeds = {"acme": 1480, "globex": 990}
    async with AtlasClient.connect(endpoints) as client:
        for tenant, speed in speeds.items():
            await client.create_tenant(tenant)
            own = client.for_tenant(tenant)
            await own.upsert_attributes([Attribute("speed", DataType.INT, hot=True)])
            await own.create_entities(["pump-1"])
            await own.write([Point("pump-1", "speed", speed, datetime.now(UTC))])
        for tenant, speed in speeds.items():
            own = client.for_tenant(tenant)
            found = await own.get_entities(["pump-1"], consistency=strong())
            assert found["pump-1"].values == {"speed": speed}
            summary = await own.reconcile().summary()
            assert summary.matched
            assert summary.warehouse.row_count == 1


def start(image: Image, environment: dict[str, str]) -> str:
    """Run a service's image on the host's network; returns the container's name."""
    name = container_name(int(environment["ATLAS_RPC__PORT"]))
    docker(
        *("run", "--detach", "--network=host", "--name", name),
        *("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
        # By the environment: arguments are public.
        *(f"--env={variable}" for variable in environment),
        image.tag,
        environment={**os.environ, **environment},
    )
    return name


def container_name(port: int) -> str:
    """Name a container so that two test runs cannot meet."""
    return f"atlas-test-{port}"


def wait_healthy(container: str) -> None:
    """Wait for the image's own health check."""

    def status() -> str:
        shown = docker(
            "inspect", "--format", "{{.State.Status}} {{.State.Health.Status}}", container
        )
        return shown.stdout.strip()

    def failure() -> str | None:
        if status().startswith("running"):
            return None
        return docker("logs", "--tail", "20", container).stderr

    wait_until(lambda: status() == "running healthy", container, patience=PATIENCE, failure=failure)


def service_environment(servers: Stack, ports: dict[str, int], name: str) -> dict[str, str]:
    """Say what the devstack tells its processes, for a container."""
    dsn = servers.database.dsn(KINDS[name].role)
    valkey = servers.endpoints.valkey
    assert valkey is not None
    credentials = json.loads(servers.state.secrets_file.read_text())
    common = {
        "ATLAS_ENVIRONMENT": "dev",
        "ATLAS_IDENTITY__MODE": "insecure",
        "ATLAS_RPC__HOST": LOOPBACK,
        "ATLAS_RPC__PORT": str(ports[name]),
        "ATLAS_TOKEN__KEYS": json.dumps(credentials["token_keys"]),
        "ATLAS_TOKEN__ACTIVE_KEY": str(credentials["token_active_key"]),
        "ATLAS_PRIMARY__DSN": dsn,
    }
    hotcache = {"ATLAS_HOTCACHE__TARGET": f"{LOOPBACK}:{ports['hotcache']}"}
    own = {
        "ingest": {"ATLAS_DIRECT__DSN": dsn, **hotcache},
        "hotcache": {"ATLAS_VALKEY__URL": valkey},
        "query": {
            "ATLAS_RECONCILER__TARGET": f"{LOOPBACK}:{ports['cdc-reconciler']}",
            **hotcache,
        },
        # Its image says where the warehouse is.
        "cdc-reconciler": {"ATLAS_DIRECT__DSN": dsn},
    }
    return {**common, **own[name]}
