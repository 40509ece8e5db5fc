"""What reads answer: latest values, finds and histories, of one tenant and never of another."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_devstack.waiting import wait_until

from .lane_writer import RawPoint
from .query_reading import (
    ACME,
    GLOBEX,
    PATIENCE,
    SERIAL,
    STATE,
    STRONG,
    T0,
    Reading,
    as_tenant,
    eventual,
    pressure,
    reading_stack,
    refusal,
    text,
    trailers,
    values,
)

SECOND = timedelta(seconds=1)
TYPED = (  # Attribute, its type, the value as written, the same as read.
    (11, "bool", True, True),
    (12, "int", -(2**63), -(2**63)),
    (13, "double", float("inf"), float("inf")),
    (14, "decimal", Decimal("12345678901234567890.5"), "12345678901234567890.5"),
    (15, "text", 'a "quoted" \\ é', 'a "quoted" \\ é'),
    (16, "time", T0, Timestamp(seconds=int(T0.timestamp()))),
    (17, "json", '"a string"', '"a string"'),
)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Reading]:
    with reading_stack(tmp_path_factory.mktemp("reads"), server_options) as reading:
        for tenant_id in (ACME, GLOBEX):
            for number, data_type, _, _ in TYPED:
                for is_hot in (True, False):
                    reading.admin.execute(
                        "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, is_hot)"
                        " VALUES (%s, %s, %s, %s, %s)",
                        [
                            tenant_id,
                            number + (0 if is_hot else 10),
                            f"{'hot' if is_hot else 'cold'}_{data_type}",
                            data_type,
                            is_hot,
                        ],
                    )
        yield reading


@pytest.fixture
def entity(reading: Reading) -> tuple[int, str]:
    """An entity of this test alone: id and key, the same in both tenants."""
    row = reading.admin.execute("SELECT max(entity_id) + 1 FROM entities").fetchone()
    assert row is not None
    entity_id, key = row[0], f"unit-{row[0]}"
    for tenant_id in (ACME, GLOBEX):
        reading.admin.execute(
            "INSERT INTO entities (tenant_id, entity_id, key) VALUES (%s, %s, %s)",
            [tenant_id, entity_id, key],
        )
    return entity_id, key


def test_the_proof_is_in_the_answer_and_in_the_trailers(
    reading: Reading, entity: tuple[int, str]
) -> None:
    before = datetime.now(UTC)
    token = reading.write([pressure(ACME, 1.5, entity[0]), pressure(GLOBEX, 2.5, entity[0])])
    request = pb.GetEntitiesRequest(entity_keys=[entity[1], "no-such"], consistency=STRONG)
    response, call = reading.query.GetEntities.with_call(request, metadata=as_tenant(ACME))
    assert values(response.entities[0]) == {"pressure": 1.5}
    assert list(response.not_found_keys) == ["no-such"]
    proof = response.metadata
    assert (proof.source, proof.endpoint) == (consistency_pb2.SOURCE_PRIMARY, "primary")
    assert proof.consistency == consistency_pb2.CONSISTENCY_LEVEL_STRONG
    assert proof.lag.ToTimedelta() == timedelta(0)
    assert proof.as_of.ToDatetime(UTC) > before
    assert proof.token == token
    assert proof.route_reason == "STRONG reads the primary"
    found = trailers(call)
    assert (found["x-data-source"], found["x-consistency"]) == ("primary", "strong")
    assert found["x-data-lag-seconds"] == "0.000"
    assert values(reading.get(entity[1], tenant=GLOBEX, consistency=STRONG).entities[0]) == {
        "pressure": 2.5
    }


@pytest.mark.parametrize("heat", ["hot", "cold"])
def test_every_type_comes_back_as_it_went_in(
    reading: Reading, entity: tuple[int, str], heat: str
) -> None:
    shift = 0 if heat == "hot" else 10
    reading.write(
        RawPoint(ACME, entity[0], number + shift, T0, value, column=f"value_{data_type}")
        for number, data_type, value, _ in TYPED
    )
    names = [f"{heat}_{data_type}" for _, data_type, _, _ in TYPED]
    state = reading.get(entity[1], attributes=names, consistency=STRONG).entities[0]
    assert values(state) == {f"{heat}_{data_type}": read for _, data_type, _, read in TYPED}
    assert [r.attribute for r in state.readings] == sorted(names)
    (only,) = reading.history(entity[1])
    assert {r.attribute for r in only.readings} == set(names)
    assert reading.get(entity[1], tenant=GLOBEX, consistency=STRONG).entities[0].readings == []


def test_a_json_null_is_a_value(reading: Reading, entity: tuple[int, str]) -> None:
    reading.write([RawPoint(ACME, entity[0], 17, T0, "null", column="value_json")])
    assert values(reading.get(entity[1], consistency=STRONG).entities[0]) == {"hot_json": "null"}


def test_cold_attributes_come_from_the_points_with_their_qualities(
    reading: Reading, entity: tuple[int, str]
) -> None:
    entity_id, key = entity
    reading.write(
        [
            pressure(ACME, 1.0, entity_id, T0, quality=3),
            pressure(ACME, 2.0, entity_id, T0 + SECOND, quality=4),
            text(ACME, SERIAL, "AB1", entity_id),
            text(GLOBEX, SERIAL, "theirs", entity_id),
        ]
    )
    reading.write([pressure(ACME, 3.0, entity_id, T0 + SECOND, quality=5)])  # Came last: it wins.
    hot = reading.get(key, consistency=STRONG).entities[0]
    assert [(r.attribute, r.value.double_value, r.quality) for r in hot.readings] == [
        ("pressure", 3.0, 0)
    ]
    for fields in ({"attributes": ["serial", "pressure"]}, {"scope": pb.ATTRIBUTE_SCOPE_ALL}):
        state = reading.get(key, consistency=STRONG, **fields).entities[0]
        assert [(r.attribute, r.quality) for r in state.readings] == [
            ("pressure", 5),
            ("serial", 0),
        ]
        assert values(state) == {"pressure": 3.0, "serial": "AB1"}


def test_scope_all_finds_what_an_entity_has_and_nothing_for_one_without_points(
    reading: Reading, entity: tuple[int, str]
) -> None:
    reading.write([text(ACME, SERIAL, "S", entity[0]), text(ACME, STATE, "on", entity[0])])
    response = reading.get(entity[1], "pump-3", consistency=STRONG, scope=pb.ATTRIBUTE_SCOPE_ALL)
    assert [values(state) for state in response.entities] == [{"serial": "S", "state": "on"}, {}]


def test_answers_come_in_the_order_asked(reading: Reading) -> None:
    response = reading.get("pump-3", "pump-1", "nobody", "pump-3", consistency=STRONG)
    assert [state.entity_key for state in response.entities] == ["pump-3", "pump-1", "pump-3"]


def test_what_is_wrong_with_a_request_is_named(reading: Reading) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    analytics = consistency_pb2.Consistency(analytics=consistency_pb2.Consistency.Analytics())
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"attributes": ["pressure", "presure"]}, "ATTRIBUTE_UNKNOWN", "attributes"),
        ({"attributes": ["a\0"]}, "ATTRIBUTE_UNKNOWN", "attributes"),
        ({"consistency": analytics}, "INVALID_FIELD", "consistency"),
        ({"consistency": eventual(0.0)}, "INVALID_FIELD", "consistency.eventual.max_staleness"),
    ]
    for fields, reason, field in cases:
        with pytest.raises(grpc.RpcError) as raised:
            reading.get("pump-1", **fields)
        assert refusal(raised.value)[::3] == (invalid, field)
        assert refusal(raised.value)[1] == reason
    for keys, reason in (([], "INVALID_FIELD"), (["a\0b"], "ENTITY_KEY_INVALID")):
        with pytest.raises(grpc.RpcError) as raised:
            reading.get(*keys)
        assert refusal(raised.value)[:2] == (invalid, reason)
    with pytest.raises(grpc.RpcError) as raised:
        reading.get(*(f"k{n}" for n in range(1001)))
    assert refusal(raised.value)[:2] == (invalid, "BATCH_TOO_LARGE")
    with pytest.raises(grpc.RpcError) as raised:
        reading.get("pump-1", tenant="no-such")
    assert refusal(raised.value)[:2] == (grpc.StatusCode.NOT_FOUND, "TENANT_UNKNOWN")


def equals(attribute: str, **value: Any) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(attribute=attribute, value=value_pb2.Value(**value)))


def all_of(*filters: pb.Filter) -> pb.Filter:
    return pb.Filter(all_of=pb.AllOf(filters=filters))


@pytest.mark.parametrize(("number", "data_type", "written", "read"), TYPED)
def test_every_type_can_be_filtered_by(
    reading: Reading,
    entity: tuple[int, str],
    number: int,
    data_type: str,
    written: Any,
    read: Any,
) -> None:
    reading.write(
        [
            RawPoint(tenant, entity[0], number, T0, written, column=f"value_{data_type}")
            for tenant in (ACME, GLOBEX)
        ]
    )
    found = reading.find(equals(f"hot_{data_type}", **{f"{data_type}_value": read}))
    assert entity[1] in {state.entity_key for state in found.entities}
    assert all(values(s)[f"hot_{data_type}"] == read for s in found.entities)


def test_finds_match_all_conditions_and_only_this_tenants(
    reading: Reading, entity: tuple[int, str]
) -> None:
    entity_id, key = entity
    mark = f"only-{entity_id}"
    reading.write(
        [
            text(ACME, STATE, mark, entity_id),
            pressure(ACME, 1.0, entity_id),
            text(ACME, SERIAL, "AB9", entity_id),
            text(GLOBEX, STATE, mark, entity_id),
            pressure(GLOBEX, 2.0, entity_id),
        ]
    )
    state = equals("state", text_value=mark)
    found = reading.find(all_of(state, equals("pressure", double_value=1.0)))
    assert [(s.entity_key, values(s)) for s in found.entities] == [
        (key, {"pressure": 1.0, "state": mark})
    ]
    assert found.next_page_token == ""
    assert reading.find(all_of(state, equals("pressure", double_value=2.0))).entities == []
    assert reading.find(all_of(state, equals("state", text_value="other"))).entities == []
    theirs = reading.find(state, tenant=GLOBEX)
    assert [values(s)["pressure"] for s in theirs.entities] == [2.0]
    cold = reading.find(state, attributes=["serial"])
    assert [values(s) for s in cold.entities] == [{"serial": "AB9"}]


def test_a_document_is_found_by_itself_not_by_a_part_of_it(
    reading: Reading, entity: tuple[int, str]
) -> None:
    document = f'{{"id": {entity[0]}, "tags": ["a", "b"]}}'
    reading.write([RawPoint(ACME, entity[0], 17, T0, document, column="value_json")])
    same = f'{{"tags":["a","b"],"id":{entity[0]}}}'
    part = f'{{"id": {entity[0]}}}'
    assert len(reading.find(equals("hot_json", json_value=same)).entities) == 1
    assert reading.find(equals("hot_json", json_value=part)).entities == []


def test_a_filter_on_a_cold_attribute_says_the_way_out(reading: Reading) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        reading.find(equals("serial", text_value="AB1"))
    code, reason, metadata, field = refusal(raised.value)
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ATTRIBUTE_NOT_HOT")
    assert (metadata["attribute"], field) == ("serial", "filter.equals.attribute")
    with pytest.raises(grpc.RpcError) as raised:
        reading.find(equals("pressure", text_value="1"))
    assert refusal(raised.value)[1] == "TYPE_MISMATCH"
    with pytest.raises(grpc.RpcError) as raised:
        reading.find(equals("hot_json", json_value='"\\u0000"'))
    assert refusal(raised.value)[1] == "TEXT_HAS_NUL"


def test_pages_are_the_whole_each_entity_once(reading: Reading) -> None:
    reading.admin.execute(
        "INSERT INTO entities (tenant_id, entity_id, key)"
        " SELECT t, n, 'page-' || n FROM generate_series(1, 2) t, generate_series(5001, 5025) n"
    )
    reading.write(
        text(tenant, STATE, "paged", entity_id)
        for tenant in (ACME, GLOBEX)
        for entity_id in range(5001, 5026)
    )
    wanted = equals("state", text_value="paged")
    found: list[int] = []
    token = ""
    consistency: consistency_pb2.Consistency | None = STRONG
    for size in (10, 10, 10):
        page = reading.find(wanted, page_size=size, page_token=token, consistency=consistency)
        found += [state.entity_id for state in page.entities]
        token = page.next_page_token
        consistency = None  # The token is of the query, not of its freshness.
        reading.stack.postgres.wait_caught_up()
    assert found == list(range(5001, 5026))
    assert token == ""


def test_a_page_token_is_of_one_tenant_and_one_query(reading: Reading) -> None:
    token = reading.find(page_size=1).next_page_token
    assert token
    other = equals("state", text_value="x")
    for fields in (
        {"tenant": GLOBEX, "page_token": token},
        {"filter_": other, "page_token": token},
        {"page_token": token[:-2] + ("AA" if token[-2:] != "AA" else "BB")},
        {"page_token": "abc"},
    ):
        with pytest.raises(grpc.RpcError) as raised:
            reading.find(**fields)
        assert refusal(raised.value)[:2] == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "PAGE_TOKEN_INVALID",
        )


def all_readings(messages: list[pb.GetHistoryResponse]) -> list[tuple[str, int, Any, int]]:
    return [
        (
            r.attribute,
            r.event_time_us,
            getattr(r.value, str(r.value.WhichOneof("kind"))),
            r.quality,
        )
        for message in messages
        for r in message.readings
    ]


def us(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


def test_a_history_is_half_open_and_oldest_first(reading: Reading, entity: tuple[int, str]) -> None:
    entity_id, key = entity
    reading.write(
        [pressure(ACME, float(n), entity_id, T0 + n * SECOND, quality=n) for n in (3, 1, 2, 0)]
        + [text(ACME, SERIAL, "S", entity_id, T0 + SECOND)]
        + [pressure(GLOBEX, 99.0, entity_id, T0 + SECOND)]
    )
    messages = reading.history(key, start_time=T0 + SECOND, end_time=T0 + 3 * SECOND)
    assert all_readings(messages) == [
        ("pressure", us(T0 + SECOND), 1.0, 1),
        ("serial", us(T0 + SECOND), "S", 0),
        ("pressure", us(T0 + 2 * SECOND), 2.0, 2),
    ]
    only = reading.history(key, attributes=["serial"])
    assert all_readings(only) == [("serial", us(T0 + SECOND), "S", 0)]
    theirs = reading.history(key, tenant=GLOBEX)
    assert [value for _, _, value, _ in all_readings(theirs)] == [99.0]


def test_an_empty_history_still_proves_itself(reading: Reading, entity: tuple[int, str]) -> None:
    request = pb.GetHistoryRequest(entity_key=entity[1], consistency=STRONG)
    call = reading.query.GetHistory(request, metadata=as_tenant(ACME), timeout=10)
    (message,) = list(call)
    assert message.metadata.endpoint == "primary"
    assert not message.HasField("next_start_time")
    assert trailers(call)["x-data-source"] == "primary"


def test_a_history_that_is_cut_goes_on_without_loss_or_repetition(
    reading: Reading, entity: tuple[int, str]
) -> None:
    entity_id, key = entity
    reading.write(
        pressure(ACME, float(n), entity_id, T0 + (n // 3) * SECOND) for n in range(30)
    )  # Three points each second.
    seen: list[float] = []
    start: Any = None
    calls = 0
    while True:
        fields = {} if start is None else {"start_time": start}
        messages = reading.history(key, limit=7, **fields)
        page = [value for _, _, value, _ in all_readings(messages)]
        assert len(page) <= 7
        assert [m.HasField("metadata") for m in messages] == [True] + [False] * (len(messages) - 1)
        seen += page
        calls += 1
        if not messages[-1].HasField("next_start_time"):
            break
        start = messages[-1].next_start_time
    assert seen == [float(n) for n in range(30)]
    assert calls == 5  # Six at a time: seven would part the points of one second.
    with pytest.raises(grpc.RpcError) as raised:
        reading.history(key, limit=2)
    code, reason, metadata, field = refusal(raised.value)
    assert (code, reason, field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "limit")
    assert metadata["event_time_us"] == str(us(T0))


def test_a_long_history_comes_in_messages_of_a_thousand(
    reading: Reading, entity: tuple[int, str]
) -> None:
    entity_id, key = entity
    reading.write(
        pressure(ACME, float(n), entity_id, T0 + n * timedelta(milliseconds=1))
        for n in range(2_345)
    )
    messages = reading.history(key)
    assert max(len(message.readings) for message in messages) <= 1_000
    assert [value for _, _, value, _ in all_readings(messages)] == [float(n) for n in range(2_345)]


def test_history_names_what_is_wrong(reading: Reading) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        reading.history("nobody")
    assert refusal(raised.value)[:2] == (grpc.StatusCode.NOT_FOUND, "ENTITY_UNKNOWN")
    with pytest.raises(grpc.RpcError) as raised:
        reading.history("pump-1", start_time=T0, end_time=T0)
    assert refusal(raised.value)[1::2] == ("INVALID_FIELD", "end_time")
    with pytest.raises(grpc.RpcError) as raised:
        reading.history("pump-1", attributes=["presure"])
    assert refusal(raised.value)[1] == "ATTRIBUTE_UNKNOWN"


def test_an_attribute_made_a_moment_ago_is_known(reading: Reading, entity: tuple[int, str]) -> None:
    reading.get(entity[1], consistency=STRONG)  # The tenant's attributes are in the cache now.
    reading.admin.execute(
        "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, is_hot)"
        " VALUES (1, 900, 'newborn', 'int', true)"
    )
    reading.write([RawPoint(ACME, entity[0], 900, T0, 7, column="value_int")])
    assert values(reading.get(entity[1], consistency=STRONG).entities[0]) == {"newborn": 7}


def test_a_cancelled_call_ends_its_query(reading: Reading) -> None:
    with psycopg.connect(reading.stack.database.admin_dsn) as locker:
        locker.execute("LOCK TABLE entity_values_ts IN ACCESS EXCLUSIVE MODE")
        request = pb.GetEntitiesRequest(
            entity_keys=["pump-1"], scope=pb.ATTRIBUTE_SCOPE_ALL, consistency=STRONG
        )
        call = reading.query.GetEntities.future(request, metadata=as_tenant(ACME), timeout=30)
        wait_until(lambda: waiting(reading) == 1, "the read waits for the lock", patience=PATIENCE)
        call.cancel()
        wait_until(lambda: waiting(reading) == 0, "the read is gone", patience=PATIENCE)
        locker.rollback()
    assert reading.get("pump-1", consistency=STRONG).entities


def waiting(reading: Reading) -> int:
    row = reading.admin.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE usename = 'atlas_query' AND wait_event_type = 'Lock'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_a_deadline_too_short_to_work_with_is_told_so(reading: Reading) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        reading.get("pump-1", consistency=STRONG, timeout=0.002)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
