"""Compares cache entries with the projection."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from atlas_common.catalog import Catalog
from atlas_common.tenant import Tenant
from atlas_hotcache.entry import Entry
from atlas_hotcache.marks import first_unreached
from atlas_hotcache.ports import (
    CacheUnavailableError,
    HotRow,
    Lookup,
    Primary,
    PrimaryRead,
)
from atlas_hotcache.projection.cache_check import (
    CacheDifference,
    CachedValue,
    Verdict,
    differences,
    hot_only,
    judge,
    whole_entry,
)
from atlas_hotcache.shards import Shards
from atlas_hotcache.watcher import Watcher

_LOOKS_MAX = 20
_LOOK_SECONDS = 0.1


@dataclass(slots=True)
class Findings:
    """What was found of some entities' entries. `wrong_ids`: entities whose entry must go."""

    differences: list[CacheDifference] = field(default_factory=list)
    wrong_ids: list[int] = field(default_factory=list)
    uncompared: int = 0


Values = dict[str, CachedValue]


class CacheAudit:
    """Looks into the cache beside the road that reads take.

    `encode` makes the body of an entry of a row, `decode` reads one; None: it is no body.
    """

    def __init__(
        self,
        primary: Primary,
        shards: Shards,
        watcher: Watcher,
        catalog: Catalog,
        *,
        encode: Callable[[HotRow], bytes],
        decode: Callable[[bytes], Values | None],
    ) -> None:
        self._primary = primary
        self._shards = shards
        self._watcher = watcher
        self._catalog = catalog
        self._encode = encode
        self._decode = decode

    async def compare(self, tenant: Tenant, entity_ids: Sequence[int]) -> Findings:
        """How the entries of these entities differ from their rows; those without one do not."""
        findings = Findings()
        if not entity_ids:
            return findings
        read = await self._primary.read(tenant, entity_ids, ())
        lookup = await self._lookup_after(tenant, entity_ids, read)
        if lookup is None:
            findings.uncompared = len(entity_ids)
            return findings
        table = await self._catalog.attributes(tenant)
        hot = frozenset(name for name, one in table.by_name.items() if one.is_hot)
        newer = self._judge(findings, read.rows, _values(lookup), hot)
        if newer:
            # Of a flush since then; or of none that the primary has.
            again = await self._primary.read(tenant, [row.entity_id for row in newer], ())
            ahead = self._judge(findings, again.rows, _values(lookup), hot, is_last=True)
            assert not ahead
        return findings

    async def _lookup_after(
        self, tenant: Tenant, entity_ids: Sequence[int], read: PrimaryRead
    ) -> Lookup | None:
        """The entries once the marks have reached the snapshot; None if they do not in time."""
        cache = self._shards.of(tenant.id).cache
        for _ in range(_LOOKS_MAX):
            try:
                lookup = await cache.lookup(tenant.id, entity_ids)
            except CacheUnavailableError:
                return None
            state, claims = lookup.state, self._watcher.history.claims
            if (
                state is not None
                and state.source == read.source
                and first_unreached(state.marks, read.positions, claims) is None
            ):
                return lookup
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    def _judge(
        self,
        findings: Findings,
        rows: Sequence[HotRow],
        entries: "Mapping[int, Entry]",
        hot: frozenset[str],
        *,
        is_last: bool = False,
    ) -> list[HotRow]:
        """Enter what differs; the rows whose entries are of a later version."""
        newer: list[HotRow] = []
        for row in rows:
            entry = entries.get(row.entity_id)
            if entry is None:
                continue
            found = self._found(row, entry, hot)
            verdict = judge(row, entry.version, differs=bool(found))
            if verdict is Verdict.NEWER and not is_last:
                newer.append(row)
            elif is_last and verdict is not Verdict.NEWER:
                continue  # A flush has come since the look-up: its tombstone tells the cache.
            elif verdict is not Verdict.EQUAL:
                findings.wrong_ids.append(row.entity_id)
                findings.differences += found or [whole_entry(row.entity_id, verdict)]
        return newer

    def _found(self, row: HotRow, entry: Entry, hot: frozenset[str]) -> list[CacheDifference]:
        assert entry.body is not None
        held = self._decode(entry.body)
        if held is None:
            return [whole_entry(row.entity_id, Verdict.WRONG)]
        expected = self._decode(
            self._encode(HotRow(row.entity_id, row.version, hot_only(row, hot)))
        )
        assert expected is not None
        # What is not hot may or may not be in an entry: nobody is answered it.
        return differences(row, {n: v for n, v in held.items() if n in hot}, expected)


def _values(lookup: Lookup) -> dict[int, Entry]:
    """Entries that reads would be answered with."""
    assert lookup.state is not None
    return {
        entity_id: entry
        for entity_id, entry in lookup.entries.items()
        if entry.body is not None and entry.generation == lookup.state.generation
    }
