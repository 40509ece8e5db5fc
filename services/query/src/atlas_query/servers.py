"""The servers that may be read, as of now: they come and go, and change their roles.

Nobody keeps a list of them: router, catalog and tenants ask each time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

from atlas_common import errors
from atlas_common.breaker import Breaker
from atlas_common.db import Database
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger
from atlas_query import metrics
from atlas_query.election import Election, Identity
from atlas_query.endpoint import Endpoint
from atlas_query.freshness import FreshnessTracker
from atlas_query.policy import PRIMARY

log = logger(__name__)


class Servers:
    """The primary and the replicas. `on_new_history`: called when another primary is elected."""

    def __init__(
        self, endpoints: Sequence[Endpoint], tracker: FreshnessTracker, election: Election | None
    ) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._tracker = tracker
        self._election = election
        self._objections: dict[str, str] = {}
        self._why_none = ""
        self._replicas: dict[str, Endpoint] = {}
        self.on_new_history: Callable[[], None] = lambda: None
        self._settle()

    @classmethod
    def fixed(
        cls, primary: Endpoint, replicas: Sequence[Endpoint], tracker: FreshnessTracker
    ) -> "Servers":
        """What they are called is what they are."""
        return cls([primary, *replicas], tracker, None)

    @property
    def is_known(self) -> bool:
        """Whether all servers were asked who they are."""
        return self._election is None or self._election.is_held

    @property
    def is_elected(self) -> bool:
        """Whether servers are what they say; else they are what they are called."""
        return self._election is not None

    @property
    def timeline(self) -> int:
        """What the primary writes, and what is read must be of; 0: not known, or of no matter."""
        return 0 if self._election is None else self._election.timeline

    @property
    def primary(self) -> Endpoint:
        """The server that STRONG reads go to. Raises ServiceError: none is known."""
        name = PRIMARY if self._election is None else self._election.primary
        if name is None or name not in self._endpoints:
            why = "it has left" if self._election is None or name else self._election.why_none
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE",
                f"it is not known which server is the primary: {why}",
                retry_after=0.2,
                database=PRIMARY,
            )
        return self._endpoints[name]

    @property
    def replicas(self) -> Mapping[str, Endpoint]:
        """Those that are read as replicas, by name, in the order in which they came."""
        return self._replicas

    @property
    def names(self) -> list[str]:
        """All of them, whatever their roles; "primary" is the one that was configured as such."""
        return list(self._endpoints)

    @property
    def lags_seconds(self) -> dict[str, float]:
        """How far each server but the primary is behind; infinite: not known, or not read."""
        primary = PRIMARY if self._election is None else self._election.primary
        return {
            name: self._tracker.lag_seconds(name)
            for name in tuple(self._endpoints)
            if name != primary
        }

    @property
    def breakers(self) -> dict[str, Breaker]:
        """Of each server."""
        return {name: endpoint.breaker for name, endpoint in tuple(self._endpoints.items())}

    def find(self, name: str) -> Endpoint | None:
        """The server in this role ("primary"), or the replica of this name; None: none is now."""
        if name != PRIMARY:
            return self.replicas.get(name)
        try:
            return self.primary
        except ServiceError:
            return None

    def objection(self, name: str) -> str:
        """Why a server is not read as a replica; "" if it is one."""
        if self._election is None:
            return ""
        if name == self._election.primary:
            return "it is the primary"
        objection = self._election.objection(name)
        # Not yet known is no objection: the tracker does not know it either, so it is not read.
        return "" if objection.startswith("it has not answered") else objection

    def fenced(self) -> dict[str, str]:
        """The servers that are read in no role, and why."""
        elected = None if self._election is None else self._election.primary
        objections = {name: self.objection(name) for name in self._endpoints if name != elected}
        return {name: why for name, why in objections.items() if why}

    # What pollers and the roster tell ------------------------------------------------------------

    def join(self, endpoint: Endpoint) -> None:
        """A server is ours; it is read once it has been seen."""
        self._endpoints[endpoint.name] = endpoint
        self._settle()

    def leave(self, name: str) -> Endpoint:
        """A server is not ours any more: no read begins there. Raises KeyError."""
        endpoint = self._endpoints.pop(name)
        self._tracker.forget(name)
        if self._election is not None:
            self._election.leave(name)
        self._settle()
        return endpoint

    def saw(self, name: str, identity: Identity) -> str | None:
        """A server answered; the role it is read in ("primary" or its own name), or None."""
        if self._election is None:
            return name
        before = self._election.history
        self._election.saw(name, identity)
        after = self._election.history
        if after is not None and after != before:
            log.warning(
                "the primary was elected",
                server=after.primary,
                timeline=after.timeline,
                before=before.primary if before else None,
            )
            if before is not None:
                metrics.new_history()
            self._tracker.begin_anew()
            self.on_new_history()
        self._settle()
        if name == self._election.primary:
            return PRIMARY
        return None if self.objection(name) else name

    def missed(self, name: str) -> str | None:
        """A server did not answer; the role it would be read in, or None."""
        if self._election is None:
            return name
        self._election.missed(name)
        self._settle()
        if name == self._election.primary:
            return PRIMARY
        return None if name == PRIMARY or self.objection(name) else name

    def refuse(self, name: str, why: str) -> None:
        """Do not read this server until it is seen again."""
        if self._election is not None:
            self._election.refuse(name, why)
        self._settle()

    def _settle(self) -> None:
        """Keep the roles at hand; tell, once, who is not read and why."""
        self._replicas = {
            name: endpoint
            for name, endpoint in self._endpoints.items()
            if name != PRIMARY and not self.objection(name)
        }
        if self._election is None or not self._election.is_held:
            return
        objections = self.fenced()
        for name in self._endpoints:
            if objections.get(name) == self._objections.get(name):
                continue
            if name in objections:
                log.warning("server is not read", server=name, why=objections[name])
                self._tracker.forget(name)
            else:
                log.info("server is read", server=name)
        self._objections = objections
        why_none = "" if self._election.primary else self._election.why_none
        if why_none and why_none != self._why_none:
            log.error("there is no primary", why=why_none)
        self._why_none = why_none


class LiveDatabases(Sequence[Database]):
    """The databases that can be trusted now, the primary's first: for the catalog and tenants."""

    def __init__(self, servers: Servers, is_current: Callable[[str], bool]) -> None:
        self._servers = servers
        self._is_current = is_current

    def __iter__(self) -> Iterator[Database]:
        """As of now, one after another: each call asks for the first, and hardly any for more."""
        primary = self._servers.find(PRIMARY)
        if primary is not None:
            yield primary.database
        for name, replica in self._servers.replicas.items():  # One that is replaced, not changed.
            if self._is_current(name):
                yield replica.database

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> Database: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Database]: ...

    def __getitem__(self, index: int | slice) -> Database | Sequence[Database]:
        """As of a list."""
        return [*iter(self)][index]
