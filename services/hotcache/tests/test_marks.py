"""What marks prove, against a lane's history written out in full."""

from dataclasses import dataclass
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from atlas.type.freshness import furthest
from atlas_common.token import Position
from atlas_hotcache.marks import (
    NO_CLAIMS,
    CacheState,
    Claims,
    Move,
    common,
    follows,
    is_between,
    lost,
    moves_over,
    reached,
)

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


def at(sequence: int, lane: int = 0) -> Position:
    return Position(lane, 1, sequence)


def test_a_mark_moves_over_flushes_that_are_all_known() -> None:
    marks, positions = {0: at(2), 1: at(9, lane=1)}, {0: at(4), 1: at(9, lane=1)}
    assert moves_over(marks, positions, NO_CLAIMS, {(0, 3), (0, 4)}) == ([Move(at(4), at(2))], None)
    for known in ({(0, 4)}, {(0, 3)}, set[tuple[int, int]]()):
        assert moves_over(marks, positions, NO_CLAIMS, known) == ([], at(4))


def test_a_lane_without_a_mark_begins_at_its_first_flush() -> None:
    assert moves_over({}, {0: at(2)}, NO_CLAIMS, {(0, 1), (0, 2)}) == ([Move(at(2), None)], None)
    assert moves_over({}, {0: at(2)}, NO_CLAIMS, {(0, 2)}) == ([], at(2))


def test_a_lane_that_cannot_be_made_up_for_keeps_no_other() -> None:
    positions = {0: at(2), 1: at(2, lane=1)}
    moves, unknown = moves_over({}, positions, NO_CLAIMS, {(0, 1), (0, 2)})
    assert (moves, unknown) == ([Move(at(2), None)], at(2, lane=1))


def test_a_mark_of_an_epoch_that_was_lost_does_not_move() -> None:
    positions = {0: Position(0, 20, 4)}
    known = {(0, 3), (0, 4)}
    kept = Claims({0: {1: 1, 20: 3}})
    assert moves_over({0: at(2)}, positions, kept, known) == ([Move(positions[0], at(2))], None)
    lost_ = Claims({0: {1: 1, 20: 2}})
    assert moves_over({0: at(2)}, positions, lost_, known) == ([], positions[0])
    # Ahead of the primary: nothing to move over, and nothing to believe.
    assert moves_over({0: at(9)}, positions, kept, known) == ([], positions[0])


def test_what_lies_between() -> None:
    moves = [Move(at(4), at(2)), Move(at(1, lane=1), None)]
    between = [at(n) for n in range(6) if is_between(at(n), moves)]
    assert between == [at(3), at(4)]
    assert is_between(at(1, lane=1), moves)
    assert not is_between(at(2, lane=1), moves)


def test_an_answer_of_parts_shows_the_furthest_and_holds_what_is_common() -> None:
    marks = {1: Position(1, 10, 5), 2: Position(2, 10, 7), 3: Position(3, 10, 9)}
    seen = {1: Position(1, 10, 6)}
    read = {1: Position(1, 10, 4), 2: Position(2, 20, 8), 4: Position(4, 10, 1)}
    assert set(furthest(chain(*(part.values() for part in (marks, seen, read))))) == {
        Position(1, 10, 6),
        Position(2, 20, 8),
        Position(3, 10, 9),
        Position(4, 10, 1),
    }
    # Lane 2 is known by two epochs, lanes 3 and 4 by one part only.
    assert common([marks, read]) == (Position(1, 10, 4),)
    assert set(common([marks])) == set(marks.values())
    assert furthest([]) == common([]) == ()
