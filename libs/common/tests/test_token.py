"""Freshness tokens and page tokens: sealing, merging, and what is refused."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from atlas.type.freshness import (
    SEGMENTS_MAX,
    TOKEN_BYTES_MAX,
    FreshnessToken,
    MalformedTokenError,
    Position,
    merge,
)
from atlas_common.config import TokenConfig
from atlas_common.errors import ServiceError
from atlas_common.token import TokenSigner

from .token_strategies import (
    KEYS,
    OTHER_KEY,
    SIGNER,
    position_lists,
    positions,
    tenant_ids,
    tokens,
)

TENANT = 5


def newest_per_lane(given_: list[Position]) -> tuple[Position, ...]:
    return tuple(
        max(position for position in given_ if position.lane == lane)
        for lane in sorted({position.lane for position in given_})
    )


@given(tenant_ids, position_lists)
def test_a_token_opens_to_the_newest_position_of_each_lane(
    tenant_id: int, given_: list[Position]
) -> None:
    assert SIGNER.open(SIGNER.seal(tenant_id, given_), tenant_id) == newest_per_lane(given_)


@given(tokens(), tokens())
def test_merging_is_commutative(a: bytes, b: bytes) -> None:
    assert merge(a, b) == merge(b, a)


@given(tokens(), tokens(), tokens())
def test_merging_is_associative(a: bytes, b: bytes, c: bytes) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == merge(a, b, c)


@given(tokens())
def test_merging_is_idempotent(token: bytes) -> None:
    assert merge(token, token) == merge(token) == merge(token, b"") == token


@given(position_lists, position_lists)
def test_a_merged_token_asks_for_all_that_its_parts_ask_for(
    left: list[Position], right: list[Position]
) -> None:
    merged = merge(SIGNER.seal(TENANT, left), OTHER_KEY.seal(TENANT, right))
    assert SIGNER.open(merged, TENANT) == newest_per_lane(left + right)


@given(st.lists(positions, min_size=1, max_size=4), st.data())
def test_any_flipped_bit_is_refused(given_: list[Position], data: st.DataObject) -> None:
    token = bytearray(SIGNER.seal(TENANT, given_))
    bit = data.draw(st.integers(0, len(token) * 8 - 1))
    token[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ServiceError) as raised:
        SIGNER.open(bytes(token), TENANT)
    assert raised.value.reason.startswith("TOKEN_")
    assert raised.value.field == "token"


@given(tenant_ids, tenant_ids, st.lists(positions, min_size=1))
def test_another_tenants_token_is_refused(mine: int, theirs: int, given_: list[Position]) -> None:
    assume(mine != theirs)
    with pytest.raises(ServiceError, match="TOKEN_WRONG_TENANT"):
        SIGNER.open(SIGNER.seal(theirs, given_), mine)


def test_a_token_whose_tenant_was_rewritten_is_refused() -> None:
    theirs = FreshnessToken.decode(SIGNER.seal(6, [Position(0, 1, 1)]))
    forged = FreshnessToken(TENANT, theirs.segments).encode()
    with pytest.raises(ServiceError, match="TOKEN_TAMPERED"):
        SIGNER.open(forged, TENANT)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_with_a_reason(noise: bytes) -> None:
    assume(noise)
    with pytest.raises(ServiceError, match="INVALID_ARGUMENT TOKEN_"):
        SIGNER.open(noise, TENANT)


@pytest.mark.parametrize(
    "token",
    [
        b"abc",
        b"\x01\x00\x00\x00\x05",
        b"\x02" + SIGNER.seal(TENANT, [Position(0, 1, 1)])[1:],
        SIGNER.seal(TENANT, [Position(0, 1, 1)])[:-1],
        b"\x00" * (TOKEN_BYTES_MAX + 31),
    ],
    ids=["noise", "no segment", "unknown version", "cut short", "too long"],
)
def test_what_is_no_token_is_malformed(token: bytes) -> None:
    with pytest.raises(ServiceError, match="TOKEN_MALFORMED"):
        SIGNER.open(token, TENANT)
    with pytest.raises(MalformedTokenError):
        merge(token)


def test_lanes_out_of_order_and_doubled_are_malformed() -> None:
    one, two = FreshnessToken.decode(
        SIGNER.seal(TENANT, [Position(0, 1, 1), Position(1, 1, 1)])
    ).segments
    for segments in ((two, one), (one, one)):
        with pytest.raises(MalformedTokenError):
            FreshnessToken.decode(FreshnessToken(TENANT, segments).encode())


def test_the_empty_token_asks_for_nothing() -> None:
    assert SIGNER.seal(TENANT, []) == merge() == merge(b"", b"") == b""
    assert SIGNER.open(b"", TENANT) == ()


def test_tokens_of_different_tenants_do_not_merge() -> None:
    position = Position(0, 1, 1)
    with pytest.raises(MalformedTokenError, match="different tenants"):
        merge(SIGNER.seal(5, [position]), SIGNER.seal(6, [position]))


def test_a_token_holds_256_lanes_and_no_more() -> None:
    most = [Position(lane, 1, 1) for lane in range(SEGMENTS_MAX)]
    full = SIGNER.seal(TENANT, most)
    assert len(full) == TOKEN_BYTES_MAX <= 8192  # The bound in the schema.
    assert len(SIGNER.open(full, TENANT)) == SEGMENTS_MAX
    with pytest.raises(MalformedTokenError, match="too many"):
        merge(full, SIGNER.seal(TENANT, [Position(SEGMENTS_MAX, 1, 1)]))


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (2**15, 0, 0), (0, 2**63, 0), (0, 0, 2**63)])
def test_positions_that_the_database_cannot_hold_do_not_exist(
    numbers: tuple[int, int, int],
) -> None:
    with pytest.raises(MalformedTokenError):
        Position(*numbers)


def test_keys_rotate_without_a_break() -> None:
    position = Position(3, 4, 5)
    old = TokenSigner({1: KEYS[1]}, active=1)
    both = TokenSigner(KEYS, active=7)
    new = TokenSigner({7: KEYS[7]}, active=7)
    assert both.open(old.seal(TENANT, [position]), TENANT) == (position,)
    assert new.open(both.seal(TENANT, [position]), TENANT) == (position,)
    with pytest.raises(ServiceError, match="TOKEN_TAMPERED"):  # The old key is retired.
        new.open(old.seal(TENANT, [position]), TENANT)


@pytest.mark.parametrize(
    ("keys", "active"),
    [
        ({}, 1),
        ({1: b"k" * 16}, 2),
        ({1: b"short"}, 1),
        ({0: b"k" * 16}, 0),
        ({256: b"k" * 16}, 256),
    ],
)
def test_unusable_keys_are_refused(keys: dict[int, bytes], active: int) -> None:
    with pytest.raises(ValueError, match="key"):
        TokenSigner(keys, active)


def test_a_signer_has_the_configured_keys() -> None:
    config = TokenConfig.model_validate(
        {"keys": {"7": "cXFxcXFxcXFxcXFxcXFxcQ=="}, "active_key": 7}
    )
    position = Position(0, 1, 1)
    token = TokenSigner.from_config(config).seal(TENANT, [position])
    assert TokenSigner({7: b"q" * 16}, 7).open(token, TENANT) == (position,)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_a_page_token_opens_for_its_tenant_and_query_alone(query: bytes, cursor: bytes) -> None:
    token = SIGNER.seal_page(TENANT, query, cursor)
    assert SIGNER.open_page(token, TENANT, query) == cursor
    for tenant_id, other in ((6, query), (TENANT, query + b"x")):
        with pytest.raises(ServiceError, match="PAGE_TOKEN_INVALID") as raised:
            SIGNER.open_page(token, tenant_id, other)
        assert raised.value.field == "page_token"


@given(st.binary(max_size=16), st.data())
def test_a_changed_page_token_is_refused(cursor: bytes, data: st.DataObject) -> None:
    token = SIGNER.seal_page(TENANT, b"q", cursor)
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.sampled_from("AQgwz059-_ =/é"))
    assume(token[at] != char)
    with pytest.raises(ServiceError, match="PAGE_TOKEN_INVALID"):
        SIGNER.open_page(token[:at] + char + token[at + 1 :], TENANT, b"q")


@pytest.mark.parametrize("token", ["abc", "A" * 2000, "AQEAAAAAAAAAAAAAAAA"])
def test_what_is_no_page_token_is_refused(token: str) -> None:
    with pytest.raises(ServiceError, match="PAGE_TOKEN_INVALID"):
        SIGNER.open_page(token, TENANT, b"q")


def test_the_first_page_has_the_empty_token() -> None:
    assert SIGNER.open_page("", TENANT, b"q") == b""


def test_query_and_cursor_cannot_trade_bytes() -> None:
    token = SIGNER.seal_page(TENANT, b"ab", b"c")
    with pytest.raises(ServiceError, match="PAGE_TOKEN_INVALID"):
        SIGNER.open_page(token, TENANT, b"a")
