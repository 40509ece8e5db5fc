"""What became of an Arrow stream's messages, added up. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from atlas_common.token import Position
from atlas_ingest.points import ERRORS_REPORTED_MAX, Answer, PointError, Rejections


@dataclass(slots=True)
class Totals:
    """All messages that were answered, duplicates among them."""

    messages: int = 0
    accepted: int = 0
    rejections: Rejections = field(default_factory=Rejections)
    duplicate_messages: int = 0
    positions: dict[int, Position] = field(default_factory=dict)
    """By lane the greatest, which holds all the others."""

    def add(
        self, answer: Answer, first_row: int, position: Position | None, *, duplicate: bool
    ) -> None:
        """Count a message whose rows begin with `first_row` of the stream."""
        self.messages += 1
        self.accepted += answer.accepted_count
        self.duplicate_messages += duplicate
        self.rejections.count += answer.rejected_count
        room = ERRORS_REPORTED_MAX - len(self.rejections.errors)
        self.rejections.errors += in_stream(answer.errors[:room], first_row)
        if position is not None:
            known = self.positions.get(position.lane, position)
            self.positions[position.lane] = max(known, position, key=_age)


def in_stream(errors: Sequence[PointError], first_row: int) -> list[PointError]:
    """The errors of a message with their indexes counted from the beginning of the stream."""
    return [replace(error, index=error.index + first_row) for error in errors]


def _age(position: Position) -> tuple[int, int]:
    return position.epoch, position.sequence
