"""Where a copy stands to a position: the rule of the database's position_state()."""

import pytest

from atlas_cdc_reconciler.positions import LaneProgress, PositionState
from atlas_common.token import Position

# Lane 0 was claimed three times: flushes 1-10, then 8-12 (a failover had lost 8-10), then 13-15.
PROGRESS = LaneProgress.of(
    flushed=[(0, 300, 15), (1, 50, 0)],
    claims=[(0, 300, 13), (0, 100, 1), (0, 200, 8), (1, 50, 1)],
)


@pytest.mark.parametrize(
    ("position", "state"),
    [
        (Position(0, 300, 15), PositionState.REACHED),
        (Position(0, 300, 16), PositionState.PENDING),
        (Position(0, 200, 12), PositionState.REACHED),
        (Position(0, 200, 13), PositionState.LOST),
        (Position(0, 100, 7), PositionState.REACHED),
        (Position(0, 100, 8), PositionState.LOST),
        (Position(0, 400, 1), PositionState.PENDING),
        (Position(1, 50, 0), PositionState.REACHED),
        (Position(1, 50, 1), PositionState.PENDING),
        (Position(9, 1, 1), PositionState.PENDING),
    ],
)
def test_state_of_a_position(position: Position, state: PositionState) -> None:
    assert PROGRESS.state(position) is state


def test_the_worst_position_decides() -> None:
    reached, pending, lost = Position(0, 300, 1), Position(1, 50, 5), Position(0, 100, 9)
    assert PROGRESS.worst([]) == (PositionState.REACHED, None)
    assert PROGRESS.worst([reached]) == (PositionState.REACHED, None)
    assert PROGRESS.worst([reached, pending]) == (PositionState.PENDING, pending)
    assert PROGRESS.worst([pending, lost]) == (PositionState.LOST, lost)
