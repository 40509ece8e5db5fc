"""Compares answers from the cache with the primary, and counts those that no lag explains.

An older version in the cache than on the primary is no fault: the cache says how stale it may be.
What it must not be is told by positions, without any clock (marks.py): an entry of a generation
reflects every flush at or before the marks that were read with it. A snapshot of the primary has
every flush at or before its positions, and no others. So, of one history of the primary:

- An entry older than a snapshot's row is wrong if its marks reach the snapshot's positions: the
  flush that made the row is one that it claims to reflect. The stated lag is the age of positions
  that the marks reach, so this is also: older than what the primary had at `as_of`.
- If they do not reach them yet, nothing follows. Then the cache is looked into again, once its
  marks have got there: what is found then must not be older than the row. An entry that was left
  behind is still left behind then; one that was right, and late, is gone or newer.
- An entry newer than the row of a snapshot that was taken after the look-up is wrong: versions of a
  row only rise, and it was filled from one that had committed.
- An entry of the same version is wrong if it lacks a value that the row has, or has another. What
  it has more of may be of attributes that stopped being hot since: reads leave those out.

Nothing is concluded over a change of history or without a state.
"""

import asyncio
from collections.abc import Callable
from enum import StrEnum

from atlas_common import telemetry
from atlas_hotcache.entry import Entry
from atlas_hotcache.marks import CacheState, Claims, first_unreached
from atlas_hotcache.metrics import Counts
from atlas_hotcache.ports import (
    CacheUnavailableError,
    HotRow,
    Primary,
    PrimaryRead,
    PrimaryUnavailableError,
)
from atlas_hotcache.sampler import Sample, Sampler
from atlas_hotcache.shards import Shards
from atlas_hotcache.watcher import Watcher

_LOOKS_MAX = 20
_LOOK_SECONDS = 0.1
_log = telemetry.logger(__name__)

Holds = Callable[[bytes, HotRow], bool]
"""Whether the body of an entry has all the values of a row."""


class Verdict(StrEnum):
    """What is known of an entry."""

    CONSISTENT = "consistent"
    INCONSISTENT = "inconsistent"
    LATER = "later"
    """Its marks do not reach the snapshot yet."""
    UNDECIDED = "undecided"


def judge(
    entry: Entry, state: CacheState, read: PrimaryRead, claims: Claims, holds: Holds
) -> Verdict:
    """What an entry read with this state is, compared with the row of a snapshot.

    An entry that is newer than the row is consistent: whether the snapshot was taken after the
    look-up, only the caller knows.
    """
    if state.source != read.source or entry.generation != state.generation or entry.body is None:
        return Verdict.UNDECIDED
    row = read.rows[0]
    if entry.version > row.version:
        return Verdict.CONSISTENT
    if entry.version == row.version:
        return Verdict.CONSISTENT if holds(entry.body, row) else Verdict.INCONSISTENT
    if first_unreached(state.marks, read.positions, claims) is None:
        return Verdict.INCONSISTENT
    return Verdict.LATER


class Checker:
    """Checks samples one after another, so many a second at most."""

    def __init__(
        self,
        primary: Primary,
        shards: Shards,
        watcher: Watcher,
        sampler: Sampler,
        *,
        holds: Holds,
        per_second_max: float,
        counts: Counts,
    ) -> None:
        self._primary = primary
        self._shards = shards
        self._watcher = watcher
        self._sampler = sampler
        self._holds = holds
        self._pause_seconds = 1.0 / per_second_max
        self._counts = counts

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            sample = await self._sampler.next()
            await self.check(sample)
            await asyncio.sleep(self._pause_seconds)

    async def check(self, sample: Sample) -> Verdict:
        """Check one. An inconsistency is counted, logged, and ends the shard's generation."""
        try:
            read = await self._primary.peek(sample.tenant, sample.entity.entity_id)
            verdict, version = await self._verdict(sample, read)
        except (PrimaryUnavailableError, CacheUnavailableError):
            verdict, version = Verdict.UNDECIDED, sample.entity.version
        self._counts.checked(verdict, is_inconsistent=verdict is Verdict.INCONSISTENT)
        if verdict is Verdict.INCONSISTENT:
            _log.error(
                "the cache is inconsistent",
                tenant_id=sample.tenant.id,
                entity_id=sample.entity.entity_id,
                cached_version=version,
                primary_version=read.rows[0].version,
                generation=sample.state.generation,
            )
            # Whatever let one in may have let others in.
            shard = self._shards.of(sample.tenant.id)
            self._watcher.distrust("an entry was not what the primary had", shard)
        return verdict

    async def _verdict(self, sample: Sample, read: PrimaryRead) -> tuple[Verdict, int]:
        """The verdict, and the version it is about."""
        entity, state = sample.entity, sample.state
        entry = Entry(state.generation, entity.version, entity.body)
        verdict = judge(entry, state, read, self._watcher.history.claims, self._holds)
        if entity.version > read.rows[0].version and state.source == read.source:
            return Verdict.INCONSISTENT, entity.version  # The snapshot was taken after it.
        if verdict is not Verdict.LATER:
            return verdict, entity.version
        return await self._look_again(sample, read)

    async def _look_again(self, sample: Sample, read: PrimaryRead) -> tuple[Verdict, int]:
        """Look into the cache until its marks have reached the snapshot."""
        tenant_id, entity_id = sample.tenant.id, sample.entity.entity_id
        cache = self._shards.of(tenant_id).cache
        for _ in range(_LOOKS_MAX):
            await asyncio.sleep(_LOOK_SECONDS)
            lookup = await cache.lookup(tenant_id, [entity_id])
            state, entry = lookup.state, lookup.entries.get(entity_id)
            if state is None or state.source != read.source:
                return Verdict.UNDECIDED, sample.entity.version
            claims = self._watcher.history.claims
            if first_unreached(state.marks, read.positions, claims) is not None:
                continue
            if entry is None or entry.body is None or entry.generation != state.generation:
                return Verdict.CONSISTENT, sample.entity.version  # It is gone, as it should be.
            return judge(entry, state, read, claims, self._holds), entry.version
        return Verdict.UNDECIDED, sample.entity.version
