"""What a producer counts, and whom it tells of refused batches."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from atlas_client.producer.records import RefusedBatch

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """Counters since the producer began; see ProducerStats."""

    on_refused: Callable[[RefusedBatch], None] | None = None
    taken_points: int = 0
    accepted_points: int = 0
    refused_points: int = 0
    refused_batches: int = 0
    acknowledged_batches: int = 0
    duplicate_batches: int = 0
    recovered_batches: int = 0
    lost_batches: int = 0
    streams: int = 0
    last_error: str = ""

    def refuse(self, refused: RefusedBatch) -> None:
        """Count a batch with bad points, and tell the caller."""
        self.refused_batches += 1
        self.refused_points += refused.rejected_count
        if self.on_refused is None:
            _log.warning(
                "batch %d has %d refused points: %s",
                refused.sequence,
                refused.rejected_count,
                refused.message or (refused.errors[0].message if refused.errors else ""),
            )
            return
        try:
            self.on_refused(refused)
        except Exception:  # noqa: BLE001 - see below.
            # It is the caller's own code, called from our loop: its error must not stop delivery.
            _log.exception("on_refused failed on batch %d", refused.sequence)
