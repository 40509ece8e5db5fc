"""A tenant whose names and values are unmistakable, searched for in all that is not its own."""

import asyncio
import base64
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import grpc
import psycopg
import pytest
import redis
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import policy_service_pb2 as policy_pb
from atlas.hotcache.v1 import hotcache_service_pb2 as hotcache_pb
from atlas.hotcache.v1 import projection_service_pb2 as projection_pb
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.query.v1 import query_service_pb2 as query_pb
from atlas.reconciler.v1 import dead_letter_service_pb2 as letter_pb
from atlas.reconciler.v1 import reconciler_service_pb2 as reconciler_pb
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_devstack.waiting import Patience, wait_until

from .canary import CANARY, DOORS, KEY, SONG, VALUE, Sung, sing, sing_again
from .fortress import METHODS, SERVICES, Fortress, path

pytestmark = pytest.mark.timeout(400)
PATIENCE = Patience(120)
OWN = "globex-pump"
READS = {
    method.full_name
    for _, method in METHODS
    if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
}


@pytest.fixture(scope="module")
def sung(held: Fortress) -> Sung:
    return asyncio.run(sing(held))


class Listener:
    """The other tenant: what it calls, and all that it hears."""

    def __init__(self, held: Fortress, sung: Sung) -> None:
        self.sung = sung
        self.heard: dict[str, list[str]] = {}
        self._metadata = (("authorization", f"Bearer {held.token('globex')}"),)
        self._held = held
        self._methods = {method.full_name: (name, method) for name, method in METHODS}
        self.call("atlas.catalog.v1.CatalogService.BatchUpsertAttributes", _LABEL)
        self.token = self.write(1)
        self.fresh = consistency_pb2.Consistency(at_least_as_fresh=self.token)

    def write(self, rpm: int) -> bytes:
        """Something of its own; the token."""
        points = [
            value_pb2.Point(entity_key=f"{OWN}{more}", attribute="rpm", int_value=rpm)
            for more in ("", "-2")
        ]
        points.append(value_pb2.Point(entity_key=OWN, attribute="label", text_value="own"))
        request = ingest_pb.WriteRequest(points=points)
        return bytes(self.call("atlas.ingest.v1.IngestService.Write", request)[0].token)

    def call(self, name: str, request: Message, *, answers_max: int = 1000) -> list[Any]:
        """The answers, which are to be looked through. Raises grpc.RpcError, likewise."""
        heard = self.heard.setdefault(name, [])
        answers: list[Any] = []
        try:
            for answer in self.answers(name, request):
                answers.append(answer)
                heard.append(_told(answer))
                if len(answers) == answers_max:
                    break
        except grpc.RpcError as error:
            failed: Any = error
            heard.append(f"{failed.details()} {failed.trailing_metadata()}")
            raise
        return answers

    def answers(self, name: str, request: Message) -> Iterator[Any]:
        """Those of a call, which is cancelled when no more are wanted."""
        service, method = self._methods[name]
        options: Any = {"metadata": self._metadata, "timeout": 120}
        parsed = GetMessageClass(method.output_type).FromString
        data = request.SerializeToString()
        with self._held.channel(service) as channel:
            caller: Any = channel
            if method.server_streaming:
                yield from map(parsed, caller.unary_stream(path(method))(data, **options))
            else:
                yield parsed(caller.unary_unary(path(method))(data, **options))

    def refused(self, name: str, request: Message) -> grpc.StatusCode:
        """How a call ended that has to fail."""
        with pytest.raises(grpc.RpcError) as refused:
            self.call(name, request)
        failed: Any = refused.value
        code: grpc.StatusCode = failed.code()
        return code

    def assert_heard_nothing(self) -> None:
        for name, texts in self.heard.items():
            for text in texts:
                assert SONG.search(text) is None, f"{name}: {text[:2000]}"


def _told(answer: Any) -> str:
    """All of it, and what is inside of a token to go on with."""
    token = getattr(answer, "next_page_token", "")
    inside = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)) if token else b""
    return f"{answer} {inside!r}"


_LABEL = catalog_pb.BatchUpsertAttributesRequest(
    attributes=[catalog_pb.Attribute(name="label", data_type=value_pb2.DATA_TYPE_TEXT, hot=True)]
)


@pytest.fixture(scope="module")
def listener(held: Fortress, sung: Sung) -> Listener:
    return Listener(held, sung)


def reads(listener: Listener) -> dict[str, Message]:
    """A request to each method that reads, asking for as much as it can."""
    sung, fresh = listener.sung, listener.fresh
    own = [OWN]
    copied = consistency_pb2.Consistency(
        analytics=consistency_pb2.Consistency.Analytics(token=listener.token)
    )
    letters = letter_pb.ListDeadLettersRequest(with_raw=True)
    letters.filter.tenant = "globex"
    query, hot, catalog = "atlas.query.v1.QueryService", "atlas.hotcache.v1", "atlas.catalog.v1"
    reconciler = "atlas.reconciler.v1"
    waiting = query_pb.WaitForRequest(token=listener.token, tier=consistency_pb2.SOURCE_PRIMARY)
    return {
        f"{query}.GetEntities": query_pb.GetEntitiesRequest(
            entity_keys=own, scope=query_pb.ATTRIBUTE_SCOPE_ALL, consistency=fresh
        ),
        f"{query}.FindEntities": query_pb.FindEntitiesRequest(page_size=1, consistency=fresh),
        f"{query}.GetHistory": query_pb.GetHistoryRequest(entity_key=OWN, consistency=fresh),
        f"{query}.Aggregate": query_pb.AggregateRequest(
            attributes=["rpm"],
            functions=[query_pb.AGGREGATE_FUNCTION_MAX],
            group_by_entity=True,
            consistency=copied,
        ),
        f"{query}.ListTiers": query_pb.ListTiersRequest(),
        f"{query}.WatchEntities": query_pb.WatchEntitiesRequest(entity_keys=own),
        f"{query}.WaitFor": waiting,
        f"{query}.ExplainRoute": query_pb.ExplainRouteRequest(kind=query_pb.READ_KIND_FIND),
        # By ids, which all tenants share: those of the canary, too.
        f"{hot}.HotCacheService.GetEntities": hotcache_pb.GetEntitiesRequest(
            entity_ids=sung.entity_ids
        ),
        f"{reconciler}.ReconcilerService.Aggregate": reconciler_pb.AggregateRequest(
            entity_ids=sung.entity_ids,
            attribute_ids=sung.attribute_ids,
            aggregations=[reconciler_pb.AGGREGATION_COUNT],
            token=listener.token,
        ),
        f"{hot}.HotCacheService.GetCacheStatus": hotcache_pb.GetCacheStatusRequest(),
        f"{hot}.ProjectionService.ListProjectionJobs": projection_pb.ListProjectionJobsRequest(),
        f"{hot}.ProjectionService.GetPromotionReport": projection_pb.GetPromotionReportRequest(),
        f"{hot}.ProjectionService.ListPromotionDecisions": (
            projection_pb.ListPromotionDecisionsRequest()
        ),
        f"{hot}.ProjectionService.ListAttributeIndexes": (
            projection_pb.ListAttributeIndexesRequest()
        ),
        f"{catalog}.CatalogService.ListTenants": catalog_pb.ListTenantsRequest(),
        f"{catalog}.CatalogService.ListEntities": catalog_pb.ListEntitiesRequest(),
        f"{catalog}.CatalogService.ListAttributes": catalog_pb.ListAttributesRequest(),
        f"{catalog}.CatalogService.ListAdministrativeActs": (
            catalog_pb.ListAdministrativeActsRequest(page_size=1000)
        ),
        f"{catalog}.CatalogService.ListPlatformActs": (
            catalog_pb.ListPlatformActsRequest(page_size=1000)
        ),
        "atlas.ingest.v1.IngestService.GetProducerPosition": (
            ingest_pb.GetProducerPositionRequest(producer_id="own")
        ),
        "atlas.ingest.v1.IngestService.GetStagingStatus": ingest_pb.GetStagingStatusRequest(),
        f"{reconciler}.ReconcilerService.GetVerification": reconciler_pb.GetVerificationRequest(),
        f"{reconciler}.ReconcilerService.ListVerifications": (
            reconciler_pb.ListVerificationsRequest()
        ),
        f"{catalog}.PolicyService.ListPolicies": policy_pb.ListPoliciesRequest(),
        f"{reconciler}.ReconcilerService.GetPipelineStatus": (
            reconciler_pb.GetPipelineStatusRequest()
        ),
        f"{reconciler}.DeadLetterService.ListDeadLetters": letters,
        f"{reconciler}.DeadLetterService.ListDeadLetterActions": (
            letter_pb.ListDeadLetterActionsRequest()
        ),
        f"{reconciler}.DeadLetterService.GetBooks": letter_pb.GetBooksRequest(),
    }


# What is one thing, by its number or name, is asked for below: as the canary's.
BY_NAME = {
    "atlas.hotcache.v1.ProjectionService.GetProjectionJob",
    "atlas.hotcache.v1.ProjectionService.GetAttributeIndex",
    "atlas.reconciler.v1.ReconcilerService.GetReconciliationReport",
}


def test_nothing_that_the_other_tenant_reads_is_the_canarys(listener: Listener) -> None:
    requests = reads(listener)
    assert requests.keys() | BY_NAME == READS, "a method that reads is not listened to"
    answers = {
        name: listener.call(name, request, answers_max=1) for name, request in requests.items()
    }
    hot = answers["atlas.hotcache.v1.HotCacheService.GetEntities"][0]
    assert not [value for entity in hot.entities for value in entity.values]
    (counted,) = answers["atlas.reconciler.v1.ReconcilerService.Aggregate"]
    assert not counted.rows
    (maximum,) = answers["atlas.query.v1.QueryService.Aggregate"]
    assert {row.entity_key for row in maximum.rows} == {OWN, f"{OWN}-2"}
    reconcile = "atlas.reconciler.v1.ReconcilerService.Reconcile"
    events = listener.call(reconcile, reconciler_pb.ReconcileRequest())
    assert events[-1].summary.source.row_count > 0
    listener.assert_heard_nothing()
    of_itself = [name for name, texts in listener.heard.items() if OWN in str(texts)]
    assert len(of_itself) >= 4, "it hears nothing of itself either, so that nothing is proven"


def test_names_of_the_canarys_are_names_of_nothing(listener: Listener) -> None:
    """The answers say them back as they were asked for."""
    keys, query = [f"{KEY}-{door}" for door in DOORS], "atlas.query.v1.QueryService"
    request = query_pb.GetEntitiesRequest(entity_keys=keys, consistency=listener.fresh)
    (answer,) = listener.answers(f"{query}.GetEntities", request)
    assert (list(answer.entities), list(answer.not_found_keys)) == ([], keys)
    find = query_pb.FindEntitiesRequest(consistency=listener.fresh)
    find.filter.equals.attribute = "label"
    find.filter.equals.value.text_value = VALUE
    (answer,) = listener.answers(f"{query}.FindEntities", find)
    assert not answer.entities
    producer = ingest_pb.GetProducerPositionRequest(producer_id=f"{CANARY}-producer")
    (position,) = listener.answers("atlas.ingest.v1.IngestService.GetProducerPosition", producer)
    assert position.position == 0


def test_a_watch_tells_nothing_of_what_the_canary_sings_meanwhile(
    held: Fortress, listener: Listener
) -> None:
    request = query_pb.WatchEntitiesRequest(entity_keys=[OWN])
    watch = listener.answers("atlas.query.v1.QueryService.WatchEntities", request)
    heard = [next(watch)]
    asyncio.run(sing_again(held))
    listener.write(4242)
    for message in watch:
        heard.append(message)
        if "4242" in str(message):
            break
    assert SONG.search("".join(map(_told, heard))) is None


def test_what_was_handed_to_the_canary_is_of_no_use_to_others(listener: Listener) -> None:
    query, sung = "atlas.query.v1.QueryService", listener.sung
    stolen = consistency_pb2.Consistency(at_least_as_fresh=sung.token)
    refused = [
        listener.refused(
            f"{query}.FindEntities",
            query_pb.FindEntitiesRequest(page_size=1, page_token=sung.page_token),
        ),
        listener.refused(
            f"{query}.GetEntities",
            query_pb.GetEntitiesRequest(entity_keys=[OWN], consistency=stolen),
        ),
        listener.refused(
            f"{query}.WatchEntities",
            query_pb.WatchEntitiesRequest(entity_keys=[OWN], resume_token=sung.token),
        ),
        listener.refused(
            f"{query}.WaitFor",
            query_pb.WaitForRequest(token=sung.token, tier=consistency_pb2.SOURCE_PRIMARY),
        ),
        listener.refused(
            "atlas.hotcache.v1.ProjectionService.GetProjectionJob",
            projection_pb.GetProjectionJobRequest(job_id=sung.job_id),
        ),
    ]
    assert refused == [grpc.StatusCode.INVALID_ARGUMENT] * 4 + [grpc.StatusCode.NOT_FOUND]
    if sung.report_id:
        listener.refused(
            "atlas.reconciler.v1.ReconcilerService.GetReconciliationReport",
            reconciler_pb.GetReconciliationReportRequest(report_id=sung.report_id),
        )
    listener.assert_heard_nothing()


def test_neither_logs_nor_spans_nor_metrics_have_any_of_it(
    held: Fortress, listener: Listener
) -> None:
    """Of no service, about whomever."""
    collector, since = held.collector, len(held.collector.spans)
    for name in ("query.v1.QueryService.GetEntities", "hotcache.v1.HotCacheService.GetEntities"):
        listener.call(f"atlas.{name}", reads(listener)[f"atlas.{name}"])
    listener.write(5)
    verification = reconciler_pb.GetVerificationRequest()
    listener.call("atlas.reconciler.v1.ReconcilerService.GetVerification", verification)

    def told() -> bool:
        """Of later calls: so all of those before."""
        spans = {resource["service.name"] for resource, _ in collector.spans[since:]}
        metrics = {resource["service.name"] for resource, _ in collector.metrics}
        return spans == metrics == SERVICES.keys()

    wait_until(told, "all services tell of later calls", patience=PATIENCE)
    for service, text in collector.exports:
        found = SONG.search(text)
        assert found is None, f"{service}: {text[max(0, found.start() - 500) : found.end() + 100]}"
    files = [file for file in held.stack.state.logs.iterdir() if file.is_file()]
    assert {f"{name}.log" for name in SERVICES} <= {file.name for file in files}
    assert {f"{name}.spans.jsonl" for name in SERVICES} <= {file.name for file in files}
    for file in files:
        lines = file.read_text(errors="replace").splitlines()
        found_in = [line for line in lines if SONG.search(line)]
        assert not found_in, f"{file.name}: {found_in[0][:2000]}"


def test_in_the_cache_it_is_under_its_tenants_keys_alone(held: Fortress, sung: Sung) -> None:
    assert sung
    url = held.stack.endpoints.valkey
    assert url is not None
    prefix = f"entity:{tenant_ids(held)['acme']}:"
    found = set()
    with redis.Redis.from_url(url, decode_responses=False) as client:
        for key in client.scan_iter(count=1000):
            kind = client.type(key)
            value = client.get(key) if kind == b"string" else client.hgetall(key)
            if SONG.search(f"{key!r} {value!r}"):
                found.add(key.decode())
    assert found, "it is not in the cache, so that nothing is proven"
    assert not {key for key in found if not key.startswith(prefix)}


def tenant_ids(held: Fortress) -> dict[str, int]:
    with psycopg.connect(held.stack.database.admin_dsn) as admin:
        return dict(admin.execute("SELECT key, tenant_id FROM atlas.tenants").fetchall())


TABLES = """
SELECT c.oid::regclass::text, EXISTS (
    SELECT FROM pg_attribute
    WHERE attrelid = c.oid AND attname = 'tenant_id' AND NOT attisdropped
)
FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text IN ('atlas', 'staging', 'retired')
"""


def test_in_the_database_it_is_in_its_tenants_rows_alone(held: Fortress, sung: Sung) -> None:
    """Of every table, staging and partitions included; of those of the platform in none."""
    assert sung
    found: dict[str, set[int | None]] = {}
    with psycopg.connect(held.stack.database.admin_dsn) as admin:
        for table, has_tenant in admin.execute(TABLES).fetchall():
            tenant = "tenant_id" if has_tenant else "NULL::int"
            query = f"SELECT DISTINCT {tenant} FROM {table} AS t WHERE t::text ~* %s"
            tenants = {row[0] for row in admin.execute(query, [SONG.pattern])}
            if tenants:
                found[table] = tenants
    own = {tenant_ids(held)["acme"]}
    assert {table: tenants for table, tenants in found.items() if tenants != own} == {}
    assert {"attributes", "entities", "entity_jsonb", "ingest_dead_letters"} <= {
        table.removeprefix("atlas.") for table in found
    }


def test_in_the_warehouse_it_is_in_its_tenants_rows_alone(
    held: Fortress, sung: Sung, tmp_path: Path
) -> None:
    assert sung
    own, copy = tenant_ids(held)["acme"], tmp_path / "copy.duckdb"

    def opened() -> duckdb.DuckDBPyConnection | None:
        """The service has the file: a copy that was made while it wrote may be none."""
        for suffix in ("", ".wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{held.stack.endpoints.warehouse}{suffix}", f"{copy}{suffix}")
        with suppress(duckdb.Error):
            return duckdb.connect(str(copy))
        return None

    found: dict[str, set[int | None]] = {}
    connection = None
    while connection is None:
        connection = opened()
    with connection as warehouse:
        columns = warehouse.execute(
            "SELECT table_name, list(column_name) FROM information_schema.columns"
            " WHERE table_schema = 'main' GROUP BY table_name"
        ).fetchall()
        for table, names in columns:
            tenant = "tenant_id" if "tenant_id" in names else "NULL"
            rows = warehouse.execute(
                f"SELECT DISTINCT {tenant} FROM {table} AS t"
                " WHERE regexp_matches(t::VARCHAR, $song, 'i')",
                {"song": SONG.pattern},
            ).fetchall()
            if rows:
                found[table] = {row[0] for row in rows}
    assert {table: tenants for table, tenants in found.items() if tenants != {own}} == {}
    assert {"attributes", "entities", "entity_values_ts"} <= found.keys()
