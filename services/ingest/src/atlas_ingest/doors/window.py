"""How much of a stream may be unacknowledged: the window, and the credit that tells of it."""

from dataclasses import dataclass

_EASY = 0.5  # Up to this fill of the budget streams have their whole window;
_TIGHT = 0.9  # from this on the least.
_STEPS = 8  # Between the two in steps: a credit is news only if it differs by much.
_LEAST_SHARE = 32
_LEAST_BATCHES = 2  # One is flushed while the other is on its way.
_LEAST_POINTS = 1_000


@dataclass(frozen=True, slots=True)
class Credit:
    """So many batches, and points in them, may be unacknowledged."""

    batches: int
    points: int


class Window:
    """What is unacknowledged, and the credit. One batch always fits when there is no other."""

    def __init__(self, full: Credit) -> None:
        self._full = full
        self._least = Credit(
            min(full.batches, max(_LEAST_BATCHES, full.batches // _LEAST_SHARE)),
            min(full.points, max(_LEAST_POINTS, full.points // _LEAST_SHARE)),
        )
        self.credit = full
        self.batches = 0
        self.points = 0

    @property
    def is_full(self) -> bool:
        """Whether no batch fits, however small."""
        return not self.fits(0)

    def fits(self, points: int) -> bool:
        """Whether a batch of so many points may be taken on."""
        return not self.batches or (
            self.batches < self.credit.batches and self.points + points <= self.credit.points
        )

    def add(self, points: int) -> None:
        """A batch is taken on."""
        self.batches += 1
        self.points += points

    def remove(self, points: int) -> None:
        """A batch is acknowledged."""
        self.batches -= 1
        self.points -= points

    def grant(self, fill: float) -> bool:
        """Set the credit by the fill of the process's memory, 0 to 1; whether it has changed.

        It shrinks at once. It grows to twice of what it was at most: all streams see the same fill
        and would otherwise fill the memory again together.
        """
        wanted = self._wanted(fill)
        held = self.credit
        self.credit = Credit(
            min(wanted.batches, held.batches * 2), min(wanted.points, held.points * 2)
        )
        return self.credit != held

    def shrink(self, fill: float) -> bool:
        """As grant(), between acknowledgements: only downwards."""
        wanted = self._wanted(fill)
        if wanted.points >= self.credit.points and wanted.batches >= self.credit.batches:
            return False
        return self.grant(fill)

    def _wanted(self, fill: float) -> Credit:
        step = round(_STEPS * min(1.0, max(0.0, (fill - _EASY) / (_TIGHT - _EASY))))
        return Credit(
            _between(self._full.batches, self._least.batches, step),
            _between(self._full.points, self._least.points, step),
        )


def _between(full: int, least: int, step: int) -> int:
    return full - (full - least) * step // _STEPS
