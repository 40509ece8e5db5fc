"""The order of a stream's batches, by their numbers."""

from typing import Protocol

from atlas_common import errors


class Sequences(Protocol):
    """Judges the numbers one after the other."""

    def is_new(self, sequence: int) -> bool:
        """False: the batch was taken before. Raises ServiceError: the stream cannot go on."""
        ...


class ProducerSequences:
    """Of a producer: each follows the one before, over all its streams."""

    def __init__(self, producer_id: str, position: int) -> None:
        self._producer_id = producer_id
        self._last = position

    def is_new(self, sequence: int) -> bool:
        """Raises ServiceError INVALID_ARGUMENT, FAILED_PRECONDITION / SEQUENCE_GAP."""
        if sequence < 1:
            raise _invalid(sequence, "a producer's first batch is 1")
        if sequence <= self._last:
            return False
        expected = self._last + 1
        if sequence != expected:
            raise errors.failed_precondition(
                "SEQUENCE_GAP",
                f"sequence {sequence} of producer {self._producer_id!r} does not follow its last"
                f" one: send {expected} next",
                field="batch.sequence",
                sequence=sequence,
                expected=expected,
            )
        self._last = sequence
        return True


class RisingSequences:
    """Of nobody: any numbers that rise."""

    def __init__(self) -> None:
        self._last: int | None = None

    def is_new(self, sequence: int) -> bool:
        """Always true. Raises ServiceError INVALID_ARGUMENT."""
        if self._last is not None and sequence <= self._last:
            raise _invalid(sequence, f"give one above {self._last}, or a producer_id")
        self._last = sequence
        return True


def _invalid(sequence: int, way_out: str) -> errors.ServiceError:
    return errors.invalid_argument(
        "INVALID_FIELD", f"batch.sequence is {sequence}: {way_out}", field="batch.sequence"
    )
