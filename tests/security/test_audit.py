"""Every administrative act leaves its line: who, in which tenant, by which request; for good."""

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from psycopg import errors

import atlas_db
from atlas.catalog.v1 import catalog_service_pb2 as catalog
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.reconciler.v1 import pipeline_service_pb2 as pipeline
from atlas.reconciler.v1 import pipeline_service_pb2_grpc
from atlas_common.rpc import declared_access
from atlas_devstack.database import Database

from .fortress import ALL_SCOPES, METHODS, SERVICES, Fortress, access, path

AUDITED = {
    name
    for name, declared in declared_access(
        [service for services in SERVICES.values() for service in services]
    ).items()
    if declared.audited
}
ACTS = [(service, method) for service, method in METHODS if path(method) in AUDITED]
WHO = "ann@atlas.test"


class Administrator:
    """Makes calls with a request id of each one's own, and reads the audit log."""

    def __init__(self, held: Fortress, tenant: str | None, subject: str = WHO) -> None:
        self._held = held
        self._token = held.verified.issuer.token(subject=subject, tenant=tenant, scopes=ALL_SCOPES)

    def metadata(self, request_id: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token}"), ("x-request-id", request_id))

    def attempt(self, service: str, method: MethodDescriptor) -> tuple[str, str, Any]:
        """The call with an empty message: its request id, its code, its trailers."""
        request_id = uuid.uuid4().hex
        assert not method.client_streaming
        empty = GetMessageClass(method.input_type)().SerializeToString()
        channel: Any
        with self._held.channel(service) as channel:
            options: Any = {"metadata": self.metadata(request_id), "timeout": 60}
            if method.server_streaming:
                call = channel.unary_stream(path(method))(empty, **options)
                with suppress(grpc.RpcError):
                    list(call)
            else:
                _, call = _with_call(channel.unary_unary(path(method)), empty, options)
            return request_id, call.code().name, dict(call.trailing_metadata())

    def acts(self, *, platform: bool = False, page_size: int = 1000) -> list[Any]:
        """All of them, page by page, the newest first."""
        found: list[Any] = []
        with self._held.channel("ingest") as channel:
            stub: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)
            call = stub.ListPlatformActs if platform else stub.ListAdministrativeActs
            kind: Any = (
                catalog.ListPlatformActsRequest
                if platform
                else catalog.ListAdministrativeActsRequest
            )
            token = ""
            while True:
                request = kind(page_size=page_size, page_token=token)
                page = call(request, metadata=self.metadata("reading"), timeout=60)
                assert len(page.acts) <= page_size
                found += page.acts
                token = page.next_page_token
                if not token:
                    return found


def _with_call(method: Any, data: bytes, options: Any) -> tuple[Any, Any]:
    try:
        return method.with_call(data, **options)  # type: ignore[no-any-return]
    except grpc.RpcError as error:
        return None, error


@pytest.fixture(scope="module")
def connections(held: Fortress) -> Iterator[Any]:
    """Connections to the platform's database by role."""
    with ExitStack() as cleanup:
        made: dict[str, psycopg.Connection[Any]] = {}

        def connect(role: str) -> "psycopg.Connection[Any]":
            database: Database = held.stack.database
            if role not in made:
                dsn = database.admin_dsn if role == "admin" else database.dsn(role)
                made[role] = cleanup.enter_context(psycopg.connect(dsn, autocommit=True))
            return made[role]

        yield connect


def test_what_is_administrative_the_contract_says() -> None:
    """So a new method is audited without anybody thinking of it."""
    names = {method.name for _, method in ACTS}
    assert {
        "CreateTenant", "UpdateTenant", "BatchUpsertAttributes", "BatchCreateEntities",
        "PromoteAttribute", "DemoteAttribute", "PinAttribute", "RebuildProjection",
        "CancelProjectionJob", "IndexAttribute", "DropAttributeIndex",
        "RepairRange", "ReplayDeadLetters", "DiscardDeadLetters",
        "AddPolicy", "AlterPolicy", "RemovePolicy", "RunPolicy",
        "PausePipeline", "ResumePipeline", "RecoverPipeline", "BackfillPipeline",
    } <= names  # fmt: skip
    assert not [name for name in names if name.startswith(("List", "Get"))]
    assert {access(method).scope for _, method in METHODS if path(method) not in AUDITED} >= {
        "telemetry.read",
        "telemetry.write",
    }


def test_each_administrative_call_leaves_its_line(held: Fortress) -> None:
    """With an empty message: most are refused, which is told likewise."""
    expected: dict[bool, dict[str, tuple[str, str]]] = {False: {}, True: {}}
    acme, globex = Administrator(held, "acme"), Administrator(held, "globex", "gus@globex.test")
    for service, method in ACTS:
        platform = access(method).tenantless
        request_id, code, trailers = acme.attempt(service, method)
        expected[platform][request_id] = (path(method), code)
        assert trailers["x-request-id"] == request_id, method.full_name
    told: dict[bool, list[Any]] = {
        False: acme.acts(page_size=5),
        True: acme.acts(platform=True, page_size=5),
    }
    for platform, lines in expected.items():
        found = {act.request_id: act for act in told[platform] if act.actor == WHO}
        assert {id_: (act.method, act.outcome) for id_, act in found.items() if id_ in lines} == (
            lines
        )
        assert {act.actor_tenant for id_, act in found.items() if id_ in lines} == {"acme"}
        ids = [act.act_id for act in told[platform]]
        assert ids == sorted(ids, reverse=True)
    seen = {act.request_id for act in globex.acts()}
    assert not seen & {id_ for lines in expected.values() for id_ in lines}


def test_what_was_done_is_told_to_its_tenant_alone(held: Fortress) -> None:
    """By an operator from elsewhere, too: acme sees who was at its catalog."""
    canary = f"canary-{uuid.uuid4().hex}"
    token = held.verified.issuer.token(
        subject="olga@atlas.test", scopes=[*ALL_SCOPES, "tenant.any"]
    )
    with held.channel("ingest") as channel:
        stub: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        request = catalog.BatchCreateEntitiesRequest(keys=[f"{canary}-{n}" for n in range(1000)])
        _, call = stub.BatchCreateEntities.with_call(
            request,
            metadata=(("authorization", f"Bearer {token}"), ("x-atlas-tenant", "acme")),
            timeout=60,
        )
    made_id = dict(call.trailing_metadata())["x-request-id"]
    assert len(made_id) == 32, "none was given: one was made, and answered"
    acts = {act.request_id: act for act in Administrator(held, "acme").acts()}
    act = acts[made_id]
    assert (act.actor, act.actor_tenant, act.outcome) == ("olga@atlas.test", "", "OK")
    assert act.begin_time.ToMicroseconds() <= act.end_time.ToMicroseconds()
    assert json.loads(act.request)["keys"][-1] == "... and 990 more"
    others = Administrator(held, "globex")
    for read in (others.acts(), others.acts(platform=True)):
        assert not [act for act in read if canary in act.request or act.request_id == made_id]


def test_acts_outside_of_the_database_are_entered_before_them(held: Fortress) -> None:
    admin = Administrator(held, None, "pat@atlas.test")
    with held.channel("cdc-reconciler") as channel:
        stub: Any = pipeline_service_pb2_grpc.PipelineServiceStub(channel)
        order = pipeline.Order(operator="Pat", reason="a test")
        for call, kind in (
            (stub.PausePipeline, pipeline.PausePipelineRequest),
            (stub.ResumePipeline, pipeline.ResumePipelineRequest),
        ):
            call(kind(order=order), metadata=admin.metadata(kind.__name__), timeout=60)
    acts = [act for act in admin.acts(platform=True) if act.actor == "pat@atlas.test"]
    assert [(act.request_id, act.outcome) for act in acts] == [
        ("ResumePipelineRequest", "OK"),
        ("PausePipelineRequest", "OK"),
    ]
    assert json.loads(acts[0].request) == {"order": {"operator": "Pat", "reason": "a test"}}


@pytest.mark.parametrize("role", atlas_db.LOGIN_ROLES)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE atlas.audit_log SET actor = 'somebody else'",
        "DELETE FROM atlas.audit_log",
        "TRUNCATE atlas.audit_log",
        "DROP TABLE atlas.audit_log",
        "ALTER TABLE atlas.audit_log DISABLE ROW LEVEL SECURITY",
        # Nor is a line entered as of another time, or as another's.
        "INSERT INTO atlas.audit_log (tenant_id, act, event, actor, actor_kind, actor_tenant,"
        " method, request_id, recorded_at) VALUES (1, gen_random_uuid(), 'begun', 'x', 'user', '',"
        " '/m', 'r', '2020-01-01')",
        "INSERT INTO atlas.audit_log (tenant_id, act, event, actor, actor_kind, actor_tenant,"
        " method, request_id) VALUES (2, gen_random_uuid(), 'begun', 'x', 'user', '', '/m', 'r')",
    ],
)
def test_nobody_changes_what_was_entered(connections: Any, role: str, statement: str) -> None:
    connection = connections(role)
    connection.execute("BEGIN; SET LOCAL atlas.tenant_id = 1")
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement)
    connection.execute("ROLLBACK")


def test_not_even_the_owner_finds_a_line_to_change(held: Fortress, connections: Any) -> None:
    Administrator(held, "acme").attempt(*ACTS[0])
    admin = connections("admin")
    count = "SELECT count(*) FROM atlas.audit_log"
    before = admin.execute(count).fetchone()
    assert before[0] > 0
    admin.execute("SET ROLE atlas_owner")
    for statement in ("UPDATE atlas.audit_log SET actor = 'x'", "DELETE FROM atlas.audit_log"):
        assert admin.execute(statement).rowcount == 0
    admin.execute("RESET ROLE")
    assert admin.execute(count).fetchone() == before
