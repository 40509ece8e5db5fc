"""Latest hot values of entities: from the cache where it is proven fresh, else from the primary."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from atlas.type.freshness import furthest
from atlas_common import errors
from atlas_common.tenant import Tenant
from atlas_common.token import Position
from atlas_hotcache.flights import Flights
from atlas_hotcache.lag import NO_PROOF, PollHistory, Proof
from atlas_hotcache.marks import CacheState, Marks, common, first_unreached
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import (
    CacheUnavailableError,
    Entity,
    HotRow,
    Lookup,
    Primary,
    PrimaryRead,
    Reading,
)
from atlas_hotcache.sampler import Sampler
from atlas_hotcache.shards import Shard, Shards
from atlas_hotcache.watcher import Watcher

_RETRY_AFTER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Demand:
    """What a caller accepts: values this stale at most, which reflect these positions.

    `join_seconds_max`: reads of the primary that began longer before the question are not joined.
    One from before the catalog was read might not have an attribute that the catalog calls hot.
    """

    max_staleness_seconds: float
    positions: tuple[Position, ...] = ()
    join_seconds_max: float = math.inf


@dataclass(frozen=True, slots=True)
class Answer:
    """Entities in the order asked, and the proof for all of them."""

    entities: tuple[Entity, ...]
    proof: Proof
    hit_count: int
    miss_count: int
    bypass_reason: str
    """Why the cache was not used; empty when it was."""
    newest: tuple[Position, ...]
    """Nothing in it is of a later flush."""
    held: tuple[Position, ...]
    """It holds every flush at or before these."""


@dataclass(frozen=True, slots=True)
class _Fetched:
    """An entity from the primary, when the read began and what it proves."""

    entity: Entity
    began: float
    as_of_us: int
    positions: Marks


class Reader:
    """Answers reads. `encode` makes the body of a cache entry of a row."""

    def __init__(
        self,
        primary: Primary,
        shards: Shards,
        watcher: Watcher,
        sampler: Sampler,
        *,
        encode: Callable[[HotRow], bytes],
        reads_max: int,
        clock: Callable[[], float],
        counts: Counts,
    ) -> None:
        self._primary = primary
        self._shards = shards
        self._watcher = watcher
        self._sampler = sampler
        self._encode = encode
        self._reads_max = reads_max
        self._read_count = 0
        self._clock = clock
        self._counts = counts
        self.flights: Flights[tuple[int, int], _Fetched] = Flights(clock)

    async def get(self, tenant: Tenant, entity_ids: Sequence[int], demand: Demand) -> Answer:
        """The entities' values, never staler than asked.

        Raises ServiceError RESOURCE_EXHAUSTED / OVERLOADED beyond the bound on reads of the
        primary, FRESHNESS_UNMET and POSITION_LOST when even the primary does not hold the
        positions, and whatever else reading it raises.
        """
        asked = self._clock()
        shard = self._shards.of(tenant.id)
        evicted_count = shard.evicted_count  # Before the look-up: see fill.lua.
        ids = tuple(dict.fromkeys(entity_ids))
        lookup, bypass_reason = await self._look(shard, tenant, ids)
        proof = NO_PROOF
        if not bypass_reason:
            proof, bypass_reason = judge(lookup.state, self._watcher.history, self._clock(), demand)
        found = {} if bypass_reason else _hits(lookup)
        hit_count = len(found)
        missing = tuple(entity_id for entity_id in ids if entity_id not in found)
        if bypass_reason:
            self._counts.bypassed()
        newest: list[Marks] = []
        held: list[Marks] = []
        if found and lookup.state is not None:
            self._sampler.offer(tenant, lookup, found)
            newest += [lookup.state.marks, lookup.state.seen]
            held += [lookup.state.marks]
        else:
            proof = Proof(0.0, 2**63 - 1)
        if missing:
            # What passed since the question makes no read under way older than it was then.
            passed = self._clock() - asked
            joinable = replace(demand, join_seconds_max=demand.join_seconds_max + passed)
            fetched = await self._fetch(tenant, missing, joinable, lookup, evicted_count)
            found.update({entity_id: one.entity for entity_id, one in fetched.items()})
            proof = _weaker(proof, fetched, asked)
            # Of each reading once: its entities share them.
            readings = {id(one.positions): one.positions for one in fetched.values()}
            newest += readings.values()
            held += readings.values()
        self._counts.answered(hit_count, len(missing))
        return Answer(
            entities=tuple(found[entity_id] for entity_id in entity_ids),
            proof=proof,
            hit_count=hit_count,
            miss_count=len(missing),
            bypass_reason=bypass_reason,
            newest=furthest(chain(*(marks.values() for marks in newest))),
            held=common(held),
        )

    async def _look(self, shard: Shard, tenant: Tenant, ids: Sequence[int]) -> tuple[Lookup, str]:
        try:
            return await shard.cache.lookup(tenant.id, ids), ""
        except CacheUnavailableError as error:
            return Lookup(None, {}, 0), str(error)

    async def _fetch(
        self,
        tenant: Tenant,
        ids: Sequence[int],
        demand: Demand,
        lookup: Lookup,
        evicted_count: int | None,
    ) -> dict[int, _Fetched]:
        async def make(keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], _Fetched]:
            began = self._clock()
            reading = await self._read(tenant, [key[1] for key in keys], demand.positions)
            await self._fill(tenant, lookup, evicted_count, reading)
            return {
                (tenant.id, entity.entity_id): _Fetched(
                    entity, began, reading.as_of_us, reading.positions
                )
                for entity in reading.entities
            }

        fetched = await self.flights.run(
            [(tenant.id, entity_id) for entity_id in ids],
            make,
            # A read under way may have begun before the flush that a token speaks of.
            join_seconds_max=0.0
            if demand.positions
            else min(demand.max_staleness_seconds, demand.join_seconds_max),
        )
        return {key[1]: one for key, one in fetched.items()}

    async def _read(
        self, tenant: Tenant, ids: Sequence[int], positions: tuple[Position, ...]
    ) -> Reading:
        if self._read_count >= self._reads_max:
            raise errors.resource_exhausted(
                "OVERLOADED",
                "too many reads of the primary are under way",
                retry_after=_RETRY_AFTER_SECONDS,
            )
        self._read_count += 1
        try:
            read = await self._primary.read(tenant, ids, positions)
        finally:
            self._read_count -= 1
        return self._reading(read)

    def _reading(self, read: PrimaryRead) -> Reading:
        entities = tuple(
            Entity(row.entity_id, row.version, self._encode(row), is_cached=False)
            for row in read.rows
        )
        return Reading(entities, read.positions, read.source, read.as_of_us)

    async def _fill(
        self, tenant: Tenant, lookup: Lookup, evicted_count: int | None, reading: Reading
    ) -> None:
        """Put what was read into the cache; the answer does not depend on whether that works."""
        if lookup.state is None:
            return
        if not self._continues(lookup.state, reading):
            self._watcher.wake()
            return
        try:
            cache = self._shards.of(tenant.id).cache
            result = await cache.fill(tenant.id, lookup, evicted_count, reading)
        except CacheUnavailableError:
            self._counts.fill_failed(len(reading.entities))
        else:
            self._counts.filled(result.stored, result.refused)

    def _continues(self, state: CacheState, reading: Reading) -> bool:
        """Whether the snapshot is of the cache's history, and has what the cache had before it.

        If not, the primary lost something since (a crash, a failover), and the watcher is about to
        notice: what is read now does not belong to the generation of what was read then.
        """
        claims = self._watcher.history.claims
        return (
            reading.source == state.source
            and first_unreached(reading.positions, state.marks, claims) is None
            and first_unreached(reading.positions, state.seen, claims) is None
        )


def judge(
    state: CacheState | None, history: PollHistory, now: float, demand: Demand
) -> tuple[Proof, str]:
    """What entries that go with this state prove, and why that is not enough ("" if it is)."""
    if state is None or history.source is None:
        return NO_PROOF, "the cache is not ready yet"
    if state.source != history.source:
        return NO_PROOF, "the cache followed another primary"
    proof = history.proof(state.marks, now)
    if proof == NO_PROOF:
        return NO_PROOF, "the cache is behind, nobody knows how far"
    if proof.lag_seconds > demand.max_staleness_seconds:
        return proof, f"cache is {proof.lag_seconds:.1f} s behind"
    wanted = {position.lane: position for position in demand.positions}
    missing = first_unreached(state.marks, wanted, history.claims)
    if missing is not None:
        return proof, f"cache has not reached sequence {missing.sequence} of lane {missing.lane}"
    return proof, ""


def _hits(lookup: Lookup) -> dict[int, Entity]:
    if lookup.state is None:
        return {}
    return {
        entity_id: Entity(entity_id, entry.version, entry.body, is_cached=True)
        for entity_id, entry in lookup.entries.items()
        if entry.body is not None and entry.generation == lookup.state.generation
    }


def _weaker(proof: Proof, fetched: Mapping[int, _Fetched], asked: float) -> Proof:
    """The proof that holds for hits and fetched entities alike.

    A read of the primary is not stale, except for the time by which a joined one began before the
    question.
    """
    lag = max(max(0.0, asked - one.began) for one in fetched.values())
    as_of_us = min(one.as_of_us for one in fetched.values())
    return Proof(max(proof.lag_seconds, lag), min(proof.as_of_us, as_of_us))
