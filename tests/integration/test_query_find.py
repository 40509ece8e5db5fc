"""FindEntities with filters of every kind, at every tier, over pages; and what it refuses."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType
from atlas_devstack.waiting import wait_until

from .cold_rig import add_attributes
from .lane_writer import RawPoint
from .query_reading import (
    ACME,
    GLOBEX,
    PATIENCE,
    STATE,
    STRONG,
    T0,
    Reading,
    eventual,
    pressure,
    reading_stack,
    refusal,
    text,
)

TIER = 31
SECOND = timedelta(seconds=1)
FIRMWARE = AttributeDef(32, "firmware", DataType.TEXT, is_hot=False, is_indexed=True)
ENTITIES = range(5001, 5026)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Reading]:
    """Entity n of acme is on or off and has tier n % 5; globex has the same keys, all of tier 9."""
    with reading_stack(tmp_path_factory.mktemp("find"), server_options) as reading:
        for tenant_id in (ACME, GLOBEX):
            reading.admin.execute(
                "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, is_hot)"
                " VALUES (%s, %s, 'tier', 'int', true)",
                [tenant_id, TIER],
            )
            reading.admin.execute(
                "INSERT INTO entities (tenant_id, entity_id, key)"
                " SELECT %s, n, 'unit-' || n FROM unnest(%s::bigint[]) AS n",
                [tenant_id, list(ENTITIES)],
            )
        add_attributes(reading.admin, ACME, {"firmware": FIRMWARE})
        add_attributes(reading.admin, GLOBEX, {"firmware": replace(FIRMWARE, is_indexed=False)})
        reading.write([point for n in ENTITIES for point in points(n)])
        reading.stack.postgres.wait_caught_up()
        yield reading


def points(entity_id: int) -> list[RawPoint]:
    return [
        text(ACME, STATE, "on" if entity_id % 2 else "off", entity_id),
        RawPoint(ACME, entity_id, TIER, T0, entity_id % 5, column="value_int"),
        pressure(ACME, float("nan") if entity_id == 5001 else float(entity_id), entity_id),
        # Updated from 1 to 2, and a point of before comes late; the last one is not updated yet.
        text(ACME, FIRMWARE.attribute_id, f"v{1 + (entity_id < 5025)}", entity_id, T0 + SECOND),
        text(ACME, FIRMWARE.attribute_id, "v1", entity_id),
        text(GLOBEX, FIRMWARE.attribute_id, "v2", entity_id),
        text(GLOBEX, STATE, "on", entity_id),
        RawPoint(GLOBEX, entity_id, TIER, T0, 9, column="value_int"),
    ]


def equals(attribute: str, **value: Any) -> pb.Filter:
    return pb.Filter(equals=pb.Equals(attribute=attribute, value=value_pb2.Value(**value)))


def one_of(attribute: str, *values: int) -> pb.Filter:
    message = pb.Filter()
    part = getattr(message, "in")
    part.attribute = attribute
    part.values.extend(value_pb2.Value(int_value=value) for value in values)
    return message


def negated(part: pb.Filter) -> pb.Filter:
    message = pb.Filter()
    getattr(message, "not").CopyFrom(part)
    return message


def between(attribute: str, **ends: value_pb2.Value) -> pb.Filter:
    return pb.Filter(range=pb.Range(attribute=attribute, **ends))


def whole(value: int) -> value_pb2.Value:
    return value_pb2.Value(int_value=value)


def real(value: float) -> value_pb2.Value:
    return value_pb2.Value(double_value=value)


def all_of(*parts: pb.Filter) -> pb.Filter:
    return pb.Filter(all_of=pb.AllOf(filters=parts))


def any_of(*parts: pb.Filter) -> pb.Filter:
    return pb.Filter(any_of=pb.AnyOf(filters=parts))


ON = equals("state", text_value="on")
V2 = equals("firmware", text_value="v2")
HAS_STATE = pb.Filter(exists=pb.Exists(attribute="state"))


@pytest.mark.parametrize(
    ("filter_", "wanted"),
    [
        (all_of(ON, equals("tier", int_value=3)), lambda n: n % 2 and n % 5 == 3),
        (one_of("tier", 1, 3, 77), lambda n: n % 5 in {1, 3}),
        (any_of(equals("tier", int_value=0), all_of(ON, one_of("tier", 1))),
         lambda n: n % 5 == 0 or (n % 2 and n % 5 == 1)),
        (all_of(ON, between("tier", min=whole(2), max_exclusive=whole(4))),
         lambda n: n % 2 and 2 <= n % 5 < 4),
        (between("pressure", min_exclusive=real(5020)), lambda n: n > 5020),
        (all_of(HAS_STATE, negated(between("pressure", max=real(5020)))),
         lambda n: n > 5020 or n == 5001),
        (all_of(HAS_STATE, negated(any_of(ON, one_of("tier", 0, 1, 2)))),
         lambda n: not n % 2 and n % 5 > 2),
        (equals("pressure", double_value=float("nan")), lambda n: n == 5001),
        (between("state", min=value_pb2.Value(text_value="on")), lambda n: n % 2),
        (V2, lambda n: n < 5025),
        (equals("firmware", text_value="v1"), lambda n: n == 5025),
        (all_of(ON, V2, between("tier", min=whole(3))), lambda n: n < 5025 and n % 2 and n % 5 > 2),
        (all_of(HAS_STATE, negated(V2)), lambda n: n == 5025),
        (any_of(equals("tier", int_value=0), equals("firmware", text_value="v1")),
         lambda n: n % 5 == 0),
        (all_of(pb.Filter(exists=pb.Exists(attribute="firmware")), ON), lambda n: n % 2),
        (between("firmware", max_exclusive=value_pb2.Value(text_value="v2")), lambda n: n == 5025),
    ],
)  # fmt: skip
@pytest.mark.parametrize("consistency", [STRONG, eventual(60)], ids=["primary", "replica"])
def test_filters_find_their_entities_at_every_tier(
    reading: Reading, filter_: pb.Filter, wanted: Any, consistency: consistency_pb2.Consistency
) -> None:
    found = reading.find(filter_, consistency=consistency)
    assert [state.entity_id for state in found.entities] == [n for n in ENTITIES if wanted(n)]
    source = {"strong": consistency_pb2.SOURCE_PRIMARY}.get(
        str(consistency.WhichOneof("requirement")), consistency_pb2.SOURCE_REPLICA
    )
    assert found.metadata.source == source


def test_what_asks_for_no_value_finds_entities_that_have_none(reading: Reading) -> None:
    silent = [1, 2, 3]
    for filter_ in (negated(HAS_STATE), negated(one_of("tier", *range(10)))):
        found = reading.find(filter_)
        assert [state.entity_id for state in found.entities] == silent
        assert all(not state.readings for state in found.entities)
    assert [state.entity_id for state in reading.find().entities] == [*silent, *ENTITIES]


def test_another_tenant_with_the_same_keys_finds_its_own(reading: Reading) -> None:
    nine = equals("tier", int_value=9)
    assert reading.find(nine).entities == []
    theirs = reading.find(nine, tenant=GLOBEX)
    assert [state.entity_id for state in theirs.entities] == list(ENTITIES)
    assert {reading_.value.int_value for s in theirs.entities for reading_ in s.readings} == {0, 9}


@pytest.mark.parametrize(
    "filter_",
    [
        negated(one_of("tier", 0)),
        one_of("tier", 1, 2, 3, 4),
        all_of(V2, negated(one_of("tier", 0))),
    ],
)
def test_pages_are_the_whole_and_their_tokens_of_this_filter(
    reading: Reading, filter_: pb.Filter
) -> None:
    wanted = all_of(HAS_STATE, filter_)
    found: list[int] = []
    token = ""
    while True:
        page = reading.find(wanted, page_size=6, page_token=token)
        found += [state.entity_id for state in page.entities]
        token = page.next_page_token
        if not token:
            break
        for other in (filter_, negated(wanted), all_of(filter_, HAS_STATE)):
            with pytest.raises(grpc.RpcError) as raised:
                reading.find(other, page_size=6, page_token=token)
            assert refusal(raised.value)[1] == "PAGE_TOKEN_INVALID"
        with pytest.raises(grpc.RpcError) as raised:
            reading.find(wanted, tenant=GLOBEX, page_token=token)
        assert refusal(raised.value)[1] == "PAGE_TOKEN_INVALID"
    assert found == [n for n in ENTITIES if n % 5]


@pytest.mark.parametrize(
    ("filter_", "reason", "field"),
    [
        (negated(pb.Filter(exists=pb.Exists(attribute="serial"))), "ATTRIBUTE_NOT_HOT",
         "filter.not.exists.attribute"),
        (all_of(V2, negated(pb.Filter(exists=pb.Exists(attribute="serial")))), "ATTRIBUTE_NOT_HOT",
         "filter.all_of.filters[1].not.exists.attribute"),
        (equals("firmware", int_value=2), "TYPE_MISMATCH", "filter.equals.value"),
        (any_of(ON, one_of("teir", 1)), "ATTRIBUTE_UNKNOWN",
         "filter.any_of.filters[1].in.attribute"),
        (one_of("state", 1), "TYPE_MISMATCH", "filter.in.values[0]"),
        (between("tier", min=real(1.0)), "TYPE_MISMATCH", "filter.range.min"),
        (between("tier", min=whole(2), max=whole(1)), "INVALID_FIELD", "filter.range"),
        (between("pressure", max=real(float("nan"))), "VALUE_NOT_FINITE", "filter.range.max"),
        (any_of(), "INVALID_FIELD", "filter.any_of.filters"),
        (one_of("tier"), "INVALID_FIELD", "filter.in.values"),
        (one_of("tier", *range(257)), "BATCH_TOO_LARGE", "filter.in.values"),
        (all_of(*[one_of("tier", *range(129))] * 2), "BATCH_TOO_LARGE", "filter"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_filter_is_named(
    reading: Reading, filter_: pb.Filter, reason: str, field: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        reading.find(filter_)
    code, found, _, place = refusal(raised.value)
    assert (code, found, place) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field)


def test_a_filter_as_large_as_allowed_is_answered(reading: Reading) -> None:
    full = any_of(*[one_of("tier", *range(100 * n, 100 * n + 8)) for n in range(32)])
    found = reading.find(full)
    assert [state.entity_id for state in found.entities] == list(ENTITIES)
    deep = ON
    for _ in range(14):
        deep = negated(deep)
    assert len(reading.find(deep).entities) == 13


def test_what_one_tenant_has_indexed_another_has_not(reading: Reading) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        reading.find(V2, tenant=GLOBEX)
    assert refusal(raised.value)[1] == "ATTRIBUTE_NOT_HOT"
    assert "IndexAttribute" in str(raised.value.details())


def set_state(reading: Reading, state: str) -> None:
    reading.admin.execute(
        "UPDATE attribute_indexes SET state = %s WHERE (tenant_id, attribute_id) = (%s, %s)",
        [state, ACME, FIRMWARE.attribute_id],
    )


def test_a_copy_that_does_not_know_the_index_yet_sends_the_read_to_the_primary(
    reading: Reading,
) -> None:
    set_state(reading, "building")
    reading.stack.postgres.wait_caught_up()
    with reading.paused("replica-1", "replica-2"):
        set_state(reading, "ready")
        # Asked a moment later it is known; before, the refusal is as good.
        wait_until(lambda: is_accepted(reading), "the index is known", patience=PATIENCE)
        found = reading.find(V2, consistency=eventual(300))
        assert found.metadata.source == consistency_pb2.SOURCE_PRIMARY
        assert len(found.entities) == 24
    reading.wait_fresh("replica-1", "replica-2")


def is_accepted(reading: Reading) -> bool:
    try:
        return len(reading.find(V2).entities) == 24
    except grpc.RpcError as error:
        if refusal(error)[1] != "ATTRIBUTE_NOT_HOT":
            raise
        return False


def test_an_index_that_is_dropped_is_not_asked_any_more_at_once(reading: Reading) -> None:
    assert is_accepted(reading)
    set_state(reading, "dropping")
    assert not is_accepted(reading), "what was remembered is of before"
    set_state(reading, "ready")
    wait_until(lambda: is_accepted(reading), "the index is known", patience=PATIENCE)
