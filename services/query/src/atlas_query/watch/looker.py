"""Looks at what is watched: one look at a time, for all watchers of the process.

A look is a transaction with one view of the data, on whichever server the router sends it to, at
least as far as the look before. It reads the watched attributes of each tenant that has watchers in
one question (row-level security shows one tenant at a time), however many watch them. That no
change falls between two looks is shown in `change.py`. What is left to show is that the *floor*,
which keeps a look out of old partitions, hides no change: points stamped before the floor of the
view before (`standings.py`) were in that view. Steps of the clock that are too short to be seen
are allowed for with a minute, which costs nothing where partitions are of an hour or a day.

Looks are spaced so that they take at most a fifth of the time: many watchers make changes come
later, not the database busier.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain

import psycopg

from atlas.type.freshness import Position, furthest
from atlas_common import errors
from atlas_common.db import PositionLostError, ReadConnection, use_tenant
from atlas_common.errors import ServiceError
from atlas_common.telemetry import logger
from atlas_query.config import WatchConfig
from atlas_query.consistency import Consistency, Eventual
from atlas_query.endpoint import Serving
from atlas_query.router import Answer, QueryRouter
from atlas_query.standings import Standings
from atlas_query.watch import metrics, store
from atlas_query.watch.board import Board
from atlas_query.watch.change import NOTHING, Change, Pair, Rank, news
from atlas_query.watch.watcher import Moment, Watcher

log = logger(__name__)
FLOOR_SLACK = timedelta(minutes=1)
RESUME_SLACK = timedelta(seconds=1)
_SHARE = 5
"""A look takes at most one of so many parts of the time."""


@dataclass(slots=True)
class _First:
    """The first look of a watcher."""

    changes: Sequence[Change]
    known: dict[Pair, Rank]
    is_snapshot: bool


@dataclass(slots=True)
class _Look:
    """What one view showed; told to watchers when all of it has been read."""

    found: dict[int, Sequence[Change]] = field(default_factory=dict)
    left_out: dict[int, int] = field(default_factory=dict)
    firsts: dict[Watcher, _First] = field(default_factory=dict)


class Looker:
    """Keeps the board's watchers told."""

    def __init__(
        self, router: QueryRouter, standings: Standings, board: Board, config: WatchConfig
    ) -> None:
        self._router = router
        self._standings = standings
        self._board = board
        self._config = config
        self._positions: tuple[Position, ...] = ()
        self._wake = asyncio.Event()
        self._is_failing = False

    def wake(self) -> None:
        """Somebody has come to watch."""
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled, through outages; rest while nobody watches."""
        while True:
            if self._board.is_empty:
                await self._wake.wait()
            self._wake.clear()
            began = time.monotonic()
            await self._try_look()
            took = time.monotonic() - began
            metrics.looked(took)
            pause = max(self._config.tick_seconds, took * (_SHARE - 1))
            if self._board.joining and took < self._config.tick_seconds:
                continue
            await asyncio.sleep(pause)

    async def _try_look(self) -> None:
        try:
            await self.look()
        except PositionLostError:
            self._lose()
        except (ServiceError, psycopg.Error) as error:
            if not self._is_failing:
                log.warning("no look at what is watched", error=str(error))
            self._is_failing = True
            await asyncio.sleep(self._config.tick_seconds)
        else:
            self._is_failing = False

    async def look(self) -> None:
        """Look once. Raises ServiceError, psycopg.Error, PositionLostError."""
        joining = list(self._board.joining)
        tenant_ids = self._board.tenant_ids(joining)
        if not tenant_ids:
            return
        wanted = furthest(chain(self._positions, *(watcher.positions for watcher in joining)))
        consistency = Consistency(Eventual(self._config.staleness_seconds, wanted))
        floor = self._standings.floor_of_view(self._positions)

        async def read(serving: Serving) -> _Look | None:
            if serving.positions == self._positions and not joining:
                return None
            return await self._read(serving.connection, tenant_ids, joining, floor=floor)

        answer = await self._router.execute_query(
            next(self._board.everyone()).tenant,  # To begin with: it goes on from one to the next.
            consistency,
            self._config.staleness_seconds,
            read,
        )
        self._tell(answer)

    async def _read(
        self,
        connection: ReadConnection,
        tenant_ids: Sequence[int],
        joining: Sequence[Watcher],
        floor: datetime | None,
    ) -> _Look:
        look = _Look()
        for tenant_id in tenant_ids:
            await use_tenant(connection, tenant_id)
            await self._read_known(connection, tenant_id, floor, look)
            for watcher in joining:
                if watcher.tenant.id == tenant_id:
                    look.firsts[watcher] = await self._read_first(connection, watcher)
        return look

    async def _read_known(
        self, connection: ReadConnection, tenant_id: int, floor: datetime | None, look: _Look
    ) -> None:
        board = self._board.tenants.get(tenant_id)
        if board is None:
            return
        known = dict(board.known)  # Watchers come and go while we read.
        start = None if floor is None else floor - FLOOR_SLACK
        rows_max = self._config.rows_max
        found = await store.changes(connection, tenant_id, known, start, rows_max)
        if found is None:  # A flood: only the last of each is of use to anyone.
            look.left_out[tenant_id] = rows_max
            found = await store.latest(connection, tenant_id, known)
        look.found[tenant_id] = found

    async def _read_first(self, connection: ReadConnection, watcher: Watcher) -> _First:
        """What came after the watcher's floor, or all latest values."""
        tenant_id = watcher.tenant.id
        if watcher.floor is not None:
            floor = watcher.floor - RESUME_SLACK
            known = await store.ranks_before(connection, tenant_id, watcher.pairs, floor)
            rows_max = self._config.rows_max
            found = await store.changes(connection, tenant_id, known, floor, rows_max)
            if found is not None:
                return _First(news(found, known), known, is_snapshot=False)
            watcher.restart_reason = f"there are more than {rows_max} changes since the token"
        latest = await store.latest(connection, tenant_id, watcher.pairs)
        known = dict.fromkeys(watcher.pairs, NOTHING)
        return _First(news(latest, known), known, is_snapshot=True)

    def _tell(self, answer: "Answer[_Look | None]") -> None:
        look, proof = answer.value, answer.proof
        self._positions = proof.positions
        moment = Moment(
            proof.positions, proof.as_of, self._standings.floor_of_view(proof.positions)
        )
        if look is None:
            self._board.tell_nothing(moment)
            return
        for tenant_id, found in look.found.items():
            board = self._board.tenants.get(tenant_id)
            if board is not None:
                board.tell(found, moment, look.left_out.get(tenant_id, 0))
        for watcher, first in look.firsts.items():
            watcher.begin(first.changes, moment, is_snapshot=first.is_snapshot)
            self._board.joined(watcher, first.known)

    def _lose(self) -> None:
        """What watchers have been sent may never have been: none can go on."""
        log.warning("what was watched was lost with a failover")
        self._positions = ()
        for watcher in self._board.everyone():
            watcher.stop(position_lost())


def position_lost() -> ServiceError:
    """The error of a watcher that cannot go on."""
    return errors.failed_precondition(
        "POSITION_LOST",
        "a failover lost a part of what was sent: watch again without a resume_token, which begins"
        " with a snapshot",
        field="resume_token",
    )
