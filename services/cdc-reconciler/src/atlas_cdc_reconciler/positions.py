"""Reached, pending or lost: where a copy stands to a position. Pure.

The same rule as the database's position_state(), for a copy that has the two tables it reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from atlas_common.token import Position


class PositionState(Enum):
    """Whether a copy holds a flush."""

    REACHED = "reached"
    PENDING = "pending"
    """Not here yet."""
    LOST = "lost"
    """It will never be: a failover lost it, or the flush never happened."""


@dataclass(frozen=True)
class LaneProgress:
    """How far all lanes are, as one snapshot of a copy shows it."""

    flushed: Mapping[int, Position] = field(default_factory=dict)
    """By lane: its newest flush."""
    claims: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """By lane: (epoch, first sequence under it) of every claim, in order of epochs."""

    @classmethod
    def of(
        cls, flushed: Iterable[tuple[int, int, int]], claims: Iterable[tuple[int, int, int]]
    ) -> "LaneProgress":
        """From rows (lane, epoch, sequence) and (lane, epoch, first_sequence)."""
        by_lane: dict[int, list[tuple[int, int]]] = {}
        for lane, epoch, first_sequence in claims:
            by_lane.setdefault(lane, []).append((epoch, first_sequence))
        return cls(
            {lane: Position(lane, epoch, sequence) for lane, epoch, sequence in flushed},
            {lane: tuple(sorted(epochs)) for lane, epochs in by_lane.items()},
        )

    def state(self, position: Position) -> PositionState:
        """Where this copy stands to the position."""
        flushed = self.flushed.get(position.lane)
        if (
            flushed is not None
            and flushed.epoch == position.epoch
            and flushed.sequence >= position.sequence
        ):
            return PositionState.REACHED
        for epoch, first_sequence in self.claims.get(position.lane, ()):
            if epoch > position.epoch:
                # The next owner went on behind what the position's owner had flushed.
                reached = first_sequence > position.sequence
                return PositionState.REACHED if reached else PositionState.LOST
        return PositionState.PENDING

    def worst(self, positions: Iterable[Position]) -> tuple[PositionState, Position | None]:
        """LOST if any is lost, else PENDING if any is pending, with the position at fault."""
        pending: Position | None = None
        for position in positions:
            state = self.state(position)
            if state is PositionState.LOST:
                return state, position
            if state is PositionState.PENDING and pending is None:
                pending = position
        return (PositionState.PENDING if pending else PositionState.REACHED), pending
