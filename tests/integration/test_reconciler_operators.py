"""Dead letters as operators see them: the real service, asked by the `atlas` command."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import psycopg
import pytest
from typer.testing import CliRunner

from atlas.reconciler.v1 import dead_letter_service_pb2 as letter_pb
from atlas.reconciler.v1 import dead_letter_service_pb2_grpc as letter_grpc
from atlas.reconciler.v1 import reconciler_service_pb2 as pb
from atlas.reconciler.v1 import reconciler_service_pb2_grpc
from atlas_client.cli.root import build
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import Patience, wait_until

from .conftest import make_two_tenants
from .test_reconciler_service import ENVIRONMENT, reason_of

PATIENCE = Patience(30.0)


class Platform:
    """A running cdc-reconciler over a primary of its own, and its operator."""

    def __init__(self, stack: Stack) -> None:
        self.target = stack.services["cdc-reconciler"].target
        self.admin = psycopg.connect(stack.database.admin_dsn, autocommit=True)
        make_two_tenants(self.admin)
        self.channel = grpc.insecure_channel(self.target)
        self.letters = letter_grpc.DeadLetterServiceStub(self.channel)
        self._reconciler = reconciler_service_pb2_grpc.ReconcilerServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()
        self.admin.close()

    def atlas(self, *arguments: str, code: int = 0) -> Any:
        """What the command prints with --json."""
        options = ["deadletters", *arguments, "--json", "--reconciler", self.target]
        result = CliRunner().invoke(build(), options)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout.splitlines()[-1])  # Behind what a retry says.

    def status(self) -> pb.GetPipelineStatusResponse:
        return self._reconciler.GetPipelineStatus(
            pb.GetPipelineStatusRequest(), timeout=10, wait_for_ready=True
        )

    def wait_for(self, count: int) -> None:
        """Until there are so many letters."""
        wait_until(lambda: self.status().dead_letters_open == count, "letters", patience=PATIENCE)


@pytest.fixture(scope="module")
def platform(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Platform]:
    servers = replace(
        server_options,
        postgres=replace(server_options.postgres, replicas=0),
        replica_dsns=(),
        valkey=False,
    )
    environment = {**ENVIRONMENT, "ATLAS_WAREHOUSE__AUDIT_INTERVAL_SECONDS": "0.2"}
    options = StackOptions(
        services=("cdc-reconciler",),
        servers=servers,
        environment={"cdc-reconciler": environment},
        heal_services=False,
    )
    stack = Stack.start(tmp_path_factory.mktemp("letters") / "state", options)
    try:
        platform = Platform(stack)
        try:
            wait_until(
                lambda: platform.status().phase == "streaming", "the stream", patience=PATIENCE
            )
            yield platform
        finally:
            platform.close()
    finally:
        stack.remove()


def test_from_the_letter_to_the_audit(platform: Platform) -> None:
    platform.admin.execute(
        "INSERT INTO entity_values_ts (tenant_id, attribute_id, entity_id, event_time, ingested_at,"
        " value_decimal) SELECT t, 7, e, now(), now() - interval '1 day', 'NaN'"
        " FROM generate_series(1, 2) AS s (t), generate_series(1, 3) AS r (e)"
    )
    platform.wait_for(6)
    acme = platform.atlas("list", "--tenant", "acme", "--class", "value")
    assert {letter["tenant"] for letter in acme} == {"acme"}
    assert len(acme) == 3
    assert acme[0]["reason"] == "value_decimal: no DECIMAL: NaN or infinite"
    assert acme[0]["raw"] == ""
    first = acme[0]["letter_id"]
    (shown,) = platform.atlas("list", str(first), "--raw")
    assert len(shown["raw"]) > 50

    tried = platform.atlas("replay", "--tenant", "globex", "--dry-run", code=1)
    assert (tried["letter_count"], tried["failed_count"]) == (3, 3)
    assert tried["failures"][0]["tenant"] == "globex"
    platform.atlas("replay", str(first), code=1)
    assert platform.atlas("list", str(first))[0]["attempts"] == 2

    discarded = platform.atlas("discard", "--tenant", "acme", "--reason", "a test device")
    assert discarded["discarded_count"] == 3
    assert platform.status().dead_letters_open == 3
    actions = platform.atlas("actions")
    assert [(action["kind"], action["done_count"]) for action in actions] == [
        ("discard", 3),
        ("replay", 0),
    ]
    assert actions[0]["reason"] == "a test device"
    assert actions[0]["request_id"]
    assert "acme" in actions[0]["filter"]

    report = platform.atlas("books")["report"]
    books = {
        each["tenant"]: (each["read_count"], each["dead_lettered_count"], each["skipped_count"])
        for each in report["books"]
        if each["table"] == "entity_values_ts" and each["tenant"]
    }
    assert books == {"acme": (3, 0, 3), "globex": (3, 3, 0)}
    assert platform.status().conserved
    platform.atlas("discard", "--tenant", "globex", "--reason", "a test device")


def test_a_held_table_is_shown_and_the_others_go_on(platform: Platform) -> None:
    platform.admin.execute(
        "ALTER TABLE tenants ALTER COLUMN display_name DROP DEFAULT,"
        " ALTER COLUMN display_name TYPE jsonb USING to_jsonb(display_name)"
    )
    platform.admin.execute("""UPDATE tenants SET display_name = '"renamed"'""")
    platform.wait_for(2)
    status = platform.status()
    (held,) = status.held_tables
    assert (held.table, held.dead_letters) == ("tenants", 2)
    assert "tenants.display_name has another type" in held.reason
    platform.admin.execute("UPDATE entities SET key = 'renamed' WHERE key = 'pump-1'")
    applied = status.applied_total + 2
    wait_until(lambda: platform.status().applied_total >= applied, "others", patience=PATIENCE)
    assert platform.status().phase == "streaming"
    platform.admin.execute(
        "ALTER TABLE tenants ALTER COLUMN display_name TYPE text USING display_name #>> '{}'"
    )
    result = platform.atlas("replay", "--table", "tenants")
    assert result["applied_count"] == 2
    assert not platform.status().held_tables
    assert platform.atlas("list") == []


@pytest.mark.parametrize(
    ("method", "request_", "reason", "field"),
    [
        ("ListDeadLetters", {"page_size": 1001}, "INVALID_FIELD", "page_size"),
        ("ListDeadLetters", {"filter": {"tenant": "nobody"}}, "TENANT_UNKNOWN", "filter.tenant"),
        ("ListDeadLetters", {"filter": {"class": 99}}, "INVALID_FIELD", "filter.class"),
        ("ListDeadLetters", {"filter": {"table": "x" * 64}}, "INVALID_FIELD", "filter.table"),
        (
            "ReplayDeadLetters",
            {"filter": {"letter_ids": list(range(1, 1002))}},
            "BATCH_TOO_LARGE",
            "filter.letter_ids",
        ),
        ("ReplayDeadLetters", {"request_id": "x" * 129}, "INVALID_FIELD", "request_id"),
        ("DiscardDeadLetters", {"filter": {"table": "x"}}, "INVALID_FIELD", "reason"),
        ("DiscardDeadLetters", {"reason": "all of them"}, "INVALID_FIELD", "filter"),
        (
            "DiscardDeadLetters",
            {"filter": {"table": "x"}, "reason": " "},
            "INVALID_FIELD",
            "reason",
        ),
        ("ListDeadLetterActions", {"page_size": -1}, "INVALID_FIELD", "page_size"),
    ],
)
def test_bad_requests_name_the_field(
    platform: Platform, method: str, request_: dict[str, Any], reason: str, field: str
) -> None:
    request = getattr(letter_pb, f"{method}Request")(**request_)
    with pytest.raises(grpc.RpcError) as refused:
        getattr(platform.letters, method)(request, timeout=10)
    assert reason_of(refused.value)[1:] == (reason, field)
