"""The scripts that Terraform's tasks run, run against a database as they will be there."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from atlas_devstack.database import Database

from .conftest import Connect
from .lane_writer import LaneWriter, RawPoint

SCRIPTS = Path(__file__).parents[2] / "terraform" / "scripts"
TASK = SCRIPTS.parent / "modules" / "task"
METRICS = {
    "staging_points",
    "staging_age",
    "default_rows",
    "ingest_dead_letters",
    "slot_retained_bytes",
    "slots_lost",
}


def run(script: str, dsn: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run as a task runs it: the text after -c, the password apart from the DSN."""
    parts = plain(dsn)
    password = parts.pop("password")
    variable = "PROBE_DSN" if script == "probe.py" else "ATLAS_ADMIN_DSN"
    return subprocess.run(
        [sys.executable, "-c", (SCRIPTS / script).read_text()],
        env={
            "PATH": os.environ["PATH"],
            "PGPASSWORD": password,
            variable: make_conninfo(**parts),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def plain(dsn: str) -> dict[str, str]:
    """What a DSN says, word by word."""
    return {word: str(value) for word, value in conninfo_to_dict(dsn).items()}


def probe(dsn: str) -> subprocess.CompletedProcess[str]:
    return run("probe.py", dsn, {"PROBE_NAMESPACE": "Atlas/test", "PROBE_SECONDS": "0"})


@pytest.mark.usefixtures("two_tenants")
def test_the_probe_sees_what_waits_and_no_tenants_value(
    connect: Connect, fresh_database: Database
) -> None:
    quiet = json.loads(probe(fresh_database.dsn("atlas_monitor")).stdout)
    assert {name for name in quiet if name != "_aws"} == METRICS
    assert quiet["staging_points"] == quiet["ingest_dead_letters"] == 0

    stage(LaneWriter(connect("atlas_ingest"), 3))
    connect("admin").execute(
        "INSERT INTO ingest_dead_letters (tenant_id, source, topic, reason, message, raw,"
        " stored_at) SELECT tenant_id, 'kafka', 'points', 'NOT_UTF8', 'secret', 'secret', now()"
        " FROM tenants"
    )
    done = probe(fresh_database.dsn("atlas_monitor"))
    busy = json.loads(done.stdout)
    assert busy["staging_points"] == 2
    assert busy["ingest_dead_letters"] == 2
    assert "secret" not in done.stdout + done.stderr
    (directive,) = busy["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Atlas/test"
    assert {metric["Name"] for metric in directive["Metrics"]} == METRICS


def stage(writer: LaneWriter) -> None:
    """A point of each tenant, staged and not flushed."""
    when = datetime(2026, 3, 1, tzinfo=UTC)
    writer.stage([RawPoint(tenant, 1, 1, when, 1.0) for tenant in (1, 2)])


def test_a_probe_without_a_database_says_so() -> None:
    done = probe("host=127.0.0.1 port=1 user=atlas_monitor password=x dbname=atlas")
    assert done.returncode == 1
    assert done.stderr.startswith("not measured: ")


def test_the_job_of_migrations_sets_passwords_and_may_run_again(fresh_database: Database) -> None:
    own = f"atlas_monitor_of_{conninfo_to_dict(fresh_database.admin_dsn)['dbname']}"
    with psycopg.connect(fresh_database.admin_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {own} LOGIN")  # Roles are the whole server's: one of our own.
    try:
        for password in ("first", "second"):
            done = run("migrate.py", fresh_database.admin_dsn, {f"ROLE_PASSWORD_{own}": password})
            assert done.returncode == 0, done.stderr
            assert password not in done.stdout + done.stderr
            login = {**plain(fresh_database.admin_dsn), "user": own, "password": password}
            with psycopg.connect(make_conninfo(**login)) as connection:
                assert connection.execute("SELECT current_user").fetchone() == (own,)
    finally:
        with psycopg.connect(fresh_database.admin_dsn, autocommit=True) as admin:
            admin.execute(f"DROP ROLE {own}")


def test_every_metric_of_the_probe_has_an_alarm_or_a_dashboard() -> None:
    alarms = (SCRIPTS.parent / "alarms.tf").read_text()
    assert set(runpy.run_path(str(SCRIPTS / "probe.py"))["_QUERIES"]) == METRICS
    assert {name for name in METRICS if f'local.own["{name}"]' in alarms} == METRICS


@pytest.mark.skipif(os.geteuid() != 0, reason="the container that writes files runs as root")
def test_a_task_finds_its_certificate_where_its_settings_say(tmp_path: Path) -> None:
    pki = {"certificate": "its certificate", "key": "its key", "authority": "its authority"}
    subprocess.run(
        [sys.executable, "-c", (TASK / "files.py").read_text()],
        env={
            "TRUST_PATH": str(tmp_path / "trust.pem"),
            "TRUST_PEM": "authorities",
            "PKI": json.dumps(pki),
        },
        check=True,
        timeout=60,
    )
    paths = re.search(r"pki_paths += (\{.*\})", (SCRIPTS.parent / "locals.tf").read_text())
    assert paths is not None
    for field, name in re.findall(r'(\w+) = "/run/atlas/([^"]+)"', paths[1]):
        file = tmp_path / name
        assert file.read_text() == pki.pop(field)
        assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o400, 10001)
    assert not pki
    assert (tmp_path / "trust.pem").read_text() == "authorities"


def test_a_task_is_healthy_when_its_service_is_ready() -> None:
    health = HealthServicer()
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            for status, code in (("NOT_SERVING", 1), ("SERVING", 0)):
                health.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
                command = [sys.executable, "-c", (TASK / "health.py").read_text()]
                environment = {"ATLAS_RPC__HEALTH_PORT": str(port)}
                done = subprocess.run(command, env=environment, check=False, timeout=60)
                assert done.returncode == code
        finally:
            server.stop(None).wait()
