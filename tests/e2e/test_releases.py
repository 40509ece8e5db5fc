"""The last release beside this one: its services on this schema, its client with these services.

The last release is the commit in protos/released.commit (see tools/release). Its sources are taken
from the repository's history and run with today's dependencies, which is what they allow, not what
their lock files said.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlas_devstack.platform import SERVICES
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.stack import Stack
from tests.integration.query_reading import TOKEN_ENVIRONMENT

ROOT = Path(__file__).parents[2]
WALK = Path(__file__).with_name("release_walk.py")

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
    sources = [*sorted(tree.glob("libs/*/src")), *sorted(tree.glob("services/*/src"))]
    return os.pathsep.join(str(path) for path in sources)


def walk(stack: Stack, directory: Path, python_path: str = "") -> None:
    """Do what callers do, with the client that is found on this path."""
    endpoints = directory / "endpoints.json"
    endpoints.write_text(stack.endpoints.to_json())
    done = subprocess.run(
        [sys.executable, str(WALK), str(endpoints)],
        env={**os.environ, "PYTHONPATH": python_path},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr


def test_what_is_compared_is_the_last_release(released: str) -> None:
    """Not this tree's own code, which is installed in the environment."""
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "from atlas.query.v1 import query_service_pb2 as stubs; import atlas_query;"
            " print(stubs.__file__, atlas_query.__file__)",
        ],
        env={**os.environ, "PYTHONPATH": released},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    sources = tuple(released.split(os.pathsep))
    assert all(path.startswith(sources) for path in shown.split()), shown


def test_the_last_releases_client_works_with_these_services(
    stack: Stack, released: str, tmp_path: Path
) -> None:
    walk(stack, tmp_path, released)


@pytest.mark.parametrize(
    "old",
    [
        ("ingest", "hotcache", "query", "cdc-reconciler"),
        ("hotcache", "cdc-reconciler"),
    ],
    ids=["all", "those that others call"],
)
def test_the_last_releases_services_work_on_this_schema(
    start_stack: StartStack, released: str, tmp_path: Path, old: tuple[str, ...]
) -> None:
    """And with this client: between the migration job and the end of a deployment."""
    # The keys of tokens as settings that both releases know.
    environment = {
        name: TOKEN_ENVIRONMENT | ({"PYTHONPATH": released} if name in old else {})
        for name in SERVICES
    }
    stack = start_stack(environment=environment)
    walk(stack, tmp_path)
