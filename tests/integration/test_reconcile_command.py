"""`atlas reconcile` against the service: finds, names, reports and heals; exit codes say so."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from atlas_client.cli.root import build
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions

from .conftest import make_two_tenants
from .lane_writer import LaneWriter
from .reconciler_rig import points

ACME, GLOBEX = 1, 2
Command = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def stack(tmp_path: Path, server_options: ServerOptions) -> Iterator[Stack]:
    servers = replace(
        server_options,
        postgres=replace(server_options.postgres, replicas=0),
        replica_dsns=(),
        valkey=False,
    )
    options = StackOptions(
        services=("cdc-reconciler",),
        servers=servers,
        environment={
            "cdc-reconciler": {
                "ATLAS_RECONCILE__WINDOW_SECONDS": "1",
                "ATLAS_RECONCILE__INTERVAL_SECONDS": "0",
            }
        },
    )
    stack = Stack.start(tmp_path / "state", options)
    try:
        yield stack
    finally:
        stack.remove()


@pytest.fixture
def command(stack: Stack) -> Command:
    """Runs `atlas reconcile ...`: (exit code, JSON or text of stdout, stderr)."""
    target = stack.services["cdc-reconciler"].target

    def run(*arguments: str, tenant: str = "acme") -> tuple[int, Any, str]:
        options = ["--tenant", tenant, "--reconciler", target, "--timeout", "60"]
        done = CliRunner().invoke(build(), ["reconcile", *arguments, *options])
        is_json = "--json" in arguments and done.stdout
        return done.exit_code, json.loads(done.stdout) if is_json else done.stdout, done.stderr

    return run


@pytest.fixture
def damaged(stack: Stack) -> Iterator["psycopg.Connection[Any]"]:
    """Five points of both tenants in the warehouse; a connection to damage the source by."""
    with (
        psycopg.connect(stack.database.admin_dsn, autocommit=True) as admin,
        psycopg.connect(stack.database.dsn("atlas_ingest"), autocommit=True) as ingest,
    ):
        make_two_tenants(admin)
        LaneWriter(ingest).write([*points(ACME, 5), *points(GLOBEX, 5)])
        admin.execute("SELECT beat_heart('0 seconds')")
        yield admin


def change_unseen(admin: "psycopg.Connection[Any]") -> None:
    admin.execute("ALTER PUBLICATION atlas_warehouse DROP TABLE entity_values_ts")
    admin.execute(
        "UPDATE entity_values_ts SET value_double = 99 WHERE tenant_id = 1 AND value_double = 2.5"
    )
    admin.execute("ALTER PUBLICATION atlas_warehouse ADD TABLE entity_values_ts")


def test_a_difference_is_found_named_kept_and_healed(
    command: Command, damaged: "psycopg.Connection[Any]"
) -> None:
    code, none_yet, error = command("report")
    assert (code, none_yet) == (1, "")
    assert "REPORT_UNKNOWN" in error
    code, _, error = command("repair", "--dry-run")
    assert code == 1
    assert "WINDOW_NOT_REPAIRABLE" in error
    code, equal, _ = command("--json")
    assert (code, equal["matched"], equal["differences"]) == (0, True, [])

    change_unseen(damaged)
    code, found, _ = command("--from-start", "--json")
    (window,) = found["differences"]
    (row,) = window["rows"]
    assert (code, found["matched"], window["complete"]) == (1, False, True)
    assert (row["kind"], row["entity_id"], row["attribute_id"]) == ("different", 1, 1)
    assert row["source"] == {"quality": 0, "data_type": "double", "value": "99.0"}
    assert row["warehouse"] == {"quality": 0, "data_type": "double", "value": "2.5"}
    code, text, error = command()
    assert code == 1
    assert "99.0 (double, 0)" in text
    assert "DIFFERENT" in error

    code, report, _ = command("report", str(found["summary"]["report_id"]), "--json")
    assert (code, report["rows"]) == (1, [row])
    assert command("report", str(found["summary"]["report_id"]), tenant="globex")[0] == 1

    code, planned, _ = command("repair", "--dry-run", "--json")
    assert (code, planned["summary"]["windows_repaired"]) == (1, 0)
    assert planned["windows"][0]["differences"]["rows"] == [row]
    code, repaired, _ = command("repair", "--json")
    assert code == 0
    assert [one["matched"] for one in repaired["windows"]] == [True]
    assert command("--from-start")[0] == 0
    code, other, _ = command("--from-start", "--json", tenant="globex")
    assert (code, other["summary"]["source"]["row_count"]) == (0, 5)


@pytest.mark.parametrize("words", [(), ("run",), ("report",), ("repair",)])
def test_every_command_has_help_with_examples(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(build(), ["reconcile", *words, "--help"])
    assert done.exit_code == 0
    assert "Exit codes" in done.stdout
    if words:
        assert "Example: atlas reconcile" in done.stdout
