"""docker-compose.yml as it is, profile core: everything comes up, and the demo's proof holds."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .images import ROOT, docker

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("server_images", "builder")]

SERVICES = ("ingest", "hotcache", "query", "cdc-reconciler")
FEED_SECONDS = 30
# A crowded machine: the proof asks the cache, too, which is passed over when it is slow.
PATIENT = """\
services:
  query: {environment: {ATLAS_ROUTER__HOTCACHE_TIMEOUT_SECONDS: "2"}}
  hotcache: {environment: {ATLAS_VALKEY__CALL_TIMEOUT_SECONDS: "1"}}
"""
CONSOLE_PORT = "ATLAS_CONSOLE_PORT"
PORTS = {name: f"ATLAS_{name.rpartition('-')[2].upper()}_PORT" for name in SERVICES}


@dataclass(frozen=True)
class Platform:
    """One that runs, of a project of its own."""

    environment: dict[str, str]
    directory: Path

    def compose(self, *arguments: str, seconds: float = 60) -> str:
        """Run docker compose on it; returns what it said."""
        return docker("compose", *arguments, environment=self.environment, seconds=seconds).stdout

    def endpoints_file(self) -> Path:
        """Where its services are, as `atlas demo` reads it."""
        targets = {name: self.compose("port", name, "7000").strip() for name in SERVICES}
        file = self.directory / "endpoints.json"
        file.write_text(json.dumps({"services": targets}))
        return file


@pytest.fixture(scope="module")
def platform(
    server_images: None, builder: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    if docker("compose", "version", check=False).returncode != 0:
        pytest.skip("docker has no compose here")
    directory = tmp_path_factory.mktemp("compose")
    made = directory / "secrets"
    subprocess.run([sys.executable, ROOT / "tools" / "compose_secrets.py", made], check=True)
    patient = directory / "patient.yml"
    patient.write_text(PATIENT)
    environment = {
        "COMPOSE_FILE": os.pathsep.join([str(ROOT / "docker-compose.yml"), str(patient)]),
        **{name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")},
        "COMPOSE_PROJECT_NAME": f"atlas-test-{secrets.token_hex(3)}",
        "COMPOSE_PROFILES": "core",
        "ATLAS_COMPOSE_SECRETS": str(made),
        # Free ones: somebody may be using it for real.
        **dict.fromkeys((*PORTS.values(), CONSOLE_PORT), "0"),
    }
    platform = Platform(environment, directory)
    try:
        # One image after another: together they would take the machine from everybody else.
        for name in ("pgbouncer", "migrations", "console", *SERVICES):
            platform.compose("build", "--quiet", name, seconds=540)
        platform.compose("up", "--wait", seconds=300)
        yield platform
    finally:
        platform.compose("down", "--volumes", "--timeout", "20", seconds=180)


async def test_the_demos_proof_holds(platform: Platform) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from atlas_client.cli import main; main()",
        *("demo", "--seconds", str(FEED_SECONDS), "--json"),
        *("--endpoints", str(platform.endpoints_file()), "--tenants", "acme,globex"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    summary = json.loads(output)
    points = summary["points"]
    assert points["acknowledged"] == points["primary"] == points["warehouse"] > 1000
    assert summary["isolation"]["ok"] is True


def test_both_replicas_follow_and_the_pooler_is_used(platform: Platform) -> None:
    def ask(question: str) -> str:
        psql = ("psql", "--username=postgres", "--dbname=atlas", "--no-align", "--tuples-only")
        return platform.compose("exec", "-T", "primary", *psql, "--command", question).strip()

    following = ask("SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'")
    assert {"replica-1", "replica-2"} <= set(following.split())
    (pooler,) = platform.compose("ps", "--quiet", "pgbouncer").split()
    address = docker(
        *("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"), pooler
    ).stdout.strip()
    pooled = ask(f"SELECT DISTINCT usename FROM pg_stat_activity WHERE client_addr = '{address}'")
    assert "atlas_query" in pooled.split()


def test_the_console_shows_the_platform_and_ends_when_it_is_told(platform: Platform) -> None:
    address = platform.compose("port", "console", "7080").strip()
    # By the name that it was given; it has another port here.
    request = urllib.request.Request(
        f"http://{address}/api/overview", headers={"Host": "127.0.0.1:0"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        overview = json.load(answer)
    assert overview["problems"] == {}
    assert {each["tier"]["endpoint"] for each in overview["tiers"]} >= {
        "primary",
        "replica-1",
        "replica-2",
    }
    platform.compose("stop", "console")
    (container,) = platform.compose("ps", "--all", "--quiet", "console").split()
    assert docker("inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip() == "0"
    platform.compose("up", "--detach", "--wait", "console")


@pytest.mark.parametrize("name", [*SERVICES, "console"])
def test_a_service_owns_nothing_of_its_container(platform: Platform, name: str) -> None:
    (container,) = platform.compose("ps", "--quiet", name).split()
    shown = json.loads(docker("inspect", container).stdout)[0]
    assert shown["Config"]["User"] == "10001:10001"
    assert shown["HostConfig"]["ReadonlyRootfs"] is True
    assert shown["HostConfig"]["CapDrop"] == ["ALL"]
    given = "\n".join(shown["Config"]["Env"])
    for file in (platform.directory / "secrets").glob("*_password"):
        assert file.read_text() not in given


@pytest.mark.parametrize("profile", ["core", "full"])
def test_the_file_is_valid(platform: Platform, profile: str) -> None:
    environment = {**platform.environment, "COMPOSE_PROFILES": profile}
    shown = docker("compose", "config", "--services", environment=environment).stdout.split()
    assert set(SERVICES) <= set(shown)
    assert ("grafana" in shown) == (profile == "full")
