"""Takes a read to the endpoint that its consistency asks for, and from there to the next.

What to try in which order is the policy's (`policy.Route`); whether a replica is fresh enough is
judged by the guard inside the snapshot that is read. This module only goes where it is sent.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

from atlas.type.freshness import Position
from atlas_common import errors, sqlstate
from atlas_common.breaker import BreakerState
from atlas_common.db import BehindError, Freshness
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_query import metrics
from atlas_query.admission import Admission
from atlas_query.consistency import Consistency, Source, staleness_bound
from atlas_query.endpoint import Endpoint, Expected, MissedError, Serving, away
from atlas_query.freshness import FreshnessTracker
from atlas_query.policy import (
    PRIMARY,
    Miss,
    Read,
    Refusal,
    Refuse,
    ReplicaState,
    Route,
    Wait,
)
from atlas_query.proof import Proof, budget_warnings
from atlas_query.servers import Servers
from atlas_query.tier import Tier, TierStanding

T = TypeVar("T")
RETRY_AFTER_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was read, and the proof of what it is."""

    value: T
    proof: Proof


class QueryRouter:
    """Routes reads over a primary and its replicas."""

    def __init__(
        self,
        servers: Servers,
        tracker: FreshnessTracker,
        admission: Admission,
        monotonic: Callable[[], float],
    ) -> None:
        self._servers = servers
        self._tracker = tracker
        self._admission = admission
        self._monotonic = monotonic

    async def execute_query(
        self,
        tenant: Tenant,
        consistency: Consistency,
        wait_seconds: float,
        read: Callable[[Serving], Awaitable[T]],
    ) -> Answer[T]:
        """The answer of `read` in a snapshot that meets the consistency.

        `read` runs again elsewhere when its endpoint fails. Raises ServiceError: FRESHNESS_UNMET,
        POSITION_LOST, OVERLOADED, DEPENDENCY_UNAVAILABLE; and what `read` raises.
        """

        async def once(serving: Serving) -> AsyncGenerator[T, None]:
            yield await read(serving)

        # To the end, not to the first answer: only then has the endpoint done its part.
        answers = [answer async for answer in self._parts(tenant, consistency, wait_seconds, once)]
        return answers[0]

    def stream_query(
        self,
        tenant: Tenant,
        consistency: Consistency,
        wait_seconds: float,
        read: Callable[[Serving], AsyncGenerator[T, None]],
    ) -> AsyncGenerator[Answer[T], None]:
        """The same for a read of many parts, all from one snapshot; a server has few at a time.

        It runs again elsewhere only as long as nothing was yielded: two snapshots are no answer.
        """
        return self._parts(tenant, consistency, wait_seconds, read, is_stream=True)

    async def _parts(
        self,
        tenant: Tenant,
        consistency: Consistency,
        wait_seconds: float,
        read: Callable[[Serving], AsyncGenerator[T, None]],
        *,
        is_stream: bool = False,
    ) -> AsyncGenerator[Answer[T], None]:
        route = Route(consistency, self._monotonic(), wait_seconds)
        last: MissedError | None = None
        while True:
            step = route.next(self.replica_states(), self._monotonic())
            match step:
                case Wait(seconds):
                    await self._tracker.wait_progress(seconds)
                case Refuse():
                    raise self._refused(consistency, step, last)
                case Read():
                    is_begun = False
                    began = self._monotonic()
                    try:
                        async with (
                            self._place(step) if is_stream else nullcontext(),
                            self._conn(tenant, consistency, step) as serving,
                        ):
                            proof = self._proof(consistency, step, serving, began)
                            async with aclosing(read(serving)) as parts:
                                async for part in parts:
                                    is_begun = True
                                    yield Answer(part, proof)
                    except MissedError as missed:
                        if is_begun:
                            raise missed.error from missed
                        last = missed
                        route.missed(step, missed.miss)
                        metrics.missed(step.endpoint, missed.miss)
                    else:
                        metrics.served(proof)
                        return

    def get_replica_conn(
        self, tenant: Tenant, consistency: Consistency, name: str
    ) -> AbstractAsyncContextManager[Serving]:
        """A snapshot on one replica, guarded by what the consistency asks for.

        Raises MissedError when the replica cannot serve it, PositionLostError when nothing can.
        """
        replica = self._servers.find(name)
        if replica is None:  # It left, or became the primary, a moment ago.
            raise MissedError(Miss.AWAY, away(name))
        demand = self._demand(consistency)
        return replica.open(tenant, demand, self._expected(is_primary=False))

    def get_primary_conn(
        self, tenant: Tenant, consistency: Consistency, *, is_admitted: bool
    ) -> AbstractAsyncContextManager[Serving]:
        """A snapshot on the primary; within the cap unless the read is admitted by its nature."""
        return self._primary_conn(tenant, consistency, is_admitted=is_admitted)

    def replica_states(self) -> list[ReplicaState]:
        """The replicas as they are known now."""
        return [self._state(replica) for replica in self._servers.replicas.values()]

    @property
    def replica_names(self) -> list[str]:
        """The replicas, in the order in which they came."""
        return list(self._servers.replicas)

    def endpoint(self, name: str) -> Endpoint | None:
        """A server by its name; None: it has left, or nobody is known to be the primary."""
        return self._servers.find(name)

    def primary_note(self) -> str:
        """Which server is the primary, if another than the configured one; or why none is."""
        try:
            name = self._servers.primary.name
        except ServiceError as error:
            return error.message
        return "" if name == PRIMARY else f"{name}, on timeline {self._servers.timeline}"

    @property
    def beat_timeline(self) -> int:
        """Of which a copy's newest heartbeat must be, or later, for the copy to be read."""
        newest = self._tracker.newest_beat
        if newest is not None and newest.timeline == 0:
            return 0  # The database's functions are older than we: beats do not tell yet.
        return self._servers.timeline

    def fenced(self) -> dict[str, str]:
        """The servers that are read in no role, and why."""
        return self._servers.fenced()

    def is_current(self, name: str) -> bool:
        """Whether a replica was seen to hold something of the primary's timeline."""
        return self._tracker.sighting(name).beat.timeline >= self.beat_timeline

    def primary_state(self) -> tuple[ReplicaState, BreakerState]:
        """The primary as it is known now: never behind, perhaps away."""
        primary = self._servers.find(PRIMARY)
        if primary is None:
            return ReplicaState(PRIMARY, 0.0, is_available=False), BreakerState.CLOSED
        is_available = primary.is_closed and primary.is_answering
        return ReplicaState(PRIMARY, 0.0, is_available), primary.breaker.state

    @asynccontextmanager
    async def _primary_conn(
        self, tenant: Tenant, consistency: Consistency, *, is_admitted: bool
    ) -> AsyncIterator[Serving]:
        turn = nullcontext() if is_admitted else self._admission.admitted()
        # The primary holds what is newest: only the positions can be missing there, or lost.
        fresh = Freshness(positions=consistency.positions)
        async with turn:
            try:
                primary = self._servers.primary
            except ServiceError as error:
                raise MissedError(Miss.AWAY, error) from error
            async with primary.open(tenant, fresh, self._expected(is_primary=True)) as serving:
                yield serving

    def _place(self, step: Read) -> AbstractAsyncContextManager[None]:
        server = self._servers.find(step.endpoint)
        return nullcontext() if server is None else server.streaming()

    def _conn(
        self, tenant: Tenant, consistency: Consistency, step: Read
    ) -> AbstractAsyncContextManager[Serving]:
        if step.endpoint == PRIMARY:
            return self.get_primary_conn(tenant, consistency, is_admitted=step.is_admitted)
        return self.get_replica_conn(tenant, consistency, step.endpoint)

    def _expected(self, *, is_primary: bool) -> Expected | None:
        if not self._servers.is_elected:
            return None
        return Expected(is_primary, self._servers.timeline if is_primary else self.beat_timeline)

    def _demand(self, consistency: Consistency) -> Freshness:
        bound = staleness_bound(consistency.requirement)
        if bound is None:
            return Freshness(positions=consistency.positions)
        not_before = self._tracker.not_before(bound)
        if not_before is None:
            raise MissedError(Miss.BEHIND, _unprovable())
        return Freshness(not_before, consistency.positions)

    def _state(self, replica: Endpoint) -> ReplicaState:
        sighting = self._tracker.sighting(replica.name)
        return ReplicaState(
            replica.name,
            self._tracker.lag_of(sighting.beat),
            is_available=sighting.is_reachable
            and replica.is_closed
            and sighting.beat.timeline >= self.beat_timeline,
            progress=sighting.progress,
            reads_running=replica.reads_running,
        )

    def _proof(self, consistency: Consistency, step: Read, serving: Serving, began: float) -> Proof:
        """What was opened since `began`. Raises BehindError if it is staler than asked for.

        The guard compares times of the primary's clock, and is fooled by a beat from before that
        was set back; the lag is not.
        """
        if step.endpoint == PRIMARY:
            source, lag, as_of = Source.PRIMARY, 0.0, serving.begun_at
        else:
            # By the heartbeat in the snapshot itself: the poller's is from another moment.
            source, lag, as_of = (
                Source.REPLICA,
                self._tracker.lag_of(serving.beat, began),
                serving.beat.beaten_at,
            )
            bound = staleness_bound(consistency.requirement)
            if bound is not None and lag > bound:
                raise _behind(f"this copy can be {lag:.1f} s behind")
        return Proof(
            source,
            step.endpoint,
            consistency.level,
            lag,
            as_of,
            serving.positions,
            _told(step, serving),
            budget_warnings(source, lag),
        )

    def _refused(
        self, consistency: Consistency, step: Refuse, last: MissedError | None
    ) -> ServiceError:
        if step.refusal is Refusal.LAST_MISS and last is not None:
            if last.miss is Miss.BEHIND:
                last.error.metadata.update(self.outlook(consistency))
            return last.error
        metrics.unmet(consistency.level)
        error = errors.unavailable(
            "FRESHNESS_UNMET",
            f"{step.summary}, and on_unmet is {consistency.on_unmet.name}",
            field="consistency",
            retry_after=RETRY_AFTER_SECONDS,
        )
        error.metadata.update(self.outlook(consistency))
        return error

    def outlook(self, consistency: Consistency) -> dict[str, str]:
        """For ErrorInfo: by name, how far each server is, and when it will be fresh enough."""
        bound = staleness_bound(consistency.requirement)
        primary, _ = self.primary_state()
        return {
            state.name: self._standing(state, consistency.positions, bound).told()
            for state in (primary, *self.replica_states())
        }

    def _standing(
        self, state: ReplicaState, positions: tuple[Position, ...], bound: float | None
    ) -> TierStanding:
        source = Source.PRIMARY if state.name == PRIMARY else Source.REPLICA
        endpoint = self.endpoint(state.name)
        breaker = (BreakerState.CLOSED if endpoint is None else endpoint.breaker.state).name
        return TierStanding(
            Tier(source, state.name, state.is_available, state.lag_seconds, breaker),
            None,
            self._tracker.sighting(state.name).positions,
            fresh_in_seconds=self._tracker.fresh_in(state.name, positions, bound),
        )


def _behind(why: str) -> BehindError:
    meaning = sqlstate.lookup(sqlstate.BEHIND)
    return BehindError(meaning.code, meaning.reason, why, retry_after=meaning.retry_after_seconds)


def _unprovable() -> ServiceError:
    return errors.unavailable(
        "FRESHNESS_UNMET", "the primary's clock is not known", retry_after=RETRY_AFTER_SECONDS
    )


def _told(step: Read, serving: Serving) -> str:
    """The reason; of the primary also which server that is, if another than configured."""
    is_plain = serving.endpoint == step.endpoint
    return step.reason if is_plain else f"{step.reason} ({serving.endpoint})"
