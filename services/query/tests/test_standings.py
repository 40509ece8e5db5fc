"""The floor never hides a flush, whatever the order of clocks, locks and commits."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from atlas.type.freshness import Position
from atlas_query.standings import Standing, Standings, holds

T0 = datetime(2026, 3, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def pos(lane: int, sequence: int, epoch: int = 1) -> Position:
    return Position(lane, epoch, sequence)


def stand(
    standings: Standings, seconds: float, *positions: Position, flights: tuple[str, ...] = ()
) -> None:
    standings.observe(Standing(at(seconds), flights, positions))


def test_the_floor_of_a_view_is_the_clock_of_the_last_look_that_it_holds() -> None:
    standings = Standings()
    stand(standings, 1, pos(0, 1))
    stand(standings, 2, pos(0, 2))
    stand(standings, 3, pos(0, 2))
    stand(standings, 4, pos(0, 3))
    assert standings.floor_of_view([pos(0, 2)]) == at(3)
    assert standings.floor_of_view([pos(0, 9)]) == at(4)
    assert standings.floor_of_view([pos(0, 0)]) is None


def test_a_lane_that_a_view_lacks_has_no_flush_in_it() -> None:
    standings = Standings()
    stand(standings, 1, pos(0, 1))
    stand(standings, 2, pos(0, 1), pos(1, 1))
    assert standings.floor_of_view([pos(0, 1)]) == at(1)


def test_a_flush_under_way_holds_the_floor_down_until_it_ends() -> None:
    standings = Standings()
    stand(standings, 1, pos(0, 1))
    stand(standings, 2, pos(0, 1), flights=("3/7",))
    stand(standings, 3, pos(0, 2), flights=("3/7",))
    assert standings.floor_of_view([pos(0, 2)]) == at(1)
    stand(standings, 4, pos(0, 2), pos(1, 1))
    assert standings.floor_of_view([pos(0, 2), pos(1, 1)]) == at(4)


def test_flushes_of_unknown_age_leave_the_floor_unknown() -> None:
    standings = Standings()
    stand(standings, 1, pos(0, 1), flights=("3/7",))
    stand(standings, 2, pos(0, 1), flights=("3/7",))
    assert standings.floor_of_view([pos(0, 1)]) is None
    stand(standings, 3, pos(0, 1))
    assert standings.floor_of_view([pos(0, 1)]) == at(3)


def test_a_token_of_a_write_stands_for_the_moment_when_it_was_there() -> None:
    standings = Standings()
    stand(standings, 1, pos(0, 1), pos(1, 1))
    stand(standings, 2, pos(0, 2), pos(1, 1))
    stand(standings, 3, pos(0, 2), pos(1, 2))
    # Lane 1 went on at 3: a watcher with lane 0's token must be told of that.
    assert standings.floor_after([pos(0, 2)]) == at(1)
    # A token of a whole view is exact.
    assert standings.floor_after([pos(0, 2), pos(1, 1)]) == at(2)
    assert standings.floor_after([pos(0, 1)]) is None


def test_when_a_position_was_first_seen() -> None:
    standings = Standings()
    stand(standings, 1, pos(0, 1))
    stand(standings, 2, pos(0, 5))
    stand(standings, 3, pos(0, 5))
    assert standings.seen_at([pos(0, 3)]) == at(2)
    assert standings.seen_at([pos(0, 6)]) is None


def test_a_clock_that_goes_back_ends_all_that_is_known_and_its_span_is_not_trusted() -> None:
    standings = Standings()
    stand(standings, 100, pos(0, 1))
    assert standings.is_sure(at(90))
    stand(standings, 50, pos(0, 2))
    assert standings.floor_of_view([pos(0, 1)]) is None
    assert standings.is_sure(at(40))
    assert not standings.is_sure(at(90))
    stand(standings, 200, pos(0, 3))
    assert not standings.is_sure(at(90))
    assert standings.is_sure(at(150))


def test_a_loss_ends_all_that_is_known() -> None:
    standings = Standings()
    stand(standings, 1, pos(0, 9))
    stand(standings, 2, pos(0, 5))
    assert standings.floor_of_view([pos(0, 9)]) == at(2)
    assert standings.seen_at([pos(0, 6)]) is None


def test_memory_is_bounded() -> None:
    standings = Standings(entries_max=3)
    for number in range(10):
        stand(standings, number, pos(0, number))
    assert standings.floor_of_view([pos(0, 6)]) is None
    assert standings.floor_of_view([pos(0, 7)]) == at(7)


def test_what_holds_what() -> None:
    assert holds([pos(0, 2)], [pos(0, 2)])
    assert holds([pos(0, 1, epoch=2)], [pos(0, 9)])
    assert not holds([pos(0, 1)], [pos(0, 2)])
    assert not holds([pos(0, 1)], [pos(1, 1)])


@dataclass
class Flush:
    lane: int
    stamp: float = -1.0
    is_committed: bool = False


@dataclass
class Database:
    """A clock, a lock, and flushes that take it, stamp, commit and let go, step by step."""

    now: float = 0.0
    locked: dict[str, Flush] = field(default_factory=dict)
    committed: list[Flush] = field(default_factory=list)
    started: int = 0

    def step(self, lane: int, choice: int) -> None:
        self.now += 1
        mine = next((name for name, flush in self.locked.items() if flush.lane == lane), None)
        if mine is None:
            self.started += 1
            self.locked[f"{lane}/{self.started}"] = Flush(lane)
            return
        flush = self.locked[mine]
        if flush.stamp < 0:
            flush.stamp = self.now
        elif not flush.is_committed:
            flush.is_committed = True
            self.committed.append(flush)
        elif choice:
            del self.locked[mine]

    def positions(self) -> tuple[Position, ...]:
        counts = {lane: sum(f.lane == lane for f in self.committed) for lane in range(3)}
        return tuple(pos(lane, count) for lane, count in counts.items())


steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=4)


@given(looks=st.lists(st.tuples(steps, steps, steps), min_size=1, max_size=20))
def test_no_flush_stamped_before_the_floor_is_missing_from_a_view(
    looks: list[tuple[list[tuple[int, int]], ...]],
) -> None:
    database, standings = Database(), Standings()
    for before_clock, before_locks, before_snapshot in looks:
        for step in before_clock:
            database.step(*step)
        clock = at(database.now)
        for step in before_locks:
            database.step(*step)
        flights = tuple(database.locked)
        for step in before_snapshot:
            database.step(*step)
        standings.observe(Standing(clock, flights, database.positions()))
        view = list(database.committed)
        floor = standings.floor_of_view(database.positions())
        # Whatever is under way comes to light later: stamped at the floor or after.
        for flush in database.locked.values():
            if floor is not None and flush not in view and flush.stamp >= 0:
                assert at(flush.stamp) >= floor


def test_no_floor_of_a_former_primary_is_trusted() -> None:
    """Its clock was another: what the new one stamps may lie before it, however far on it is."""
    standings = Standings()
    stand(standings, 100, pos(0, 1))
    standings.begin_anew()
    assert not standings.is_known
    assert standings.floor_of_view([pos(0, 1)]) is None
    stand(standings, 130, pos(0, 2))
    assert not standings.is_sure(at(90))
    assert standings.is_sure(at(120))
