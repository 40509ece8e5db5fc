"""The cache in Valkey: keys, scripts, timeouts. All other modules are free of Valkey."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeVar

from redis.exceptions import ClusterError, NoScriptError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from atlas_common.breaker import Breaker, BreakerOpenError, BreakerState
from atlas_common.token import Position
from atlas_hotcache import entry
from atlas_hotcache.config import CacheConfig, ValkeyConfig
from atlas_hotcache.entry import Entry
from atlas_hotcache.layout import PLAIN, Layout, cluster_layouts
from atlas_hotcache.marks import CacheState, Move, Outcome
from atlas_hotcache.ports import (
    CacheUnavailableError,
    Change,
    FillResult,
    Lookup,
    Reading,
    ServerStatus,
)
from atlas_hotcache.valkey_client import Client, open_client
from atlas_hotcache.valkey_url import Deployment, ValkeyUrl

T = TypeVar("T")

_NOWHERE = Position(0, 0, 0)

_KEYS_PER_SCRIPT_MAX = 500  # A script blocks the server while it runs.


@dataclass(frozen=True, slots=True)
class _Script:
    """Its text goes to the server once, its digest each time."""

    text: str
    digest: str

    @classmethod
    def load(cls, name: str) -> "_Script":
        text = (
            resources.files("atlas_hotcache")
            .joinpath("scripts", f"{name}.lua")
            .read_text(encoding="utf-8")
        )
        # Not for security: the protocol names scripts by SHA-1.
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_LOOKUP = _Script.load("lookup")
_STATUS = _Script.load("status")
_FILL = _Script.load("fill")
_INVALIDATE = _Script.load("invalidate")
_FORGET = _Script.load("forget")
# What speaks of the server, and not of the call.
_FAILURES = (
    RedisConnectionError,
    RedisTimeoutError,
    ClusterError,
    RedisClusterException,  # redis-py's: no RedisError.
    OSError,
)


class ValkeyCache:
    """One shard's scripts, with a bound on time and number, behind a breaker.

    Every method raises CacheUnavailableError when the server does not do as asked in time; whether
    it did the thing is then unknown, and every script may be repeated.
    """

    def __init__(
        self,
        client: Client,
        layout: Layout,
        slots: asyncio.Semaphore,
        valkey: ValkeyConfig,
        cache: CacheConfig,
    ) -> None:
        self._client = client
        self._layout = layout
        self._slots = slots
        self._call_timeout = valkey.call_timeout_seconds
        self.breaker = Breaker(valkey.failures_max, valkey.open_seconds)
        self._entry_ttl_ms = round(cache.entry_ttl_seconds * 1000)
        self._tombstone_ttl_ms = round(cache.tombstone_ttl_seconds * 1000)
        self._fill_us_max = round(cache.fill_seconds_max * 1e6)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, valkey: ValkeyConfig, cache: CacheConfig
    ) -> "AsyncIterator[tuple[ValkeyCache, ...]]":
        """The shards of the configured deployment, which need not be there yet: one, but in a
        cluster. Raises ValkeyUrlError."""
        url = ValkeyUrl.parse(valkey.url.get_secret_value())
        layouts = (
            cluster_layouts(valkey.shards) if url.deployment is Deployment.CLUSTER else [PLAIN]
        )
        # As many as connections, so that the pool is never asked for more than it has.
        slots = asyncio.Semaphore(valkey.connections_max)
        async with open_client(url, valkey) as client:
            try:
                yield tuple(cls(client, layout, slots, valkey, cache) for layout in layouts)
            finally:
                # A call that was cancelled may not have ended yet, and would connect again after
                # the client was closed. Each is bounded, and none begins without a slot.
                for _ in range(valkey.connections_max):
                    await slots.acquire()

    @property
    def is_open(self) -> bool:
        """Whether the breaker lets calls pass."""
        return self.breaker.state is not BreakerState.OPEN

    async def lookup(self, tenant_id: int, entity_ids: Sequence[int]) -> Lookup:
        """Entries and the state they go with, of one moment."""
        keys = [self._layout.entity_key(tenant_id, entity_id) for entity_id in entity_ids]
        fields, (seconds, us), raws = await self._run(_LOOKUP, keys, [])
        entries: dict[int, Entry] = {}
        for entity_id, raw in zip(entity_ids, raws, strict=True):
            found = None if raw is None else entry.decode(raw)
            if found is not None:
                entries[entity_id] = found
        return Lookup(_state(fields), entries, int(seconds) * 1_000_000 + int(us))

    async def fill(
        self, tenant_id: int, lookup: Lookup, evicted_count: int | None, reading: Reading
    ) -> FillResult:
        """Store what was read after the lookup, unless something newer is known."""
        if lookup.state is None:
            return FillResult(0, len(reading.entities))
        generation = lookup.state.generation
        stored = refused = 0
        positions: list[str | int] = [len(reading.positions)]
        for position in reading.positions.values():
            positions += [position.lane, position.epoch, position.sequence]
        for batch in _batches(reading.entities):
            keys = [self._layout.entity_key(tenant_id, entity.entity_id) for entity in batch]
            arguments: list[str | int | bytes] = [
                generation,
                reading.source,
                lookup.server_us + self._fill_us_max,
                "" if evicted_count is None else evicted_count,
                self._entry_ttl_ms,
                *positions,
                *(entry.encode(Entry(generation, e.version, e.body)) for e in batch),
            ]
            counts = await self._run(_FILL, keys, arguments)
            stored += counts[0]
            refused += counts[1]
        return FillResult(stored, refused)

    async def invalidate(self, position: Position, changes: Sequence[Change]) -> Outcome:
        """Put tombstones for the changes of this flush, then move its lane's mark if it is next."""
        batches = list(_batches(changes)) or [()]
        for batch in batches[:-1]:
            await self._put_tombstones(batch)
        return await self._invalidate(position, batches[-1], mark="mark")

    async def advance(self, position: Position, after: Position) -> Outcome:
        """Move a lane's mark to a later epoch's position, if it is still at `after`."""
        return await self._invalidate(position, (), mark="mark", after=_mark_text(after))

    async def make_up(
        self, generation: str, moves: Sequence[Move], changes: Sequence[Change]
    ) -> bool:
        """Put tombstones for all that changed on the way of these moves, then make the moves.

        False if a mark was not where its move begins, or the generation has ended: then some
        tombstones were put for nothing.
        """
        for batch in _batches(changes):
            await self._put_tombstones(batch, generation=generation)
        made = True
        for move in moves:
            after = "none" if move.after is None else _mark_text(move.after)
            outcome = await self._invalidate(
                move.position, (), mark="mark", after=after, generation=generation
            )
            made = made and outcome is Outcome.ADVANCED
        return made

    async def forget(
        self, expected: CacheState | None, run_id: str, source: str, marks: Sequence[Position]
    ) -> bool:
        """Begin a new generation with these marks, unless the expected one has ended already."""
        fields: list[str | int] = []
        for mark in marks:
            fields += [mark.lane, _mark_text(mark)]
        old = "" if expected is None else expected.generation
        arguments = [old, entry.new_generation(), run_id, source, *fields]
        return bool(await self._run(_FORGET, [], arguments))

    async def status(self) -> ServerStatus:
        """The server's identity and memory, and the state."""
        fields, run_id, evicted = await self._run(_STATUS, [], [])
        return ServerStatus(_state(fields), run_id.decode(), int(evicted))

    async def _put_tombstones(self, batch: Sequence[Change], *, generation: str = "") -> None:
        await self._invalidate(_NOWHERE, batch, mark="no", generation=generation)

    async def _invalidate(
        self,
        position: Position,
        batch: Sequence[Change],
        *,
        mark: str,
        after: str = "",
        generation: str = "",
    ) -> Outcome:
        keys = [self._layout.entity_key(change.tenant_id, change.entity_id) for change in batch]
        arguments: list[str | int | bytes] = [
            self._tombstone_ttl_ms,
            mark,
            position.lane,
            position.epoch,
            position.sequence,
            after,
            generation,
            *(entry.version_text(change.version) for change in batch),
        ]
        outcome, _ = await self._run(_INVALIDATE, keys, arguments)
        return Outcome(outcome.decode())

    async def _run(
        self, script: _Script, keys: Sequence[str], arguments: Sequence[str | int | bytes]
    ) -> Any:
        parts = (len(keys) + 1, self._layout.state_key, *keys, *arguments)

        async def run() -> Any:
            try:
                return await self._client.execute("EVALSHA", script.digest, *parts)
            except NoScriptError:  # A server that was started anew.
                return await self._client.execute("EVAL", script.text, *parts)

        return await self._call(run)

    async def _call(self, command: Callable[[], Awaitable[T]]) -> T:
        await self._take_slot()
        try:
            # The time limit inside the breaker's block: there it is a failure, outside it would
            # look like a cancellation.
            with self.breaker.call(*_FAILURES):
                async with asyncio.timeout(self._call_timeout):
                    return await command()
        except BreakerOpenError as error:
            raise CacheUnavailableError("the cache has failed repeatedly") from error
        except TimeoutError as error:
            self._client.suspect()
            raise CacheUnavailableError("the cache does not answer in time") from error
        except (RedisError, RedisClusterException, OSError) as error:
            raise CacheUnavailableError("the cache is unreachable") from error
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        try:
            async with asyncio.timeout(self._call_timeout):
                await self._slots.acquire()
        except TimeoutError as error:  # Our own queue: says nothing about the server.
            raise CacheUnavailableError("the cache is busy") from error


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _KEYS_PER_SCRIPT_MAX):
        yield items[start : start + _KEYS_PER_SCRIPT_MAX]


def _mark_text(mark: Position) -> str:
    return f"{mark.epoch}:{mark.sequence}"


def _state(pairs: Sequence[bytes]) -> CacheState | None:
    """The state, or None if it is missing or not whole: then nothing is believed.

    `pairs`: names and values by turns, as a script answers a hash.
    """
    try:
        texts = [part.decode() for part in pairs]
        text = dict(zip(texts[::2], texts[1::2], strict=True))
        generation, run_id, source = text.pop("generation"), text.pop("run_id"), text.pop("source")
        marks: dict[int, Position] = {}
        seen: dict[int, Position] = {}
        for name, value in text.items():
            into = seen if name.startswith("s") else marks
            lane, (epoch, sequence) = int(name.removeprefix("s")), value.split(":")
            into[lane] = Position(lane, int(epoch), int(sequence))
    except (KeyError, ValueError):
        return None
    return CacheState(generation, run_id, source, marks, seen)
