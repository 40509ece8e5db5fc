"""The last release beside this one: a deployment from that to this, stopped half-way, and back.

The last release is the commit in protos/released.commit (see tools/release). Its sources are taken
from the repository's history and run with today's dependencies, which is what they allow, not what
their lock files said.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest

import atlas_db
from atlas_client import AtlasClient, AtlasError, Endpoints, strong
from atlas_common.db.schema import REVISION
from atlas_devstack.platform import SERVICES
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack
from tests.integration.query_reading import TOKEN_ENVIRONMENT
from tests.integration.waiting import eventually

ROOT = Path(__file__).parents[2]
WALK = Path(__file__).with_name("release_walk.py")
THIS = ""
"""PYTHONPATH of this release's sources: they are installed."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH of the last release's sources."""
    commit = (ROOT / "protos" / "released.commit").read_text().strip()
    archive = subprocess.run(
        ["git", "archive", commit, "libs", "services", "db"],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=60,
    )
    if archive.returncode != 0:
        pytest.skip(
            f"the last release, {commit}, is not in this clone (git fetch --unshallow):"
            f" {archive.stderr.decode().strip()}"
        )
    tree = tmp_path_factory.mktemp("released")
    subprocess.run(["tar", "-x"], input=archive.stdout, cwd=tree, check=True, timeout=60)
    return os.pathsep.join(str(path) for path in sorted(tree.glob("**/src")))


def python(release: str, *arguments: str, **environment: str) -> str:
    """What a program of this release says."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": release, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def walk(stack: Stack, release: str) -> None:
    """Do what callers do, with the client of this release."""
    python(release, str(WALK), str(stack.state.endpoints_file))


def deploy(stack: Stack, release: str, services: Iterable[str]) -> None:
    """Replace services by those of this release."""

    def replaced(name: str) -> None:
        service = stack.services[name]
        service.stop()
        service.environment = told(release)
        service.start()

    with ThreadPoolExecutor() as pool:
        list(pool.map(replaced, services))


def told(release: str) -> dict[str, str]:
    """Variables of a service of this release: the keys of tokens as settings that both know."""
    return TOKEN_ENVIRONMENT | {"PYTHONPATH": release}


def revision(admin_dsn: str) -> int:
    """Just after a release the last one is this one: there is nothing to wait for."""
    with psycopg.connect(admin_dsn) as connection:
        row = connection.execute("SELECT max(version_num) FROM public.atlas_revision").fetchone()
    assert row is not None
    return int(row[0])


def says(directory: Path, service: str, words: str) -> bool:
    """Whether a service of the stack below this directory has logged these words."""
    return any(words in log.read_text() for log in directory.glob(f"*/logs/{service}.log"))


def address(directory: Path, service: str) -> str:
    """Where a service of the stack below this directory listens."""
    (file,) = directory.glob(f"*/run/{service}.address")
    return file.read_text().strip()


async def refused(directory: Path) -> None:
    """Who calls services that wait is told for what, and that calling again makes sense."""
    endpoints = Endpoints(ingest=address(directory, "ingest"), query=address(directory, "query"))
    async with AtlasClient.connect(endpoints, timeout=5.0) as client:
        for calling in (
            client.create_tenant("early"),
            client.for_tenant("early").get_entities(["pump-1"], consistency=strong()),
        ):
            with pytest.raises(AtlasError, match="this release needs") as told:
                await calling
            assert told.value.is_transient


def test_what_is_compared_is_the_last_release(released: str) -> None:
    """Not this tree's own code, which is installed in the environment."""
    shown = python(
        released,
        "-c",
        "from atlas.query.v1 import query_service_pb2 as stubs; import atlas_query, atlas_db;"
        " print(stubs.__file__, atlas_query.__file__, atlas_db.__file__)",
    )
    sources = tuple(released.split(os.pathsep))
    assert all(path.startswith(sources) for path in shown.split()), shown


async def test_a_deployment_and_the_way_back(
    start_stack: StartStack, server_options: ServerOptions, released: str, tmp_path: Path
) -> None:
    """One platform all the way: each start of a service is seconds of work."""
    database: list[str] = []

    def migrate_as_then(admin_dsn: str) -> None:
        python(released, "-m", "atlas_db", ATLAS_ADMIN_DSN=admin_dsn)
        database.append(admin_dsn)

    servers = replace(
        server_options,
        postgres=replace(server_options.postgres, replicas=1),
        upgrade=migrate_as_then,
    )
    environment = {name: told(THIS) for name in SERVICES}
    async with asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(
            asyncio.to_thread(start_stack, servers=servers, environment=environment)
        )
        await eventually(lambda: database or starting.done(), 60)
        # Before the job: these services wait, and each says for what. After it they serve.
        if revision(database[0]) < REVISION:
            for name in SERVICES:
                await eventually(partial(says, tmp_path, name, "this release needs"), 60)
            assert not starting.done()
            await refused(tmp_path)
        else:
            await starting
        atlas_db.upgrade(database[0])
    stack = starting.result()
    walk(stack, released)
    # Half-way: those that call others are of this release, and those that are called of the last.
    deploy(stack, released, ("hotcache", "cdc-reconciler"))
    walk(stack, THIS)
    # Right after the job, or all the way back: the last release on this schema.
    deploy(stack, released, ("ingest", "query"))
    walk(stack, THIS)
