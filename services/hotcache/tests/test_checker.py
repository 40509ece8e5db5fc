"""Which answers no lag explains."""

import pytest

from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_hotcache.checker import Verdict, judge
from atlas_hotcache.entry import Entry
from atlas_hotcache.marks import NO_CLAIMS, CacheState
from atlas_hotcache.ports import Entity, HotRow, Lookup, PrimaryRead
from atlas_hotcache.sampler import Sampler

GENERATION = "0123456789abcdef"


def state(sequence: int, source: str = "s") -> CacheState:
    return CacheState(GENERATION, "run", source, {0: Position(0, 1, sequence)}, {})


def read(version: int, sequence: int) -> PrimaryRead:
    return PrimaryRead((HotRow(1, version, ()),), {0: Position(0, 1, sequence)}, "s", 0)


def verdict(version: int, at: CacheState, primary: PrimaryRead, *, holds: bool = True) -> Verdict:
    entry = Entry(GENERATION, version, b"")
    return judge(entry, at, primary, NO_CLAIMS, lambda _body, _row: holds)


def test_the_same_version_must_hold_the_same() -> None:
    assert verdict(5, state(1), read(5, 3)) is Verdict.CONSISTENT
    assert verdict(5, state(1), read(5, 3), holds=False) is Verdict.INCONSISTENT


def test_an_older_version_is_wrong_only_if_the_marks_reach_the_snapshot() -> None:
    assert verdict(4, state(2), read(5, 3)) is Verdict.LATER
    assert verdict(4, state(3), read(5, 3)) is Verdict.INCONSISTENT
    assert verdict(4, state(9), read(5, 3)) is Verdict.INCONSISTENT


def test_nothing_is_concluded_over_a_change_of_history() -> None:
    assert verdict(4, state(3, source="other"), read(5, 3)) is Verdict.UNDECIDED


def test_a_tombstone_or_another_generations_entry_is_no_answer() -> None:
    for entry in (Entry(GENERATION, 4, None), Entry("f" * 16, 4, b"")):
        judged = judge(entry, state(3), read(5, 3), NO_CLAIMS, lambda _body, _row: True)
        assert judged is Verdict.UNDECIDED


def hits(count: int) -> dict[int, Entity]:
    return {number: Entity(number, 1, b"", is_cached=True) for number in range(count)}


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 2), (1.0, 4)])
async def test_a_share_of_the_hits_is_sampled_and_no_more_than_there_is_room_for(
    share: float, expected: int
) -> None:
    sampler = Sampler(share)
    for _ in range(8):
        sampler.offer(Tenant(1, "acme"), Lookup(state(1), {}, 0), hits(1))
    assert sampler._samples.qsize() == expected


async def test_which_of_a_calls_hits_is_left_to_chance() -> None:
    sampler = Sampler(1.0, pick=lambda count: count - 1)
    sampler.offer(Tenant(1, "acme"), Lookup(state(1), {}, 0), hits(3))
    assert (await sampler.next()).entity.entity_id == 2
