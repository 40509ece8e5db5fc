"""The whole read side over real writes: the cache in front, the warehouse behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.catalog.v1 import catalog_service_pb2_grpc
from atlas.hotcache.v1 import projection_service_pb2 as projection_pb
from atlas.hotcache.v1 import projection_service_pb2_grpc
from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas.query.v1 import query_service_pb2 as pb
from atlas.query.v1 import query_service_pb2_grpc
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.waiting import wait_until

from .access_counts import COUNTING, DECIDING, WHATEVER_IS_HOT, AccessCounts
from .query_reading import PATIENCE, STRONG, T0, as_tenant, at_least, eventual, refusal, trailers

KEYS = {"acme": 1.0, "globex": 100.0}
"""Each tenant's pumps have the same keys; the values tell them apart."""


@dataclass
class Platform:
    """All services, and what was written: the last token of each tenant."""

    stack: Stack
    query: query_service_pb2_grpc.QueryServiceStub
    ingest: ingest_service_pb2_grpc.IngestServiceStub
    tokens: dict[str, bytes]

    def write(self, tenant: str, points: list[value_pb2.Point]) -> bytes:
        request = ingest_pb.WriteRequest(points=points)
        answer = self.ingest.Write(request, metadata=as_tenant(tenant), timeout=20)
        return answer.token

    def get(
        self, tenant: str, consistency: consistency_pb2.Consistency, **fields: Any
    ) -> pb.GetEntitiesResponse:
        request = pb.GetEntitiesRequest(
            entity_keys=["pump-1", "pump-2"], consistency=consistency, **fields
        )
        return self.query.GetEntities(request, metadata=as_tenant(tenant), timeout=20)

    def aggregate(
        self, tenant: str, **fields: Any
    ) -> tuple[list[pb.AggregateRow], consistency_pb2.ReadMetadata, dict[str, Any]]:
        request = pb.AggregateRequest(**fields)
        call = self.query.Aggregate(request, metadata=as_tenant(tenant), timeout=30)
        messages = list(call)
        return [row for m in messages for row in m.rows], messages[0].metadata, trailers(call)


def point(key: str, attribute: str, at: datetime, **value: Any) -> value_pb2.Point:
    event_time_us = round(at.timestamp() * 1e6)
    return value_pb2.Point(
        entity_key=key, attribute=attribute, event_time_us=event_time_us, **value
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Platform]:
    options = StackOptions(
        servers=server_options,
        tenants=tuple(KEYS),
        environment={"query": COUNTING, "hotcache": DECIDING},
    )
    stack = Stack.start(tmp_path_factory.mktemp("tiers") / "state", options)
    try:
        with (
            grpc.insecure_channel(stack.services["query"].target) as query,
            grpc.insecure_channel(stack.services["ingest"].target) as ingest,
        ):
            platform = Platform(
                stack,
                query_service_pb2_grpc.QueryServiceStub(query),
                ingest_service_pb2_grpc.IngestServiceStub(ingest),
                {},
            )
            catalog = catalog_service_pb2_grpc.CatalogServiceStub(ingest)
            for tenant in KEYS:
                arrange(platform, catalog, tenant)
            yield platform
    finally:
        stack.remove()


def arrange(
    platform: Platform, catalog: catalog_service_pb2_grpc.CatalogServiceStub, tenant: str
) -> None:
    """Ten points for each of two pumps, and two attributes: hot pressure, cold serial."""
    attributes = [
        catalog_pb.Attribute(name="pressure", data_type=value_pb2.DATA_TYPE_DOUBLE, hot=True),
        catalog_pb.Attribute(name="serial", data_type=value_pb2.DATA_TYPE_TEXT),
    ]
    catalog.BatchUpsertAttributes(
        catalog_pb.BatchUpsertAttributesRequest(attributes=attributes),
        metadata=as_tenant(tenant),
        timeout=20,
    )
    catalog.BatchCreateEntities(
        catalog_pb.BatchCreateEntitiesRequest(keys=["pump-1", "pump-2"]),
        metadata=as_tenant(tenant),
        timeout=20,
    )
    start = datetime.now(UTC) - timedelta(hours=1)
    platform.tokens[tenant] = platform.write(
        tenant,
        [
            point(key, "pressure", start + n * timedelta(minutes=1), double_value=KEYS[tenant] * n)
            for key in ("pump-1", "pump-2")
            for n in range(10)
        ]
        + [point("pump-1", "serial", start, text_value=f"{tenant}-1")],
    )


def pressures(answer: pb.GetEntitiesResponse) -> list[float]:
    return [state.readings[0].value.double_value for state in answer.entities]


def test_hot_reads_come_from_the_cache_and_say_so(platform: Platform) -> None:
    for tenant, unit in KEYS.items():

        def is_cached(tenant: str = tenant) -> bool:
            answer = platform.get(tenant, eventual())
            return answer.metadata.source == consistency_pb2.SOURCE_CACHE

        wait_until(is_cached, "the cache serves", patience=PATIENCE)
        answer = platform.get(tenant, eventual())
        assert pressures(answer) == [9 * unit, 9 * unit]
        assert answer.metadata.endpoint in {"hotcache", "near cache"}
        assert answer.metadata.lag.ToTimedelta() <= timedelta(seconds=3)


def test_what_hotcache_answered_is_given_again_with_its_age_until_a_token_asks_for_more(
    platform: Platform,
) -> None:
    kept: list[pb.GetEntitiesResponse] = []

    def is_given_again() -> bool:
        answer = platform.get("acme", eventual())
        if answer.metadata.endpoint == "near cache":
            kept.append(answer)
        return bool(kept)

    wait_until(is_given_again, "an answer is given again", patience=PATIENCE)
    metadata = kept[0].metadata
    assert metadata.source == consistency_pb2.SOURCE_CACHE
    assert timedelta(0) < metadata.lag.ToTimedelta() <= timedelta(seconds=3)
    assert metadata.HasField("as_of")
    assert kept[0].entities == platform.get("acme", STRONG).entities
    # Another tenant's entity of the same key is another entity.
    assert pressures(platform.get("globex", eventual())) == [900.0, 900.0]
    now = datetime.now(UTC)
    token = platform.write("acme", [point("pump-1", "pressure", now, double_value=77.0)])
    for _ in range(3):  # What is kept by now was read with this token.
        assert pressures(platform.get("acme", at_least(token)))[0] == 77.0


def test_a_read_with_the_token_of_a_write_shows_it_wherever_it_is_served(
    platform: Platform,
) -> None:
    for number in range(20):
        value = 1000.0 + number
        now = datetime.now(UTC)
        token = platform.write("acme", [point("pump-1", "pressure", now, double_value=value)])
        assert pressures(platform.get("acme", at_least(token)))[0] == value
    history = pb.GetHistoryRequest(
        entity_key="pump-1", consistency=at_least(token), attributes=["pressure"]
    )
    messages = platform.query.GetHistory(history, metadata=as_tenant("acme"), timeout=20)
    readings = [reading for message in messages for reading in message.readings]
    assert readings[-1].value.double_value == value


def test_masks_with_cold_attributes_and_strong_reads_pass_the_cache_by(platform: Platform) -> None:
    cold = platform.get("globex", eventual(), attributes=["serial", "pressure"])
    assert cold.metadata.source in {
        consistency_pb2.SOURCE_REPLICA,
        consistency_pb2.SOURCE_PRIMARY,
    }
    strong = platform.get("globex", STRONG)
    assert strong.metadata.source == consistency_pb2.SOURCE_PRIMARY
    assert pressures(strong) == [900.0, 900.0]


@pytest.fixture
def counts(platform: Platform) -> Iterator[AccessCounts]:
    with psycopg.connect(platform.stack.database.admin_dsn, autocommit=True) as admin:
        counts = AccessCounts(admin)
        counts.forget()
        yield counts


def test_reads_count_by_entity_and_attribute_hot_or_cold(
    platform: Platform, counts: AccessCounts
) -> None:
    platform.get("acme", STRONG, attributes=["serial", "pressure"])
    platform.get("acme", eventual(30), attributes=["serial"])
    platform.get("acme", STRONG)
    platform.get("globex", STRONG, attributes=["pressure"])
    # What no promotion would make faster.
    platform.get("acme", STRONG, scope=pb.ATTRIBUTE_SCOPE_ALL)
    history = pb.GetHistoryRequest(entity_key="pump-1", attributes=["serial"], consistency=STRONG)
    assert list(platform.query.GetHistory(history, metadata=as_tenant("acme"), timeout=20))
    assert counts.all() == {
        ("acme", "serial"): (4, 0, 0, 0),
        ("acme", "pressure"): (2, 2, 0, 0),
        ("acme", WHATEVER_IS_HOT): (2, 2, 0, 0),
        ("globex", "pressure"): (2, 2, 0, 0),
    }


def test_what_the_near_cache_answers_counts_too(platform: Platform, counts: AccessCounts) -> None:
    calls, near = 0, 0
    while near < 3:
        answer = platform.get("acme", eventual(30), attributes=["pressure"])
        calls += 1
        near += answer.metadata.endpoint == "near cache"
        assert calls < 500, "the near cache answers"
    assert counts.all() == {("acme", "pressure"): (2 * calls, 2 * calls, 0, 0)}


def find(platform: Platform, tenant: str, attribute: str, **value: Any) -> pb.FindEntitiesResponse:
    equals = pb.Equals(attribute=attribute, value=value_pb2.Value(**value))
    request = pb.FindEntitiesRequest(
        filter=pb.Filter(equals=equals), consistency=STRONG, attributes=["pressure"]
    )
    return platform.query.FindEntities(request, metadata=as_tenant(tenant), timeout=20)


def test_filters_count_also_those_that_are_refused_for_a_cold_attribute(
    platform: Platform, counts: AccessCounts
) -> None:
    assert len(find(platform, "globex", "pressure", double_value=900.0).entities) == 2
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as caught:
            find(platform, "acme", "serial", text_value="acme-1")
        assert refusal(caught.value)[1] == "ATTRIBUTE_NOT_HOT"
    with pytest.raises(grpc.RpcError):
        find(platform, "globex", "no such", text_value="x")
    assert counts.all() == {
        ("globex", "pressure"): (2, 2, 1, 0),
        ("acme", "serial"): (0, 0, 2, 2),
    }


def test_what_was_read_is_what_the_policy_decides_on(
    platform: Platform, counts: AccessCounts
) -> None:
    """From calls of query to the audit log, by the processes themselves; in a dry run."""
    for _ in range(5):
        platform.get("acme", STRONG, attributes=["serial"])
        for tenant in KEYS:
            platform.get(tenant, STRONG, attributes=["pressure"])
    counts.let_an_hour_pass()
    with grpc.insecure_channel(platform.stack.services["hotcache"].target) as channel:
        projection = projection_service_pb2_grpc.ProjectionServiceStub(channel)

        def decided(tenant: str) -> set[tuple[str, int, bool]]:
            request = projection_pb.ListPromotionDecisionsRequest()
            metadata = as_tenant(tenant)
            answer = projection.ListPromotionDecisions(request, metadata=metadata, timeout=20)
            return {(one.attribute, one.action, one.dry_run) for one in answer.decisions}

        promotion = ("serial", projection_pb.PROMOTION_ACTION_PROMOTE, True)
        counts.wait(lambda: promotion in decided("acme"), "serial would be promoted")
        assert promotion not in decided("globex")
        told = projection.GetPromotionReport(
            projection_pb.GetPromotionReportRequest(), metadata=as_tenant("acme"), timeout=20
        )
    standing = {one.attribute: one for one in told.attributes}["serial"]
    assert (standing.read_count, standing.hot) == (10, False)
    assert standing.figures.points_per_hour > 0


def test_reads_go_on_while_nobody_can_count_them_and_are_counted_again_later(
    platform: Platform, counts: AccessCounts
) -> None:
    right = "FUNCTION atlas.record_attribute_access(integer[], text[], bigint[], bigint[])"
    with psycopg.connect(platform.stack.database.admin_dsn, autocommit=True) as admin:
        admin.execute(f"REVOKE EXECUTE ON {right} FROM atlas_query")
        try:
            seen = counts.flushes()
            for _ in range(5):
                assert len(platform.get("acme", STRONG, attributes=["serial"]).entities) == 2
            process = platform.stack.services["query"]._process
            assert process is not None
            log = process.log_path
            counts.wait(lambda: "reads are not counted" in log.read_text(), "a flush fails")
            assert counts.flushes() - seen <= 1, "the one that was under way"
        finally:
            admin.execute(f"GRANT EXECUTE ON {right} TO atlas_query")
    counts.after_a_flush()
    platform.get("acme", STRONG, attributes=["serial"])
    assert ("acme", "serial") in counts.all()


def test_without_the_cache_reads_go_on(platform: Platform) -> None:
    platform.stack.services["hotcache"].stop()
    try:
        answer = platform.get("globex", eventual())
        if answer.metadata.endpoint == "near cache":  # Which forgets it within half a second.
            wait_until(
                lambda: platform.get("globex", eventual()).metadata.endpoint != "near cache",
                "the near cache forgets",
                patience=PATIENCE,
            )
            answer = platform.get("globex", eventual())
        assert pressures(answer) == [900.0, 900.0]
        assert answer.metadata.source == consistency_pb2.SOURCE_REPLICA
        assert answer.metadata.route_reason.startswith("hotcache ")
    finally:
        platform.stack.services["hotcache"].start()


def test_aggregates_come_from_the_warehouse_with_its_proof(platform: Platform) -> None:
    for tenant, unit in KEYS.items():
        consistency = consistency_pb2.Consistency(
            analytics=consistency_pb2.Consistency.Analytics(token=platform.tokens[tenant]),
            wait_timeout=Duration(seconds=20),
        )
        rows, proof, found = platform.aggregate(
            tenant,
            entity_keys=["pump-2"],
            attributes=["pressure"],
            functions=[
                pb.AGGREGATE_FUNCTION_COUNT,
                pb.AGGREGATE_FUNCTION_SUM,
                pb.AGGREGATE_FUNCTION_MAX,
            ],
            group_by_entity=True,
            consistency=consistency,
        )
        assert [(row.entity_key, row.attribute) for row in rows] == [("pump-2", "pressure")]
        assert list(rows[0].results) == [10.0, 45 * unit, 9 * unit]
        assert proof.source == consistency_pb2.SOURCE_WAREHOUSE
        assert proof.consistency == consistency_pb2.CONSISTENCY_LEVEL_ANALYTICS
        assert (found["x-data-source"], found["x-consistency"]) == ("warehouse", "analytics")
        assert float(found["x-data-lag-seconds"]) >= 0


def test_buckets_are_aligned_to_the_epoch(platform: Platform) -> None:
    rows, _, _ = platform.aggregate(
        "globex",
        attributes=["pressure"],
        functions=[pb.AGGREGATE_FUNCTION_COUNT],
        bucket=Duration(seconds=300),
    )
    assert sum(row.results[0] for row in rows) == 20
    assert all(row.bucket_time.seconds % 300 == 0 for row in rows)
    assert {row.entity_key for row in rows} == {""}


def test_percentiles_and_qualities_come_through(platform: Platform) -> None:
    for tenant, unit in KEYS.items():
        rows, _, _ = platform.aggregate(
            tenant,
            entity_keys=["pump-2"],
            attributes=["pressure"],
            functions=[pb.AGGREGATE_FUNCTION_LAST, pb.AGGREGATE_FUNCTION_FIRST],
            percentiles=[50, 100],
            group_by_quality=True,
        )
        assert [list(row.results) for row in rows] == [
            [9 * unit, 0.0, pytest.approx(4.5 * unit), 9 * unit]
        ]
        assert [row.quality for row in rows] == [0]


def test_aggregates_name_what_is_wrong(platform: Platform) -> None:
    count, total = [pb.AGGREGATE_FUNCTION_COUNT], [pb.AGGREGATE_FUNCTION_SUM]
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"attributes": ["serial"], "functions": total}, "TYPE_MISMATCH", "functions"),
        ({"attributes": ["serial"], "percentiles": [50]}, "TYPE_MISMATCH", "percentiles"),
        ({"attributes": ["pressure"], "percentiles": [101]}, "INVALID_FIELD", "percentiles[0]"),
        ({"attributes": ["presure"], "functions": count}, "ATTRIBUTE_UNKNOWN", "attributes"),
        ({"attributes": ["pressure"], "functions": []}, "INVALID_FIELD", "functions"),
        ({"attributes": [], "functions": count}, "INVALID_FIELD", "attributes"),
        (
            {"attributes": ["pressure"], "functions": count, "entity_keys": ["nobody"]},
            "ENTITY_UNKNOWN",
            "entity_keys",
        ),
        (
            {"attributes": ["pressure"], "functions": count, "consistency": STRONG},
            "INVALID_FIELD",
            "consistency",
        ),
        (
            {"attributes": ["pressure"], "functions": count, "start_time": T0, "end_time": T0},
            "INVALID_FIELD",
            "end_time",
        ),
    ]
    for fields, reason, field in cases:
        with pytest.raises(grpc.RpcError) as raised:
            platform.aggregate("acme", **fields)
        assert refusal(raised.value)[1::2] == (reason, field)
    rows, _, _ = platform.aggregate("acme", attributes=["serial"], functions=count)
    assert [list(row.results) for row in rows] == [[1.0]]


def test_what_is_not_proven_yet_is_not_passed_off_as_proven(platform: Platform) -> None:
    analytics = consistency_pb2.Consistency.Analytics()
    analytics.min_verified_through.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    consistency = consistency_pb2.Consistency(
        analytics=analytics, on_unmet=consistency_pb2.ON_UNMET_FAIL
    )
    with pytest.raises(grpc.RpcError) as raised:
        platform.aggregate(
            "acme",
            attributes=["pressure"],
            functions=[pb.AGGREGATE_FUNCTION_COUNT],
            consistency=consistency,
        )
    assert refusal(raised.value)[1] == "FRESHNESS_UNMET"


def test_tiers_are_listed_with_their_lags(platform: Platform) -> None:
    def listed() -> dict[str, pb.Tier]:
        answer = platform.query.ListTiers(pb.ListTiersRequest(), timeout=10)
        return {tier.endpoint: tier for tier in answer.tiers}

    assert set(listed()) == {"primary", "replica-1", "replica-2", "hotcache", "warehouse"}
    wait_until(
        lambda: all(tier.available and tier.HasField("lag") for tier in listed().values()),
        "every tier is there and knows its lag",
        patience=PATIENCE,
    )
    assert {tier.breaker for tier in listed().values()} == {"CLOSED"}


# Waiting for tiers, and explaining routes ---------------------------------------------------------


def wait_for(platform: Platform, token: bytes, tier: Any, seconds: float = 20) -> pb.TierState:
    request = pb.WaitForRequest(token=token, tier=tier)
    request.wait_timeout.FromTimedelta(timedelta(seconds=seconds))
    answer = platform.query.WaitFor(request, metadata=as_tenant("acme"), timeout=seconds + 5)
    (state,) = answer.tiers
    return state


def explained(platform: Platform, kind: Any, **fields: Any) -> pb.ExplainRouteResponse:
    request = pb.ExplainRouteRequest(kind=kind, **fields)
    return platform.query.ExplainRoute(request, metadata=as_tenant("acme"), timeout=10)


def test_cache_and_warehouse_are_waited_for_and_then_hold_the_write(platform: Platform) -> None:
    at = datetime.now(UTC)
    token = platform.write("acme", [point("pump-1", "pressure", at, double_value=7.5)])
    cache = wait_for(platform, token, consistency_pb2.SOURCE_CACHE)
    assert (cache.endpoint, cache.position_state) == ("hotcache", pb.POSITION_STATE_REACHED)
    warehouse = wait_for(platform, token, consistency_pb2.SOURCE_WAREHOUSE)
    assert (warehouse.endpoint, warehouse.position_state) == (
        "warehouse",
        pb.POSITION_STATE_REACHED,
    )
    wanted = consistency_pb2.Consistency(on_unmet=consistency_pb2.ON_UNMET_FAIL)
    wanted.analytics.token = token
    rows, _, _ = platform.aggregate(
        "acme",
        attributes=["pressure"],
        functions=[pb.AGGREGATE_FUNCTION_MAX],
        entity_keys=["pump-1"],
        consistency=wanted,
    )
    assert rows[0].results[0] >= 7.5


def test_hot_reads_and_aggregates_are_explained_as_they_are_then_taken(platform: Platform) -> None:
    token = platform.write(
        "acme", [point("pump-1", "pressure", datetime.now(UTC), double_value=8.5)]
    )
    wait_for(platform, token, consistency_pb2.SOURCE_CACHE)
    platform.get("acme", at_least(token))  # Fills the cache.
    found = explained(platform, pb.READ_KIND_LATEST_HOT, consistency=at_least(token))
    proof = platform.get("acme", at_least(token)).metadata
    assert (found.source, found.endpoint) == (proof.source, "hotcache")
    assert proof.endpoint in {"hotcache", "near cache"}  # Which keeps what hotcache answered.
    assert found.endpoint == "hotcache"
    assert explained(platform, pb.READ_KIND_HISTORY).endpoint != "hotcache"
    assert explained(platform, pb.READ_KIND_LATEST_HOT, consistency=STRONG).endpoint == "primary"
    found = explained(platform, pb.READ_KIND_AGGREGATE)
    assert (found.source, found.endpoint) == (consistency_pb2.SOURCE_WAREHOUSE, "warehouse")
    assert [each.verdict for each in found.candidates] == ["chosen"]


def test_without_the_reconciler_aggregates_are_refused_clearly(platform: Platform) -> None:
    platform.stack.services["cdc-reconciler"].stop()
    with pytest.raises(grpc.RpcError) as raised:
        platform.aggregate("acme", attributes=["pressure"], functions=[pb.AGGREGATE_FUNCTION_COUNT])
    code, reason, metadata, _ = refusal(raised.value)
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert metadata["dependency"] == "cdc-reconciler"
