"""docker-compose.yml and what it mounts: whole, in agreement with the rest, and without secrets."""

import importlib.util
import json
import re
import stat
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from atlas_cdc_reconciler.tables import TABLES
from atlas_db import LOGIN_ROLES
from atlas_devstack.debezium import Capture, connector_properties

from . import collector_schema

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"ingest", "hotcache", "query", "cdc-reconciler"}
SERVERS = {"primary", "replica-1", "replica-2", "pgbouncer", "valkey"}
ENDING = {"migrations", "topics", "connector"}
"""What does its work and ends."""
EACH = pytest.mark.parametrize("name", SERVICES)


def _load() -> ModuleType:
    file = ROOT / "tools" / "compose_secrets.py"
    spec = importlib.util.spec_from_file_location("compose_secrets", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compose_secrets = _load()


def _environment(name: str) -> dict[str, str | None]:
    environment: dict[str, str | None] = SERVICES[name].get("environment", {})
    return environment


def _secret_names(name: str) -> set[str]:
    """Names of the secrets in a service's container."""
    return {
        each if isinstance(each, str) else each["target"]
        for each in SERVICES[name].get("secrets", [])
    }


@EACH
def test_each_belongs_to_a_profile(name: str) -> None:
    assert SERVICES[name]["profiles"] in (["core", "full"], ["full"])
    if name in OURS | SERVERS | {"migrations", "console"}:
        assert "core" in SERVICES[name]["profiles"]


@EACH
def test_no_secret_stands_in_the_file(name: str) -> None:
    for variable, value in _environment(name).items():
        if re.search(r"PASSWORD|SECRET|TOKEN__KEYS", variable):
            assert value is not None
            assert re.fullmatch(r"(file:)?/run/secrets(/\w+)?", value), variable
        assert "password=" not in str(value)
        assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), variable
    for path in re.findall(r"/run/secrets/(\w+)", json.dumps(SERVICES[name])):
        assert path in _secret_names(name), f"{name} has no secret {path}"


def test_secrets_are_files_that_are_made(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    compose_secrets.make(directory)
    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert {Path(secret["file"]).parent.name for secret in COMPOSE["secrets"].values()} == {
        "${ATLAS_COMPOSE_SECRETS:-.compose}"
    }
    made = {path.name: path.read_text() for path in directory.iterdir()}
    assert named <= set(made)
    assert set(json.loads(made["role_passwords"])) == set(LOGIN_ROLES)
    assert len(set(made.values())) == len(made), "all differ"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    compose_secrets.make(directory)
    again = {path.name: path.read_text() for path in directory.iterdir()}
    assert again == made, "a database that was made with them keeps them"


@pytest.mark.parametrize("name", ["ingest", "valkey"])
def test_a_password_that_no_container_takes_is_not_changed(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "secrets"
    compose_secrets.make(directory)
    made = {path.name: path.read_text() for path in directory.iterdir()}

    def refuses(*arguments: str, told: str = "") -> None:
        raise subprocess.CalledProcessError(1, arguments)

    with pytest.raises(subprocess.CalledProcessError):
        compose_secrets.change(name, directory, refuses)
    assert {path.name: path.read_text() for path in directory.iterdir()} == made


@pytest.mark.parametrize("name", ["ingest", "valkey"])
def test_no_password_is_an_argument_when_it_is_changed(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "secrets"
    compose_secrets.make(directory)
    passwords = [(directory / f"{name}_password").read_text()]
    public: list[str] = []

    def listens(*arguments: str, told: str = "") -> None:
        public.extend(arguments)

    compose_secrets.change(name, directory, listens)
    passwords.append((directory / f"{name}_password").read_text())
    assert len(set(passwords)) == 2
    assert public
    assert not [each for each in public if any(password in each for password in passwords)]


@EACH
def test_ports_are_published_on_loopback_alone(name: str) -> None:
    """Callers are not verified there."""
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)


@EACH
def test_images_have_versions(name: str) -> None:
    image = SERVICES[name]["image"]
    assert "build" in SERVICES[name] or re.search(r":\S*\d", image), image
    assert not image.endswith(":latest")


def test_the_images_of_ours_know_when_they_are_ready() -> None:
    for name in OURS | {"pgbouncer", "console"}:
        build = SERVICES[name]["build"]
        file = build["dockerfile"] if isinstance(build, dict) else f"{build}/Dockerfile"
        assert "HEALTHCHECK" in (ROOT / file).read_text()


def test_what_ends_is_waited_for() -> None:
    """`up --wait` takes the end of anything that nobody waits for to its end for a failure."""
    waited = {
        dependency
        for service in SERVICES.values()
        for dependency, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    assert waited == ENDING


@EACH
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target = volume.split(":")[:2]
        if not source.startswith("./"):
            assert source in COMPOSE["volumes"]
        elif not target.endswith("dashboards"):  # Those are built.
            assert (ROOT / source).exists(), source
            assert volume.endswith(":ro")


def test_the_connector_is_the_one_that_tests_run() -> None:
    """Debezium Connect runs in no test; the same connector in Debezium's embedded engine does."""
    capture = Capture(
        dsn="host=primary port=5432 user=atlas_capture password=x dbname=atlas",
        tables=tuple(TABLES),
        bootstrap_servers="kafka:9092",
        topic=_environment("cdc-reconciler")["ATLAS_KAFKA__TOPIC"] or "",
        has_schemas=True,
    )
    connector = json.loads((ROOT / "ops/compose/debezium/connector.json").read_text())
    expected = connector_properties(capture) | {
        "database.password": "${dir:/run/secrets:capture_password}",
    }
    assert {name: connector.get(name) for name in expected} == expected
    # Of Connect alone: how events are written, by one producer that cannot overtake itself.
    ours = {name for name in connector if name not in expected}
    assert all(re.match(r"(key|value)\.converter$|topic\.|producer\.|tasks", name) for name in ours)
    assert connector["topic.creation.default.partitions"] == "1"
    assert _environment("cdc-reconciler")["ATLAS_KAFKA__DEBEZIUM_SLOT"] == connector["slot.name"]


COLLECTOR: dict[str, Any] = yaml.safe_load((ROOT / "ops/otel/collector.yaml").read_text())


def test_the_collector_is_told_what_its_components_know() -> None:
    """It runs in no test: no package has these components of it."""
    collector_schema.check(COLLECTOR)


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("processors", "batch", {"send_batch_max_size": 1}),
        ("processors", "memory_limiter", {"limit_mb": 256}),
        ("exporters", "prometheus", {"metric_expiration": 60}),
        ("exporters", "otlp/jaeger", {"endpoint": "jaeger"}),
    ],
)
def test_what_a_component_does_not_know_is_found(
    kind: str, name: str, change: dict[str, Any]
) -> None:
    changed = {**COLLECTOR[kind], name: COLLECTOR[kind][name] | change}
    with pytest.raises(ValueError, match=next(iter(change))):
        collector_schema.check({**COLLECTOR, kind: changed})


def test_the_collectors_pipelines_are_made_of_what_is_defined() -> None:
    collector = COLLECTOR
    for pipeline in collector["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(collector[kind])
        assert pipeline["processors"][0] == "memory_limiter"
    assert set(collector["service"]["extensions"]) == set(collector["extensions"])
    (_, _, port) = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")
    full = (ROOT / "ops/compose/full.env").read_text()
    assert f"ATLAS_TELEMETRY__OTLP_ENDPOINT=http://otel-collector:{port}\n" in full
    scraped = collector["exporters"]["prometheus"]["endpoint"].rpartition(":")[2]
    prometheus = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())
    targets = [job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]]
    assert [f"otel-collector:{scraped}"] in targets


def test_the_clients_endpoints_are_the_published_ports() -> None:
    endpoints = json.loads((ROOT / "ops/compose/endpoints.json").read_text())["services"]
    published = {
        name: re.sub(r"\$\{\w+:-(\d+)\}", r"\1", SERVICES[name]["ports"][0]).rpartition(":")[0]
        for name in OURS
    }
    assert endpoints == published
