"""Which server is the primary, by what the servers say of themselves. Pure.

What one is configured as decides nothing but where to look. A server *claims* to be the primary if
it is not in recovery, on the timeline that it writes; each promotion begins a greater one.

1. The greatest timeline that was ever claimed wins, also while whoever claimed it is away: what is
   on a lower one is of a history that has ended, and STRONG reads fail rather than show it.
2. Of several on that timeline: the one that is the primary already, until it says that it is in
   recovery. A server that is away has not said so.
3. Of several, none of which is the primary already: nobody. Two replicas promoted apart from each
   other choose the same number, and no number tells which of them the writers went to.

Nobody is the primary before all servers were asked once: a process that starts beside a former
primary that has come back must not believe the first that answers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from atlas_query.policy import PRIMARY


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server says of itself."""

    system: int
    """Of the cluster: the same on a primary and all of its replicas."""
    timeline: int | None
    """That it writes; None: it is in recovery."""
    started_at: datetime
    """Tells one running server from another, whatever names lead to it."""


@dataclass(frozen=True, slots=True)
class History:
    """Where the platform's data come from; another one has other data."""

    primary: str
    system: int
    timeline: int


class Election:
    """Told what each server says, decides. Servers are told by their names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._said: dict[str, Identity] = {}
        self._unasked = set(names)
        self._refused: dict[str, str] = {}
        self._system: int | None = None
        self._timeline = 0
        self.primary: str | None = None
        """The elected server; it may be away."""
        self.why_none = "not all servers were asked yet"
        """Why there is none, for people."""

    @property
    def is_held(self) -> bool:
        """Whether all servers were asked."""
        return not self._unasked

    @property
    def timeline(self) -> int:
        """The greatest that was ever claimed; 0 before any."""
        return self._timeline

    @property
    def history(self) -> History | None:
        """Of the primary."""
        if self.primary is None or self._system is None:
            return None
        return History(self.primary, self._system, self._timeline)

    def saw(self, name: str, identity: Identity) -> None:
        """A server answered."""
        self._refused.pop(name, None)
        self._said[name] = identity
        self._asked(name)

    def missed(self, name: str) -> None:
        """A server did not answer."""
        self._asked(name)

    def refuse(self, name: str, why: str) -> None:
        """Do not use this server; until it is seen again, since what is wrong was mended then."""
        self._refused[name] = why
        self._asked(name)

    def leave(self, name: str) -> None:
        """A server is not ours any more. What it claimed stays claimed."""
        self._said.pop(name, None)
        self._refused.pop(name, None)
        self._asked(name)

    def objection(self, name: str) -> str:
        """Why a server is not read as a replica, for people; "" if it is one."""
        if name in self._refused:
            return self._refused[name]
        identity = self._said.get(name)
        if identity is None:
            return "it has not answered yet"
        if self._is_foreign(identity):
            return f"it is of another cluster, {identity.system}"
        if name == PRIMARY and name != self.primary:
            if identity.timeline is None:
                return "it is in recovery: name it as a replica for it to be read as one"
            return self._claim_objection(identity)
        return "" if identity.timeline is None else self._claim_objection(identity)

    def _claim_objection(self, identity: Identity) -> str:
        if identity.timeline is not None and identity.timeline < self._timeline:
            return f"its timeline {identity.timeline} has ended, {self._timeline} goes on"
        primary = self._said.get(self.primary or "")
        if primary is not None and primary.started_at == identity.started_at:
            return f"it is the same server as {self.primary}"
        return f"it is not in recovery, on timeline {identity.timeline}"

    def _asked(self, name: str) -> None:
        self._unasked.discard(name)
        if self.is_held:
            self._decide()

    def _decide(self) -> None:
        if self._system is None and self._said:
            first = self._said.get(PRIMARY) or next(iter(self._said.values()))
            self._system = first.system
        claims = {
            name: identity.timeline
            for name, identity in self._said.items()
            if identity.timeline is not None
            and not self._is_foreign(identity)
            and name not in self._refused
        }
        self._timeline = max(self._timeline, *claims.values(), 0)
        best = [name for name, timeline in claims.items() if timeline == self._timeline]
        if self.primary in best:
            return
        self.primary = self._winner(best)

    def _winner(self, best: list[str]) -> str | None:
        servers = {self._said[name].started_at for name in best}
        if len(servers) == 1:
            return PRIMARY if PRIMARY in best else best[0]
        if servers:
            names = " and ".join(sorted(best))
            self.why_none = f"{names} both claim to be it, on timeline {self._timeline}"
        elif self._timeline:
            self.why_none = f"none that answers is on timeline {self._timeline}, the newest"
        else:
            self.why_none = "none that answers takes writes"
        return None

    def _is_foreign(self, identity: Identity) -> bool:
        return self._system is not None and identity.system != self._system
