"""Waiting for a condition, always with a deadline, never with a blind sleep."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from atlas_devstack.errors import CancelledError, DevstackError

POLL_INTERVAL_SECONDS = 0.03


@dataclass(frozen=True)
class Patience:
    """How long to wait, and who may interrupt the waiting.

    One `cancelled` event serves a whole stack: a signal handler sets it, and every wait in every
    thread of the start ends, so that Ctrl-C during a start stops what is already up.
    """

    timeout_seconds: float = 30.0
    cancelled: threading.Event = field(default_factory=threading.Event)


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    patience: Patience,
    failure: Callable[[], str | None] = lambda: None,
) -> None:
    """Return once `condition()` holds.

    `failure` gives the reason why waiting longer is pointless (a dead process), or None.
    Raises DevstackError at the deadline or on failure, CancelledError when interrupted.
    """
    deadline = time.monotonic() + patience.timeout_seconds
    while not condition():
        reason = failure()
        if reason is not None:
            raise DevstackError(f"{what}: {reason}")
        if time.monotonic() > deadline:
            raise DevstackError(f"{what}: not within {patience.timeout_seconds:.0f} s")
        if patience.cancelled.wait(POLL_INTERVAL_SECONDS):
            raise CancelledError(f"{what}: interrupted")
