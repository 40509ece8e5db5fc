"""Where the primary has been: which positions it held when, and what was sure to be in them. Pure.

Positions name flushes by number, rows carry the time at which their flush was stamped
(`ingested_at`). Two questions need a bridge between both. "When was this position there?" gives an
estimate of when a copy will hold it. "From which stamp on can rows be missing in a view that holds
these positions?" bounds what has to be looked through to find what came after: the *floor*.

A flush takes the flush lock, then reads its clock, and holds the lock until after its commit. So a
standing is taken in this order, and in no other:

    1. the clock            c
    2. who holds the lock   F, from pg_locks, which shows the present and not a snapshot
    3. positions            P, in a snapshot that is taken now

A flush that P lacks either was in F, or took the lock after 2 and was stamped at c or later: had it
ended before 2, its commit, which comes before it lets go of the lock, would be in P. One in F was
not in F the time before, or it has been followed since then: it took the lock after that earlier
look at the locks, and was stamped at that look's c or later. The floor is the least of these
bounds: every flush stamped before it is in P, and so in every view that holds P.

With 3 before 2 it fails: snapshot taken, a flush commits and lets go, locks looked at. The flush is
neither in P nor in F, and its stamp is before c.

All this trusts the primary's clock not to go back. When it is seen to have done so, everything is
forgotten and begins anew, and floors of the span that is passed twice are not trusted any more
(`is_sure`). Steps shorter than the time between two looks cannot be seen: those who use a floor
allow for them.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from atlas.type.freshness import Position

STANDINGS_MAX = 3_000
"""Ten minutes, as the primary is asked five times a second."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Standing:
    """One look at the primary, in the order above."""

    clock: datetime
    in_flight: Collection[str]
    """The flushes that held the lock, by virtual transaction."""
    positions: tuple[Position, ...]


@dataclass(slots=True)
class _Entry:
    held: dict[int, Position]
    seen_at: datetime
    """When the primary was first seen to hold this."""
    floor: datetime | None
    """None: not known, since flushes of unknown age were under way."""


class Standings:
    """The last standings of the primary, oldest first."""

    def __init__(self, entries_max: int = STANDINGS_MAX) -> None:
        self._entries: list[_Entry] = []
        self._entries_max = entries_max
        self._flights: dict[str, datetime | None] = {}
        self._clock: datetime | None = None
        self._step: tuple[datetime, datetime] | None = None

    @property
    def is_known(self) -> bool:
        """Whether the primary has been looked at."""
        return self._clock is not None

    def observe(self, standing: Standing) -> None:
        """Learn from a look. Looks come in order."""
        if self._clock is not None and standing.clock < self._clock:
            self._step = (standing.clock, self._clock)
            self._forget()
        self._flights = {
            flight: self._flights.get(flight, self._clock) for flight in standing.in_flight
        }
        bounds = [*self._flights.values(), standing.clock]
        floor = None if None in bounds else min(bound for bound in bounds if bound is not None)
        self._clock = standing.clock
        self._add(_Entry(by_lane(standing.positions), standing.clock, floor))

    def begin_anew(self) -> None:
        """Another server is the primary: forget, and trust no floor of the former one's clock."""
        if self._clock is not None:
            self._step = (_LONG_AGO, self._clock)
        self._forget()

    def floor_of_view(self, positions: Iterable[Position]) -> datetime | None:
        """Every flush stamped before this is in any view that stands at these positions.

        None: not known. The view's positions are complete: a lane that is not there has no flush.
        """
        held = by_lane(positions)
        index = bisect_right(self._entries, 0, key=lambda entry: _is_beyond(entry.held, held))
        return self._floor_before(index)

    def floor_after(self, token: Sequence[Position]) -> datetime | None:
        """Every flush stamped before this was there before the token's positions were.

        None: older than what is remembered, or not known. A token need not name all lanes (that of
        a write names one): it stands for the moment at which the last of its positions was there.
        """
        index = self._first_with(token)
        if index < len(self._entries) and self._entries[index].held == by_lane(token):
            index += 1  # Exactly this view: what it holds is no news.
        return self._floor_before(index)

    def is_sure(self, floor: datetime) -> bool:
        """Whether a floor that was given out some time ago can be relied on."""
        if self._clock is None or floor > self._clock:
            return False  # A clock that has gone back has not passed it yet.
        return self._step is None or not self._step[0] <= floor <= self._step[1]

    def seen_at(self, positions: Sequence[Position]) -> datetime | None:
        """The primary held these positions at this moment of its clock, or before."""
        index = self._first_with(positions)
        return self._entries[index].seen_at if index < len(self._entries) else None

    def _first_with(self, positions: Sequence[Position]) -> int:
        return bisect_right(
            self._entries, 0, key=lambda entry: int(holds(entry.held.values(), positions))
        )

    def _floor_before(self, index: int) -> datetime | None:
        known = (entry.floor for entry in reversed(self._entries[:index]))
        return next((floor for floor in known if floor is not None), None)

    def _add(self, entry: _Entry) -> None:
        last = self._entries[-1] if self._entries else None
        if last is not None and last.held == entry.held:
            last.floor = entry.floor or last.floor
            return
        if last is not None and _is_beyond(last.held, entry.held):
            self._entries.clear()  # Another history: positions of the one before were lost.
        self._entries.append(entry)
        del self._entries[: -self._entries_max]

    def _forget(self) -> None:
        self._entries.clear()
        self._clock = None
        self._flights = {}


def by_lane(positions: Iterable[Position]) -> dict[int, Position]:
    """The same by lane."""
    return {position.lane: position for position in positions}


def holds(positions: Iterable[Position], wanted: Iterable[Position]) -> bool:
    """Whether lanes that stand here may hold all of these positions.

    Certainly not if False. If True and the epochs are the same, certainly; a later epoch may have
    lost the position, which only the database's position_state() can tell.
    """
    held = by_lane(positions)
    return all(
        position.lane in held
        and (held[position.lane].epoch, held[position.lane].sequence)
        >= (position.epoch, position.sequence)
        for position in wanted
    )


def _is_beyond(entry: Mapping[int, Position], held: Mapping[int, Position]) -> int:
    """1 if a lane of the entry is further than what is held of that lane."""
    return int(any(lane not in held or position > held[lane] for lane, position in entry.items()))
