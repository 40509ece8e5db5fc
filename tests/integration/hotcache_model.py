"""A primary in memory whose whole past is known, to judge by it what a cache answers.

A model and no stand-in for convenience: it loses flushes on command, and between any two steps,
which a real server does not.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from atlas_common import errors
from atlas_common.tenant import Tenant
from atlas_common.testing import FakeClock
from atlas_common.token import Position
from atlas_common.values import DataType
from atlas_hotcache.lag import PrimaryView
from atlas_hotcache.marks import Claims
from atlas_hotcache.ports import Change, HotRow, HotValue, Missed, MissedFlush, PrimaryRead

Key = tuple[int, int]
"""Tenant and entity."""
LANES = (0, 1)
TICK_SECONDS = 0.001
REMEMBERED = 3
"""Flushes of a lane: few, so that some are not."""


@dataclass(frozen=True)
class _Moment:
    """All that the database holds."""

    lanes: dict[int, Position]
    claims: dict[int, dict[int, int]]
    rows: dict[Key, HotRow]


@dataclass
class _Flush:
    position: Position
    changes: list[Change]
    committed_at: float
    lost_at: float | None = None


@dataclass
class ModelPrimary:
    """Implements ports.Primary. Every event has its own time; versions rise with it."""

    clock: FakeClock
    crash_count: int = 0
    flushes: list[_Flush] = field(default_factory=list)
    between: Callable[[], Awaitable[None]] | None = None
    """Runs once, after the next snapshot was taken and before its reader has it."""
    before: Callable[[], Awaitable[None]] | None = None
    """Runs once, when the primary is asked next, before its snapshot is taken."""

    def __post_init__(self) -> None:
        self._now = _Moment({}, {}, {})
        self._undo: list[_Moment] = []
        self._owned: set[int] = set()
        self._past: dict[Key, list[tuple[float, int]]] = {}

    @property
    def source(self) -> str:
        """The history it is on."""
        return f"model:{self.crash_count}"

    def tick(self) -> float:
        """The next moment."""
        self.clock.advance(TICK_SECONDS)
        return self.clock()

    def claim(self, lane: int) -> None:
        """A new owner."""
        now = self.tick()
        self._owned.add(lane)
        before = self._now.lanes.get(lane)
        sequence = before.sequence if before else 0
        epoch = round(now * 1e6)
        claims = {**self._now.claims.get(lane, {}), epoch: sequence + 1}
        self._now = _Moment(
            {**self._now.lanes, lane: Position(lane, epoch, sequence)},
            {**self._now.claims, lane: claims},
            self._now.rows,
        )

    def flush(self, lane: int, keys: Sequence[Key]) -> _Flush:
        """Change these entities."""
        if lane not in self._owned:
            self.claim(lane)
        now = self.tick()
        last = self._now.lanes[lane]
        position = Position(lane, last.epoch, last.sequence + 1)
        version = round(now * 1e6)
        rows = dict(self._now.rows)
        for key in keys:
            rows[key] = _row(key, version)
            self._past.setdefault(key, []).append((now, version))
        self._undo.append(self._now)
        self._now = _Moment({**self._now.lanes, lane: position}, self._now.claims, rows)
        changes = [Change(tenant_id, entity_id, version) for tenant_id, entity_id in keys]
        flush = _Flush(position, changes, now)
        self.flushes.append(flush)
        return flush

    def crash(self, count: int) -> None:
        """Lose the newest flushes, and claims since; every owner loses its lane."""
        now = self.tick()
        self.crash_count += 1
        for _ in range(min(count, len(self._undo))):
            self._now = self._undo.pop()
        for key, past in self._past.items():
            row = self._now.rows.get(key)
            past.append((now, row.version if row else 0))
        for flush in self.flushes:
            if flush.lost_at is None and not self._holds(flush.position):
                flush.lost_at = now
        self._owned.clear()

    def was_true(self, key: Key, version: int, since: float, until: float) -> bool:
        """Whether the entity had this version at some time in since..until."""
        past = [(0.0, 0), *self._past.get(key, [])]
        first = bisect_right(past, since, key=lambda item: item[0]) - 1
        last = bisect_right(past, until, key=lambda item: item[0])
        return any(one == version for _, one in past[max(first, 0) : last])

    async def read(
        self, tenant: Tenant, entity_ids: Sequence[int], positions: tuple[Position, ...]
    ) -> PrimaryRead:
        """As PrimaryStore."""
        await self._interrupt_before()
        for position in positions:
            if not self._holds(position):
                raise errors.failed_precondition("POSITION_LOST", "lost")
        self.tick()
        moment, as_of, source = self._now, self.clock(), self.source
        await self._interrupt()
        rows = tuple(
            moment.rows.get((tenant.id, entity_id)) or HotRow(entity_id, 0, ())
            for entity_id in entity_ids
        )
        return PrimaryRead(rows, moment.lanes, source, round(as_of * 1e6))

    async def peek(self, tenant: Tenant, entity_id: int) -> PrimaryRead:
        """As PrimaryStore."""
        return await self.read(tenant, [entity_id], ())

    async def missed(self, after: Mapping[int, int], changes_max: int) -> Missed:
        """As PrimaryStore. Flushes are remembered for as long as the real one does, and less."""
        sent = self.tick()
        await self._interrupt_before()
        moment, source = self._now, self.source
        flushes = tuple(
            MissedFlush(flush.position, tuple(flush.changes))
            for flush in self.flushes
            if flush.lost_at is None
            and flush.position.sequence > after.get(flush.position.lane, 2**62)
            and flush.position.sequence > moment.lanes[flush.position.lane].sequence - REMEMBERED
        )
        self.tick()
        await self._interrupt()
        view = PrimaryView(sent, round(sent * 1e6), source, moment.lanes, Claims(moment.claims))
        return Missed(view, flushes)

    async def view(self) -> PrimaryView:
        """As PrimaryStore."""
        sent = self.tick()
        await self._interrupt_before()
        moment, source = self._now, self.source
        self.tick()
        await self._interrupt()
        return PrimaryView(sent, round(sent * 1e6), source, moment.lanes, Claims(moment.claims))

    def _holds(self, position: Position) -> bool:
        held = self._now.lanes.get(position.lane)
        if held is None:
            return False
        if held.epoch == position.epoch:
            return held.sequence >= position.sequence
        return Claims(self._now.claims).keep(position)

    async def _interrupt_before(self) -> None:
        before, self.before = self.before, None
        if before is not None:
            await before()

    async def _interrupt(self) -> None:
        between, self.between = self.between, None
        if between is not None:
            await between()


def _row(key: Key, version: int) -> HotRow:
    return HotRow(key[1], version, (HotValue("v", DataType.INT, version, version),))
