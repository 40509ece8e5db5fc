"""Watchers are told what became the newest, once and in order, and never keep too much."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.type.freshness import Position
from atlas_common.errors import ServiceError, unavailable
from atlas_common.tenant import Tenant
from atlas_common.token import TokenSigner
from atlas_query.config import WatchConfig
from atlas_query.consistency import Level, Source
from atlas_query.proof import Proof
from atlas_query.router import Answer
from atlas_query.standings import Standings
from atlas_query.watch import resume
from atlas_query.watch.board import Board, TenantBoard
from atlas_query.watch.change import NOTHING, Change, Pair, Rank, news
from atlas_query.watch.looker import Looker
from atlas_query.watch.watcher import Batch, Moment, Room, Watcher

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")
ROOM = Room(changes_max=5, bytes_max=100_000)


def change(pair: Pair, event: int, stamp: int, place: int = 1, text: str = "x") -> Change:
    return Change(pair, Rank(event, stamp, 0, place), 0, (None, None, None, None, text))


def watcher(*pairs: Pair, tenant: Tenant = ACME, room: Room = ROOM) -> Watcher:
    return Watcher(tenant, frozenset(pairs), room)


def moment(sequence: int) -> Moment:
    return Moment((Position(0, 1, sequence),))


async def taken(of: Watcher) -> Batch:
    async with asyncio.timeout(5):
        return await of.take(0.01)


def test_a_late_point_is_no_change_and_a_tie_goes_to_the_later_arrival() -> None:
    known: dict[Pair, Rank] = {(1, 1): Rank(10, 1, 0, 1)}
    late, tie, newer = (
        change((1, 1), 9, 5),
        change((1, 1), 10, 6),
        change((1, 1), 11, 4),
    )
    assert news([late, tie], known) == [tie]
    assert news([newer], known) == [newer]
    assert news([late, tie, newer], known) == []


def test_what_was_late_on_its_arrival_is_not_told_although_both_came_at_once() -> None:
    first, late = change((1, 1), 30, 1), change((1, 1), 20, 2)
    assert news([late, first], {}) == [first]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 3), st.integers(0, 50)),
        unique_by=lambda row: row[1:],
        max_size=40,
    ),
    st.lists(st.integers(0, 5), max_size=40),
)
def test_however_commits_are_split_into_looks_the_last_told_is_the_latest(
    rows: list[tuple[int, int, int, int]], looks: list[int]
) -> None:
    points = [change((1, attribute), *rank) for attribute, *rank in rows]  # type: ignore[arg-type]
    known: dict[Pair, Rank] = {}
    told: list[Change] = []
    rest = list(points)
    for size in [*looks, len(rest)]:
        told += news(rest[:size], known)
        rest = rest[size:]
    for pair in {point.pair for point in points}:
        ranks = [each.rank for each in told if each.pair == pair]
        assert ranks == sorted(ranks)
        assert ranks[-1] == max(point.rank for point in points if point.pair == pair)


async def test_each_watcher_is_told_its_own_attributes_and_every_moment() -> None:
    board = TenantBoard()
    one, both = watcher((1, 1)), watcher((1, 1), (1, 2))
    for each in (one, both):
        board.add(each, {})
        each.begin([], moment(1), is_snapshot=True)
        await taken(each)
    board.tell([change((1, 1), 1, 1), change((1, 2), 1, 1, 2)], moment(2))
    assert [c.pair for c in (await taken(one)).changes] == [(1, 1)]
    assert [c.pair for c in (await taken(both)).changes] == [(1, 1), (1, 2)]
    board.tell([change((1, 2), 2, 2)], moment(3))
    batch = await taken(one)
    assert (batch.changes, batch.moment) == ([], moment(3))


async def test_a_slow_reader_gets_the_latest_of_each_and_is_told_how_much_is_missing() -> None:
    slow = watcher((1, 1), (1, 2))
    slow.begin([], moment(1), is_snapshot=False)
    await taken(slow)
    for number in range(1, 101):
        slow.offer([change((1, 1 + number % 2), number, number)], moment(number))
        assert slow.pending_count <= ROOM.changes_max
    batch = await taken(slow)
    assert batch.left_out + len(batch.changes) == 100
    assert [c.rank.event_us for c in batch.changes][-2:] == [99, 100]
    assert batch.moment == moment(100)
    assert (await taken(slow)).changes == []


async def test_a_reader_too_slow_for_the_bytes_is_ended_and_what_waits_let_go() -> None:
    slow = watcher((1, 1), (1, 2), room=Room(10, 1_000))
    slow.begin([], moment(1), is_snapshot=False)
    slow.offer([change((1, 1), 1, 1, text="x" * 2_000)], moment(2))
    assert slow.pending_count == 0
    with pytest.raises(ServiceError) as raised:
        await taken(slow)
    assert raised.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_snapshot_has_room_of_its_own() -> None:
    one = watcher((1, 1), room=Room(10, 1_000))
    one.begin([change((1, 1), 1, 1, text="x" * 50_000)], moment(1), is_snapshot=True)
    one.offer([change((1, 1), 2, 2)], moment(2))
    batch = await taken(one)
    assert batch.is_snapshot
    assert len(batch.changes) == 2


async def test_a_watcher_waits_for_its_first_look_and_ends_when_stopped() -> None:
    one = watcher((1, 1))
    taking = asyncio.ensure_future(one.take(0.001))
    await asyncio.sleep(0.01)
    assert not taking.done()
    one.stop(unavailable("DEPENDENCY_UNAVAILABLE", "stopping"))
    with pytest.raises(ServiceError, match="stopping"):
        await taking


def test_the_board_forgets_who_has_gone_and_keeps_tenants_apart() -> None:
    board = Board()
    acme, other, globex = watcher((1, 1)), watcher((1, 1)), watcher((1, 1), tenant=GLOBEX)
    board.joining += [acme, other, globex]
    assert board.pair_count == 3
    for each in (acme, other, globex):
        board.joined(each, {})
    assert board.pair_count == 2
    assert sorted(board.tenant_ids(())) == [1, 2]
    board.left(acme)
    assert board.pair_count == 2
    board.left(other)
    board.left(globex)
    assert board.is_empty
    assert board.pair_count == 0


def test_who_left_during_the_first_look_does_not_join() -> None:
    board = Board()
    acme = watcher((1, 1))
    board.joining.append(acme)
    board.left(acme)
    board.joined(acme, {})
    assert board.is_empty


class OneView:
    """Stands in for the router: counts the views that are asked for, and shows nothing in them."""

    def __init__(self) -> None:
        self.views = 0

    async def execute_query(self, *asked: Any) -> Answer[None]:
        self.views += 1
        proof = Proof(Source.REPLICA, "r1", Level.EVENTUAL, 0.0, None, (Position(0, 1, 9),), "")
        return Answer(None, proof)


async def test_one_look_is_one_view_however_many_watch_of_however_many_tenants() -> None:
    board, router = Board(), OneView()
    watchers = [watcher((entity, 1)) for entity in range(50)]
    watchers += [watcher((1, 1), tenant=GLOBEX) for _ in range(50)]
    for each in watchers:
        board.joining.append(each)
        each.begin([], moment(1), is_snapshot=True)
        board.joined(each, {})
        await taken(each)
    looker = Looker(router, Standings(), board, WatchConfig())  # type: ignore[arg-type]
    await looker.look()
    assert router.views == 1
    assert {each.moment.positions for each in watchers} == {(Position(0, 1, 9),)}


def test_nothing_is_outranked_by_anything() -> None:
    assert Rank(-(2**62), 0, 0, 1) > NOTHING


SIGNER = TokenSigner({1: b"0123456789abcdef"}, 1)


def test_a_resume_token_is_bound_to_its_tenant_and_its_positions() -> None:
    positions, floor = (Position(0, 1, 7), Position(3, 1, 9)), datetime(2026, 3, 1, tzinfo=UTC)
    token = resume.seal(SIGNER, 1, positions, floor)
    opened = resume.open_token(SIGNER, 1, token)
    assert opened is not None
    assert (opened.positions, opened.floor) == (positions, floor)
    other = resume.seal(SIGNER, 1, (Position(0, 1, 8), Position(3, 1, 9)), floor)
    mixed = token[: -len(opened.token)] + other[-len(opened.token) :]
    for bad, tenant_id, reason in (
        (token, 2, "TOKEN_WRONG_TENANT"),
        (mixed, 1, "TOKEN_TAMPERED"),
        (token[:3] + bytes([token[3] ^ 1]) + token[4:], 1, "TOKEN_TAMPERED"),
        (token[:2], 1, "TOKEN_MALFORMED"),
        (b"\x02\xff\xff", 1, "TOKEN_MALFORMED"),
        (b"abc", 1, "TOKEN_MALFORMED"),
    ):
        with pytest.raises(ServiceError) as raised:
            resume.open_token(SIGNER, tenant_id, bad)
        assert raised.value.reason == reason


def test_a_freshness_token_alone_tells_no_floor() -> None:
    token = SIGNER.seal(1, [Position(0, 1, 7)])
    opened = resume.open_token(SIGNER, 1, token)
    assert opened == resume.Resumption((Position(0, 1, 7),), token, None)
    assert resume.open_token(SIGNER, 1, b"") is None
