"""How far the cache has followed the primary, and what that proves. Pure.

A mark is the position up to which a lane's invalidations have been applied, without a gap. All
marks live in Valkey in one hash, with the generation of the entries they speak for. They prove:

    An entry of the generation reflects every flush at or before the marks read in the same moment.

Why it holds, for a flush F of a lane whose mark has passed F, and an entry E read with that mark:

- F was applied as an invalidation in this generation. Its tombstone was written before the mark. If
  E was there before, it was replaced, unless its version was F's or later: versions of a row rise
  in the order of its commits, so then E has seen F. If E came later, the fill was let in for one of
  two reasons. Either its snapshot's positions were at or beyond all marks: it has seen F. Or no
  newer tombstone was there: then F was not applied after the fill began (tombstones outlive fills,
  none was evicted meanwhile, and it is still the same server that counts both), so it was before,
  and F had committed before it was applied.
- F was at or before the positions a new generation began with. They were read from the primary
  before the generation came to be, and E's fill looked up the generation before it took its
  snapshot: primary's positions read, generation changed, fill looked it up, snapshot taken. A fill
  that began under the former generation still names it, and is refused.

Who tells of a flush does not matter. Ingest does, right after the commit; if it does not, the
primary's own record of the flush does (see watcher.py): the same tombstones before the same mark.

All of this is said of one history of the primary. A crash, or a failover, makes another one, which
lacks the newest commits (flushes commit asynchronously) and has a name of its own, the source. A
generation belongs to one source: fills of another are refused, and the first look at another ends
it. Nothing less will do. If a look vouched for entries without being of their history, an entry
could stay that was read just before the crash: not yet in the state that was compared with the
primary last, lost on the primary, and called fresh by the look after the crash.

A lane without a mark counts as being at sequence 0, where every lane begins: sequences are
continuous over epochs, so nothing of the lane has been flushed if that is where the primary is.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from atlas_common.token import Position

Marks = Mapping[int, Position]


@dataclass(frozen=True, slots=True)
class CacheState:
    """What Valkey holds beside the entries. Read in the same moment as the entries it is used for.

    `source` names the primary's history (system, timeline, last crash) and `run_id` the Valkey
    server that the marks were measured on. `seen`: positions ahead of their lane's mark that
    entries may reflect, because their snapshots had them.
    """

    generation: str
    run_id: str
    source: str
    marks: Marks
    seen: Marks


def common(parts: Iterable[Marks]) -> tuple[Position, ...]:
    """Of each lane the position that all parts hold; none of a lane that they know by two epochs.

    Sequences of two epochs do not tell which holds the other's.
    """
    first, *others = [*parts] or [{}]
    return tuple(
        min([position, *(other[lane] for other in others)])
        for lane, position in first.items()
        if all(lane in other and other[lane].epoch == position.epoch for other in others)
    )


class Claims:
    """The claims of lanes: tells whether a later epoch kept a position of an earlier one."""

    def __init__(self, first_sequences: Mapping[int, Mapping[int, int]]) -> None:
        """`first_sequences`: lane -> epoch -> the first sequence under it."""
        self._claims = {
            lane: tuple(sorted(epochs.items())) for lane, epochs in first_sequences.items()
        }

    def keep(self, position: Position) -> bool:
        """Whether the first claim after the position's own is known and begins after it.

        False also when the position's own claim is not known: then one between might be missing.
        """
        claims = self._claims.get(position.lane, ())
        if not any(epoch == position.epoch for epoch, _ in claims):
            return False
        later = [first for epoch, first in claims if epoch > position.epoch]
        return bool(later) and later[0] > position.sequence

    def lose(self, position: Position) -> bool:
        """Whether a later claim began at or before the position: a failover lost it."""
        later = [
            first for epoch, first in self._claims.get(position.lane, ()) if epoch > position.epoch
        ]
        return bool(later) and later[0] <= position.sequence


NO_CLAIMS = Claims({})


def reached(marks: Marks, position: Position, claims: Claims) -> bool:
    """Whether entries that go with these marks are proven to reflect the position."""
    mark = marks.get(position.lane)
    if mark is None:
        return position.sequence == 0
    if mark.sequence < position.sequence:
        return False
    if mark.epoch == position.epoch:
        return True
    # Sequences of different epochs compare only if no claim in between fell back.
    return claims.keep(min(mark, position))


def first_unreached(
    marks: Marks, positions: Mapping[int, Position], claims: Claims
) -> Position | None:
    """A position that the marks do not reach, or None when they reach all."""
    for position in positions.values():
        if not reached(marks, position, claims):
            return position
    return None


def lost(state: CacheState, positions: Mapping[int, Position], claims: Claims) -> Position | None:
    """A position that entries reflect and the primary does not have, or None.

    The state was read before the primary's positions, so on one history of the primary this cannot
    happen; and another history has another source. It is the second line: for a loss that leaves
    the source as it was, such as files restored under a server. `seen` is needed because flush 13
    may commit, be read by a fill and be lost, after which another flush 13 follows the mark 12
    without a gap: the entry would stay, of a flush that never happened.
    """
    for held in (*state.marks.values(), *state.seen.values()):
        position = positions.get(held.lane)
        if position is None:
            if held.sequence > 0:
                return held
        elif position.sequence < held.sequence or position.epoch < held.epoch or claims.lose(held):
            return held
    return None


@dataclass(frozen=True, slots=True)
class Move:
    """A lane's mark may move from `after` (None: there is no mark) to the position."""

    position: Position
    after: Position | None


def moves_over(
    marks: Marks,
    positions: Mapping[int, Position],
    claims: Claims,
    known: Collection[tuple[int, int]],
) -> tuple[list[Move], Position | None]:
    """How the marks get to the positions over flushes that are known, by lane and sequence.

    And a position that a mark does not get to, because a flush on the way is not known, or because
    the mark is not of the positions' history; None if all do.
    """
    moves: list[Move] = []
    unknown: Position | None = None
    for position in positions.values():
        if reached(marks, position, claims):
            continue
        mark = marks.get(position.lane)
        is_kept = mark is None or mark.epoch == position.epoch or claims.keep(mark)
        first = 1 if mark is None else mark.sequence + 1
        way = range(first, position.sequence + 1)
        if is_kept and way and all((position.lane, sequence) in known for sequence in way):
            moves.append(Move(position, mark))
        else:
            unknown = position
    return moves, unknown


def is_between(position: Position, moves: Iterable[Move]) -> bool:
    """Whether one of the moves passes the position or ends there."""
    return any(
        move.position.lane == position.lane
        and position.sequence <= move.position.sequence
        and (move.after is None or position.sequence > move.after.sequence)
        for move in moves
    )


class Outcome(StrEnum):
    """What an invalidation did to its lane's mark."""

    ADVANCED = "advanced"
    DUPLICATE = "duplicate"
    """The mark was there already; the call was repeated, or everything was forgotten meanwhile."""
    CLAIMED = "claimed"
    """A later epoch than the mark's: the primary must say whether anything lies between."""
    GAP = "gap"
    """An invalidation is missing."""
    EMPTY = "empty"
    """There is no generation, so there are no entries to invalidate."""


def follows(state: CacheState, position: Position, claims: Claims) -> bool:
    """Whether nothing lies between a lane's mark and a position of a later epoch, nor is lost."""
    mark = state.marks.get(position.lane)
    if mark is None or position.sequence != mark.sequence + 1 or not claims.keep(mark):
        return False
    seen = state.seen.get(position.lane)
    return seen is None or not claims.lose(seen)
