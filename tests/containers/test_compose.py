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

from atlas_client import Endpoints
from tests.e2e.repeating import loaded, more

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

    def change_password(self, name: str) -> None:
        """As docs/operations.md says to do it."""
        tool, made = ROOT / "tools" / "compose_secrets.py", self.directory / "secrets"
        command = [sys.executable, str(tool), "--change", name, str(made)]
        subprocess.run(command, env=self.environment, check=True, timeout=120)

    def log_out(self, name: str) -> None:
        """End its connections: those that come next log in anew."""
        if name == "valkey":
            self.cache_said("CLIENT KILL TYPE normal")
            return
        ended = (
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'atlas_{name}'"
        )
        assert self.ask(ended)

    def ask(self, question: str) -> str:
        """What the primary says to its administrator."""
        psql = ("psql", "--username=postgres", "--dbname=atlas", "--no-align", "--tuples-only")
        return self.compose("exec", "-T", "primary", *psql, "--command", question).strip()

    def cache_said(self, command: str) -> str:
        """What the cache says to who has its password."""
        known = 'REDISCLI_AUTH="$(cat /run/secrets/valkey_password)" valkey-cli --no-auth-warning'
        asked = f"{known} {command}"
        return self.compose("exec", "-T", "valkey", "sh", "-c", asked).strip()

    def admits(self, name: str, password: str) -> bool:
        """Say whether the pooler, and the primary itself, or the cache, takes the password."""
        if name == "valkey":
            asked = f'echo "AUTH default {password}" | valkey-cli'
            return self.compose("exec", "-T", "valkey", "sh", "-c", asked).strip() == "OK"
        answers = {
            docker(
                *("compose", "exec", "-T", "--env", f"PGPASSWORD={password}", "primary"),
                *("psql", "--username", f"atlas_{name}", "--dbname=atlas", *place, "-c", "SELECT"),
                environment=self.environment,
                check=False,
            ).returncode
            == 0
            for place in (("--host=pgbouncer", "--port=6432"), ("--host=primary",))
        }
        assert len(answers) == 1, "one takes what the other does not"
        return answers.pop()

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
    following = platform.ask(
        "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
    )
    assert {"replica-1", "replica-2"} <= set(following.split())
    (pooler,) = platform.compose("ps", "--quiet", "pgbouncer").split()
    address = docker(
        *("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"), pooler
    ).stdout.strip()
    pooled = platform.ask(
        f"SELECT DISTINCT usename FROM pg_stat_activity WHERE client_addr = '{address}'"
    )
    assert "atlas_query" in pooled.split()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["ingest", "query", "reconciler", "hotcache", "valkey"])
async def test_no_repeatable_call_fails_while_a_password_is_changed(
    platform: Platform, name: str
) -> None:
    made = platform.directory / "secrets"
    former = (made / f"{name}_password").read_text()
    async with loaded(Endpoints.from_json(platform.endpoints_file().read_text())) as loads:
        await more(loads)
        await asyncio.to_thread(platform.change_password, name)
        await more(loads)
        await asyncio.to_thread(platform.log_out, name)
        await more(loads)
    password = (made / f"{name}_password").read_text()
    assert password != former
    assert platform.admits(name, password)
    assert not platform.admits(name, former)


@pytest.mark.timeout(300)
async def test_no_repeatable_call_fails_when_the_pooler_dies(platform: Platform) -> None:
    """Also after it was told to look at its users: it is started again."""
    async with loaded(Endpoints.from_json(platform.endpoints_file().read_text())) as loads:
        await more(loads)
        platform.compose("exec", "-T", "pgbouncer", "bash", "-c", "kill -TERM 1")
        await more(loads)
    (pooler,) = platform.compose("ps", "--quiet", "pgbouncer").split()
    assert int(docker("inspect", "--format", "{{.RestartCount}}", pooler).stdout) >= 1


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
