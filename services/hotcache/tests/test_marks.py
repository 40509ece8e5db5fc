"""What marks prove, against a lane's history written out in full."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from atlas_common.token import Position
from atlas_hotcache.marks import CacheState, Claims, follows, lost, reached

LANE = 3


@dataclass(frozen=True)
class History:
    """A lane's life: every flush there ever was, and which of them the primary still has."""

    flushes: tuple[Position, ...]
    kept: frozenset[Position]
    claims: dict[int, int]
    end: Position

    def includes(self, mark: Position, wanted: Position) -> bool:
        """Whether a cache that applied all up to `mark` in its epoch's history has `wanted`."""
        return wanted in self.ancestors(mark)

    def ancestors(self, mark: Position) -> set[Position]:
        """The flushes on the way to `mark`: of each sequence the one its epoch built on."""
        found: dict[int, Position] = {}
        for flush in self.flushes:
            if flush.epoch <= mark.epoch and flush.sequence <= mark.sequence:
                for later in [one for one in found if one >= flush.sequence]:
                    del found[later]
                found[flush.sequence] = flush
        return set(found.values())


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Flushes, claims and crashes in some order; epochs 10, 20, ..."""
    epoch, sequence = 10, 0
    claims = {10: 1}
    flushes: list[Position] = []
    kept: list[Position] = []
    for step in draw(st.lists(st.sampled_from(["flush", "flush", "claim", "crash"]), max_size=12)):
        if step == "flush":
            sequence += 1
            flushes.append(Position(LANE, epoch, sequence))
            kept.append(flushes[-1])
            continue
        if step == "crash" and kept and kept[-1].epoch == epoch:
            kept.pop()  # Async commit: the newest is gone.
            sequence -= 1
        epoch += 10
        claims[epoch] = sequence + 1
    return History(tuple(flushes), frozenset(kept), claims, Position(LANE, epoch, sequence))


def claims_of(history: History) -> Claims:
    return Claims({LANE: history.claims})


def state(mark: Position, seen: Position | None = None) -> CacheState:
    return CacheState("g", "r", "s", {LANE: mark}, {} if seen is None else {LANE: seen})


@given(histories(), st.data())
def test_reached_never_claims_what_was_not_on_the_way(
    history: History, data: st.DataObject
) -> None:
    if not history.flushes:
        return
    mark, wanted = (data.draw(st.sampled_from(history.flushes)) for _ in range(2))
    if reached({LANE: mark}, wanted, claims_of(history)):
        assert history.includes(mark, wanted)


@given(histories(), st.data())
def test_what_the_primary_kept_is_reached_by_where_it_is(
    history: History, data: st.DataObject
) -> None:
    if not history.kept:
        return
    wanted = data.draw(st.sampled_from(sorted(history.kept)))
    assert reached({LANE: history.end}, wanted, claims_of(history))


@given(histories(), st.data())
def test_lost_says_exactly_what_the_primary_does_not_have(
    history: History, data: st.DataObject
) -> None:
    if not history.flushes:
        return
    held = data.draw(st.sampled_from(history.flushes))
    found = lost(state(held), {LANE: history.end}, claims_of(history))
    if held in history.kept:
        assert found is None
    else:
        assert found == held
    # The same for what entries reflect ahead of a mark.
    beginning = state(Position(LANE, 10, 0), seen=held)
    assert (lost(beginning, {LANE: history.end}, claims_of(history)) == held) == (
        held not in history.kept
    )


def test_a_lane_without_a_mark_is_at_its_beginning() -> None:
    claims = Claims({LANE: {10: 1}})
    assert reached({}, Position(LANE, 10, 0), claims)
    assert not reached({}, Position(LANE, 10, 1), claims)


def test_unknown_claims_prove_nothing() -> None:
    assert not reached({LANE: Position(LANE, 20, 9)}, Position(LANE, 10, 1), Claims({}))
    # The claim after 10 is not known to be 20's: one between may have fallen back.
    truncated = Claims({LANE: {20: 5}})
    assert not reached({LANE: Position(LANE, 20, 9)}, Position(LANE, 10, 1), truncated)


def test_a_new_owner_follows_only_right_behind_the_mark() -> None:
    claims = Claims({LANE: {10: 1, 20: 5}})
    mark = Position(LANE, 10, 4)
    assert follows(state(mark), Position(LANE, 20, 5), claims)
    assert not follows(state(mark), Position(LANE, 20, 6), claims)
    assert not follows(state(Position(LANE, 10, 3)), Position(LANE, 20, 5), claims)
    assert not follows(state(Position(LANE, 10, 5)), Position(LANE, 20, 6), claims)  # Lost.
    # An entry reflects (10, 5), which the claim at 5 says never was.
    assert not follows(state(mark, seen=Position(LANE, 10, 5)), Position(LANE, 20, 5), claims)
    assert follows(state(mark, seen=Position(LANE, 20, 5)), Position(LANE, 20, 5), claims)


def test_a_primary_that_does_not_know_the_lane_lost_it() -> None:
    mark = Position(LANE, 10, 2)
    assert lost(state(mark), {}, Claims({})) == mark
    assert lost(state(Position(LANE, 10, 0)), {}, Claims({})) is None
