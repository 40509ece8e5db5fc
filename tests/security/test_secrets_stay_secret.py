"""What a service was given in secret is in nothing that it says of its settings."""

import json
import os
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

CANARY = "canary4711canary"
GIVEN = {
    "ATLAS_PRIMARY__DSN": f"postgresql://reader:{CANARY}@db/atlas",
    "ATLAS_REPLICAS": f'[{{"name": "a", "dsn": "postgresql://reader:{CANARY}@db/atlas"}}]',
    "ATLAS_VALKEY__URL": f"redis://:{CANARY}@cache:6379/0",
    "ATLAS_TOKEN__KEYS": f'{{"1": "{CANARY}"}}',
    "ATLAS_TOKEN__ACTIVE_KEY": "1",
}
# Each is refused, and each is where somebody may have put the secret itself.
WRONG = {
    "ATLAS_PRIMARY__PASSWORD_SOURCE": CANARY,
    "ATLAS_PRIMARY__POOL_SIZE_MAX": CANARY,
    "ATLAS_INDEXING__BUILDER__DSN": f"postgresql://indexer:{CANARY}%zz@db/atlas",
    "ATLAS_VALKEY__URL": f"http://:{CANARY}@cache",
    "ATLAS_TOKEN__KEYS": f'{{"1": "!{CANARY}"}}',
}

SERVICES = pytest.mark.parametrize(
    "service", ["atlas_ingest", "atlas_query", "atlas_hotcache", "atlas_cdc_reconciler"]
)


def right(directory: Path) -> dict[str, str]:
    """Settings that are accepted, of servers that are not there; secrets in every place for one."""
    key = "Y2FuYXJ5NDcxMWNhbmFyeQ=="
    assert b64decode(key).decode() == CANARY
    return {
        **GIVEN,
        "ATLAS_PRIMARY__DSN": f"postgresql://reader:{CANARY}@127.0.0.1:1/atlas",
        "ATLAS_DIRECT__DSN": f"postgresql://reader:{CANARY}@127.0.0.1:1/atlas",
        "ATLAS_VALKEY__URL": f"redis://:{CANARY}@127.0.0.1:1/0",
        "ATLAS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "ATLAS_KAFKA__TOPIC": "points",
        "ATLAS_KAFKA__SETTINGS": json.dumps({"sasl.password": CANARY}),
        "ATLAS_TOKEN__KEYS": json.dumps({"1": key}),
        "ATLAS_WAREHOUSE__PATH": str(directory / "warehouse.duckdb"),
        "ATLAS_IDENTITY__MODE": "insecure",
    }


def said(service: str, given: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Exit status and all that was written by a service that has been given this."""
    ended = subprocess.run(
        [sys.executable, "-m", service, *arguments],
        env={"PATH": os.defpath, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


@SERVICES
def test_help_tells_no_secret(service: str) -> None:
    status, told = said(service, GIVEN, "--help")
    assert status == 0
    assert "ATLAS_PRIMARY__PASSWORD_SOURCE" in told
    assert CANARY not in told


def test_a_refusal_of_settings_tells_no_secret() -> None:
    status, told = said("atlas_hotcache", GIVEN | WRONG)
    assert status == 2
    assert all(name in told for name in WRONG if name != "ATLAS_TOKEN__KEYS"), told
    assert "key 1 is not base64" in told
    assert CANARY not in told


@pytest.mark.parametrize(
    "dsn", [f"postgresql://admin:{CANARY}%zz@db/atlas", f"postgresql://admin:{CANARY}@db/atlas"]
)
def test_the_migration_job_refuses_without_telling(dsn: str) -> None:
    given = {"ATLAS_ADMIN_DSN": dsn, "ATLAS_ENVIRONMENT": "prod"}
    status, told = said("atlas_db", given)
    assert status == 2
    assert told.startswith("ATLAS_ADMIN_DSN: ")
    assert CANARY not in told


@SERVICES
def test_settings_that_are_checked_are_shown_without_secrets(service: str, tmp_path: Path) -> None:
    given = right(tmp_path)
    status, told = said(service, given, "--check-config")
    assert status == 0, told
    assert json.loads(told)["identity"] == {"mode": "insecure", "jwt": None, "peers": {}}
    assert not any(
        secret in told for secret in (CANARY, json.loads(given["ATLAS_TOKEN__KEYS"])["1"])
    )


def event(line: str) -> str:
    """What a log line is about; nothing where gRPC's core speaks, which does not log as we do."""
    return str(json.loads(line).get("event", "")) if line.startswith("{") else ""


def until_serving(lines: Iterable[str]) -> Iterator[str]:
    """What a process logs until it serves."""
    for line in lines:
        yield line
        if event(line) == "serving":
            return


@SERVICES
def test_a_service_logs_its_settings_and_waits_for_its_servers(
    service: str, tmp_path: Path
) -> None:
    """In any order: none of the servers is there."""
    command = [sys.executable, "-m", service]
    environment = {"PATH": os.defpath, **right(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            told = list(until_serving(process.stderr))
            process.terminate()
            told += process.stderr.readlines()
        finally:
            process.kill()
    assert process.returncode == 0, told
    (settings,) = (line for line in told if event(line) == "settings")
    assert json.loads(settings)["settings"]["identity"]["mode"] == "insecure"
    assert not any(CANARY in line for line in told)
