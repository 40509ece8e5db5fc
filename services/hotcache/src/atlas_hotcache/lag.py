"""How stale the cache may be: the age of the newest poll that the marks reach. Pure.

The primary is polled. A poll says how far each lane was at a moment of the primary's clock. Once
the marks reach all of that, the cache reflects everything that was committed before that moment. So
the age of the newest such poll bounds the staleness; while the primary cannot be asked, it grows.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from atlas_common.token import Position
from atlas_hotcache.marks import NO_CLAIMS, Claims, Marks, first_unreached

_POLLS_MAX = 256


@dataclass(frozen=True, slots=True)
class PrimaryView:
    """One look at the primary.

    `sent`: this process's monotonic seconds just before the question; `as_of_us`: the primary's
    clock just before the snapshot, microseconds since the epoch; `source`: see CacheState.
    """

    sent: float
    as_of_us: int
    source: str
    positions: Mapping[int, Position]
    claims: Claims


@dataclass(frozen=True, slots=True)
class _Poll:
    first_sent: float  # When these positions were seen first.
    view: PrimaryView  # Where they were seen last.


@dataclass(frozen=True, slots=True)
class Proof:
    """The cache reflects all that was committed before `as_of_us`, `lag_seconds` ago at most."""

    lag_seconds: float
    as_of_us: int


NO_PROOF = Proof(math.inf, 0)


class PollHistory:
    """The latest looks at one primary's history, oldest first; bounded."""

    def __init__(self) -> None:
        self._polls: deque[_Poll] = deque(maxlen=_POLLS_MAX)

    @property
    def source(self) -> str | None:
        """The history that was looked at; None before the first look."""
        return self._polls[-1].view.source if self._polls else None

    @property
    def positions(self) -> Mapping[int, Position]:
        """Where the lanes were last."""
        return self._polls[-1].view.positions if self._polls else {}

    @property
    def claims(self) -> Claims:
        """The claims as they were known last: they only grow, so they serve older polls too."""
        return self._polls[-1].view.claims if self._polls else NO_CLAIMS

    def observe(self, view: PrimaryView) -> None:
        """Learn from a look. Looks at another history are worth nothing any more."""
        if self.source not in {None, view.source}:
            self._polls.clear()
        if self._polls and view.sent < self._polls[-1].view.sent:
            return  # Overtaken by a later look.
        if self._polls and self._polls[-1].view.positions == view.positions:
            self._polls[-1] = replace(self._polls[-1], view=view)
        else:
            self._polls.append(_Poll(view.sent, view))

    def clear(self) -> None:
        """Forget all looks."""
        self._polls.clear()

    def proof(self, marks: Marks, now: float) -> Proof:
        """What the marks prove at `now` (monotonic seconds); NO_PROOF if they reach no poll."""
        for poll in reversed(self._polls):
            if first_unreached(marks, poll.view.positions, self.claims) is None:
                return Proof(max(0.0, now - poll.view.sent), poll.view.as_of_us)
        return NO_PROOF

    def overdue_seconds(self, marks: Marks, now: float) -> float:
        """For how long the oldest flush that the marks do not reach has been known; 0 if none."""
        since: float | None = None
        for poll in reversed(self._polls):
            if first_unreached(marks, poll.view.positions, self.claims) is None:
                break
            since = poll.first_sent
        return 0.0 if since is None else max(0.0, now - since)
