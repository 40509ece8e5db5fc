"""Requests are refused naming the field, and proofs say no more than is known."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_common.errors import ServiceError
from atlas_common.key_ring import KeyRing
from atlas_common.token import Position, TokenSigner
from atlas_common.values import DataType
from atlas_query import convert, near
from atlas_query.consistency import (
    AtLeastAsFresh,
    Consistency,
    Eventual,
    Level,
    OnUnmet,
    Source,
    Strong,
    WarehouseConsistency,
    wait_seconds,
)
from atlas_query.proof import Proof, budget_warnings
from atlas_query.readings import Reading

from .filter_messages import equals, negated, one_of

ACME, GLOBEX = 1, 2
SIGNER = TokenSigner({1: b"0123456789abcdef"}, 1)
POSITION = Position(3, 17, 5)
TOKEN = SIGNER.seal(ACME, [POSITION])
Message = consistency_pb2.Consistency


def parsed(message: Message) -> Consistency:
    return convert.consistency(message, ACME, SIGNER)


def refusal(call: Any, *arguments: Any) -> tuple[str, str | None]:
    with pytest.raises(ServiceError) as raised:
        call(*arguments)
    return raised.value.reason, raised.value.field


def test_unset_is_eventual_with_3_s_and_then_the_primary() -> None:
    consistency = parsed(Message())
    assert consistency.requirement == Eventual(3.0)
    assert (consistency.on_unmet, consistency.wait_timeout_seconds) == (OnUnmet.PRIMARY, 2.0)


def test_every_requirement_is_understood() -> None:
    assert parsed(Message(strong=Message.Strong())).requirement == Strong()
    eventual = Message.Eventual(max_staleness=Duration(nanos=250_000_000), token=TOKEN)
    assert parsed(Message(eventual=eventual)).requirement == Eventual(0.25, (POSITION,), TOKEN)
    assert parsed(Message(at_least_as_fresh=TOKEN)).requirement == AtLeastAsFresh(
        (POSITION,), TOKEN
    )


def test_what_cannot_be_met_is_refused() -> None:
    zero = Message(eventual=Message.Eventual(max_staleness=Duration()))
    assert refusal(parsed, zero) == ("INVALID_FIELD", "consistency.eventual.max_staleness")
    assert refusal(parsed, Message(wait_timeout=Duration(seconds=-1))) == (
        "INVALID_FIELD",
        "consistency.wait_timeout",
    )
    analytics = Message(analytics=Message.Analytics())
    assert refusal(parsed, analytics) == ("INVALID_FIELD", "consistency")


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (b"abc", "TOKEN_MALFORMED"),
        (TOKEN[:-1] + bytes([TOKEN[-1] ^ 1]), "TOKEN_TAMPERED"),
        (SIGNER.seal(GLOBEX, [POSITION]), "TOKEN_WRONG_TENANT"),
    ],
)
def test_tokens_are_opened_for_the_tenant(token: bytes, reason: str) -> None:
    for message in (
        Message(at_least_as_fresh=token),
        Message(eventual=Message.Eventual(token=token)),
        Message(strong=Message.Strong(token=token)),
    ):
        assert refusal(parsed, message)[0] == reason
    analytics = Message(analytics=Message.Analytics(token=token))
    assert refusal(convert.warehouse_consistency, analytics, ACME, SIGNER)[0] == reason


def test_what_one_tenant_may_ask_again_another_may_not() -> None:
    message = Message(at_least_as_fresh=TOKEN)
    assert parsed(message) == parsed(message)
    for _ in range(2):
        refused = refusal(convert.consistency, message, GLOBEX, SIGNER)
        assert refused == ("TOKEN_WRONG_TENANT", "token")


def test_aggregates_are_analytics_and_wait_unless_told_to_fail() -> None:
    def aggregate(message: Message) -> WarehouseConsistency:
        return convert.warehouse_consistency(message, ACME, SIGNER)

    assert aggregate(Message()).wait_timeout_seconds == 2.0
    assert aggregate(Message(on_unmet=consistency_pb2.ON_UNMET_FAIL)).wait_timeout_seconds == 0.0
    assert refusal(aggregate, Message(on_unmet=consistency_pb2.ON_UNMET_PRIMARY)) == (
        "INVALID_FIELD",
        "consistency.on_unmet",
    )
    assert refusal(aggregate, Message(strong=Message.Strong())) == ("INVALID_FIELD", "consistency")


def test_a_wait_never_outlasts_the_deadline() -> None:
    consistency = parsed(Message(wait_timeout=Duration(seconds=5)))
    assert wait_seconds(consistency, None, 0.02) == 5.0
    assert wait_seconds(consistency, 1.0, 0.02) == pytest.approx(0.98)
    assert wait_seconds(consistency, 0.01, 0.02) == 0.0


def test_entity_keys_are_checked_one_by_one() -> None:
    for bad in ("", "x" * 257, "a\0b", "a\nb"):
        assert refusal(convert.entity_keys, ["pump-1", bad], "entity_keys") == (
            "ENTITY_KEY_INVALID",
            "entity_keys[1]",
        )
    assert convert.entity_keys(["pümp 1"], "entity_keys") == ["pümp 1"]


def test_what_is_remembered_of_a_token_is_forgotten_with_its_key() -> None:
    rings = {key_id: KeyRing({key_id: bytes([key_id]) * 16}, key_id) for key_id in (1, 2)}
    active = 1
    signer = TokenSigner.following(lambda: rings[active])
    proof = Proof(Source.CACHE, near.ENDPOINT, Level.EVENTUAL, 0.1, None, (POSITION,), "near")
    kept = {}
    for tenant_id in (ACME, GLOBEX, ACME, GLOBEX):
        message = Message(at_least_as_fresh=signer.seal(tenant_id, [POSITION]))
        assert convert.consistency(message, tenant_id, signer).positions == (POSITION,)
        kept[tenant_id] = message, convert.near_metadata(proof, tenant_id, signer)
    active = 2
    for tenant_id, (message, told) in kept.items():
        assert refusal(convert.consistency, message, tenant_id, signer)[0] == "TOKEN_TAMPERED"
        assert convert.near_metadata(proof, tenant_id, signer) != told


def test_a_page_token_outlives_a_change_of_consistency_and_size_but_not_of_the_filter() -> None:
    request = pb.FindEntitiesRequest(filter=equals("a", int_value=1), page_size=5)
    token = SIGNER.seal_page(ACME, convert.page_query(request), convert.cursor_of(42))
    request.page_size, request.page_token = 7, token
    request.consistency.strong.SetInParent()
    opened = SIGNER.open_page(token, ACME, convert.page_query(request))
    assert convert.cursor_after(opened) == 42
    assert refusal(SIGNER.open_page, token, GLOBEX, convert.page_query(request)) == (
        "PAGE_TOKEN_INVALID",
        "page_token",
    )
    for other in (
        equals("a", int_value=2),
        equals("a", double_value=1.0),
        one_of("a", 1),
        negated(equals("a", int_value=1)),
        pb.Filter(all_of=pb.AllOf(filters=[equals("a", int_value=1)])),
        pb.Filter(any_of=pb.AnyOf(filters=[equals("a", int_value=1)])),
        pb.Filter(exists=pb.Exists(attribute="a")),
    ):
        request.filter.CopyFrom(other)
        assert refusal(SIGNER.open_page, token, ACME, convert.page_query(request))[0] == (
            "PAGE_TOKEN_INVALID"
        )


def test_a_page_token_is_of_the_very_ends_of_a_range() -> None:
    one = value_pb2.Value(int_value=1)
    ends = ({"min": one}, {"min_exclusive": one}, {"max": one}, {"max_exclusive": one})
    queries = {
        convert.page_query(
            pb.FindEntitiesRequest(filter=pb.Filter(range=pb.Range(attribute="a", **end)))
        )
        for end in ends
    }
    assert len(queries) == len(ends)


def test_page_sizes() -> None:
    sizes = {0: 100, 1: 1, 1000: 1000, 5000: 1000}
    for asked, given in sizes.items():
        assert convert.page_size(pb.FindEntitiesRequest(page_size=asked)) == given
    assert refusal(convert.page_size, pb.FindEntitiesRequest(page_size=-1)) == (
        "INVALID_FIELD",
        "page_size",
    )


def test_a_history_range_is_half_open_and_not_empty() -> None:
    moment = Timestamp(seconds=100)
    empty = pb.GetHistoryRequest(start_time=moment, end_time=moment)
    assert refusal(convert.history_range, empty) == ("INVALID_FIELD", "end_time")
    beyond = pb.GetHistoryRequest(end_time=Timestamp(seconds=2**62))
    assert refusal(convert.history_range, beyond) == ("INVALID_FIELD", "end_time")
    for limit in (-1, 100_001):
        assert refusal(convert.history_range, pb.GetHistoryRequest(limit=limit)) == (
            "INVALID_FIELD",
            "limit",
        )
    open_ended = convert.history_range(pb.GetHistoryRequest(start_time=moment))
    assert open_ended.start_time == datetime.fromtimestamp(100, UTC)
    assert (open_ended.end_time, open_ended.limit) == (None, 100_000)


def test_messages_are_cut_by_number_and_by_size() -> None:
    small = [Reading("a", DataType.INT, n, n, 0) for n in range(2_500)]
    assert [len(chunk) for chunk in convert.reading_chunks(small)] == [1000, 1000, 500]
    large = [Reading("a", DataType.TEXT, "x" * 65_536, n, 0) for n in range(40)]
    chunks = list(convert.reading_chunks(large))
    assert sum(map(len, chunks)) == 40
    assert max(sum(m.ByteSize() for m in chunk) for chunk in chunks) <= convert.MESSAGE_BYTES_MAX
    assert list(convert.reading_chunks([])) == []


def test_the_proof_is_told_in_the_answer_and_in_its_trailers() -> None:
    as_of = datetime(2026, 3, 1, tzinfo=UTC)
    proof = Proof(
        Source.REPLICA, "replica-1", Level.EVENTUAL, 4.2, as_of, (POSITION,), "because",
        budget_warnings(Source.REPLICA, 4.2),
    )  # fmt: skip
    message = convert.metadata(proof, ACME, SIGNER)
    assert message.source == consistency_pb2.SOURCE_REPLICA
    assert message.lag.ToTimedelta() == timedelta(seconds=4.2)
    assert message.as_of.ToDatetime(UTC) == as_of
    assert SIGNER.open(message.token, ACME) == (POSITION,)
    assert list(message.warnings) == ["replica lag 4.2 s exceeds the budget of 3.0 s"]
    assert convert.trailers(proof) == (
        ("x-data-source", "replica"),
        ("x-data-lag-seconds", "4.200"),
        ("x-consistency", "eventual"),
    )


def test_an_unknown_lag_is_not_told_as_a_number() -> None:
    proof = Proof(
        Source.REPLICA, "r", Level.AT_LEAST_AS_FRESH, float("inf"), None, (), "",
        budget_warnings(Source.REPLICA, float("inf")),
    )  # fmt: skip
    message = convert.metadata(proof, ACME, SIGNER)
    assert not message.HasField("lag")
    assert message.token == b""
    assert list(message.warnings) == ["replica lag is unknown: no recent heartbeat"]


@pytest.mark.parametrize("as_of", [None, datetime(2026, 3, 1, tzinfo=UTC)])
def test_the_near_caches_proof_put_together_is_the_proof(as_of: datetime | None) -> None:
    for tenant_id, lag in ((ACME, 0.25), (GLOBEX, 0.25), (ACME, 4.5)):
        proof = Proof(
            Source.CACHE,
            near.ENDPOINT,
            Level.EVENTUAL,
            lag,
            as_of,
            (POSITION,),
            f"{lag} s ago",
            budget_warnings(Source.CACHE, lag),
        )
        encoded = convert.near_metadata(proof, tenant_id, SIGNER)
        found = pb.GetEntitiesResponse.FromString(encoded).metadata
        assert found == convert.metadata(proof, tenant_id, SIGNER)
