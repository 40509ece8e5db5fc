"""The source that reads Postgres' logical replication slot itself."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psycopg
from psycopg import sql

from atlas_cdc_reconciler.changes import Batch, MessageError
from atlas_cdc_reconciler.config import SlotConfig
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.source import SlotLostError, SourceLostError, SourcePosition
from atlas_cdc_reconciler.source.collector import Collector
from atlas_cdc_reconciler.source.slot_snapshot import SlotSnapshot
from atlas_cdc_reconciler.source.slot_state import SlotState
from atlas_cdc_reconciler.source.slot_store import read_slot
from atlas_cdc_reconciler.source.timelines import check_reached
from atlas_cdc_reconciler.source.walsender import Walsender, open_walsender
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database, load_queries
from atlas_common.telemetry import logger

Q = load_queries("atlas_cdc_reconciler")
_log = logger(__name__)
_PLUGIN = "pgoutput"
_FAILOVER_VERSION_MIN = 170000
_SLOT_NAME_CHARS_MAX = 63
# The loop's other tasks get their turn after this many messages.
_MESSAGES_PER_TURN = 500


class SlotSource:
    """Reads one slot; at most one process can, the server sees to that."""

    def __init__(self, config: SlotConfig, direct: DatabaseConfig, database: Database) -> None:
        self._config = config
        self._direct = direct
        self._database = database

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[SlotSnapshot]:
        """As Source.snapshot: makes the slot, and shows the tables as of its very beginning."""
        async with open_walsender(self._direct) as walsender:
            await self._drop_leftover()
            options = sql.SQL("SNAPSHOT 'export'")
            if self._config.failover and walsender.server_version >= _FAILOVER_VERSION_MIN:
                options = sql.SQL("SNAPSHOT 'export', FAILOVER true")
            create = sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput ({})").format(
                sql.Identifier(self._config.name), options
            )
            snapshot = await self._made(walsender, create)
            _log.info("slot made", slot=self._config.name, position=str(snapshot.position.lsn))
            # The exported snapshot lives as long as this connection stays as it is.
            yield snapshot

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[SlotSnapshot]:
        """The tables as they are at a point of the log near its end, beside the stream.

        By a temporary slot, since nothing else shows the tables as of a position of the log: the
        stream up to that position and what this shows are the same.
        """
        async with open_walsender(self._direct) as walsender:
            suffix = f"_cut_{secrets.token_hex(4)}"
            name = self._config.name[: _SLOT_NAME_CHARS_MAX - len(suffix)] + suffix
            create = sql.SQL(
                "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
            ).format(sql.Identifier(name))
            snapshot = await self._made(walsender, create)
            # Behind the point, so that the stream gets to it even if nobody else writes.
            async with self._database.transaction() as connection:
                await connection.execute(Q["beat_now"], {})
            yield snapshot

    @asynccontextmanager
    async def stream(self, position: SourcePosition) -> AsyncIterator["SlotStream"]:
        """As Source.stream."""
        async with AsyncExitStack() as stack:
            walsender = await stack.enter_async_context(open_walsender(self._direct))
            identity = await walsender.command(sql.SQL("IDENTIFY_SYSTEM"))
            source_id = self._source_id(identity["systemid"])
            if source_id != position.source_id:
                raise SourceLostError(
                    f"the warehouse was filled from {position.source_id}, this is {source_id}."
                    " Is ATLAS_DIRECT__DSN right? If it is, recover the pipeline: it takes over"
                    " what this server has"
                )
            timeline = int(identity["timeline"])
            await self._check_timeline(walsender, position, timeline)
            await self._check_slot(position.lsn)
            try:
                await walsender.start(self._config.name, self._config.publication)
            except psycopg.errors.ObjectNotInPrerequisiteState as error:
                raise SlotLostError(f"slot {self._config.name}: {error}") from error
            stream = SlotStream(walsender, self._config, position.lsn, timeline)
            life = asyncio.create_task(stream.keep_alive(), name="slot-status")
            stack.callback(life.cancel)
            yield stream

    async def slot_state(self) -> SlotState | None:
        """What the server knows of the slot; None: there is none. Raises as `read_slot`."""
        return await read_slot(self._database, self._config.name)

    async def _made(self, walsender: Walsender, create: sql.Composable) -> SlotSnapshot:
        identity = await walsender.command(sql.SQL("IDENTIFY_SYSTEM"))
        slot = await walsender.command(create)
        position = SourcePosition(
            self._source_id(identity["systemid"]),
            LogPosition.at(Lsn.parse(slot["consistent_point"])),
            int(identity["timeline"]),
        )
        return SlotSnapshot(
            self._database, slot["snapshot_name"], position, self._config.snapshot_rows_max
        )

    async def _check_timeline(
        self, walsender: Walsender, position: SourcePosition, timeline: int
    ) -> None:
        if position.timeline in (0, timeline):
            return
        history = await walsender.command(
            sql.SQL("TIMELINE_HISTORY {}").format(sql.Literal(timeline))
        )
        content = history["content"]
        check_reached(
            position.lsn,
            position.timeline,
            timeline,
            content.decode() if isinstance(content, bytes) else content,
        )
        _log.warning("another server took over", timeline=timeline, was=position.timeline)

    async def _check_slot(self, position: Lsn) -> None:
        name = self._config.name
        state = await self.slot_state()
        if state is None:
            raise SlotLostError(f"slot {name} is gone")
        if state.plugin != _PLUGIN or not state.is_here:
            raise SourceLostError(
                f"slot {name} is another's (plugin {state.plugin}): set ATLAS_SLOT__NAME to a name"
                " that is free"
            )
        if state.is_lost:
            why = f" ({state.invalidation_reason})" if state.invalidation_reason else ""
            raise SlotLostError(f"slot {name} lost its log: it fell too far behind{why}")
        if state.confirmed is not None and Lsn(state.confirmed) > position:
            # Somebody else read from it, or the warehouse's file is an old copy.
            raise SlotLostError(
                f"slot {name} stands at {Lsn(state.confirmed)}, beyond the warehouse at {position}:"
                " the changes between are lost"
            )

    async def _drop_leftover(self) -> None:
        state = await self.slot_state()
        if state is None:
            return
        if state.plugin != _PLUGIN or not state.is_here:
            raise SourceLostError(
                f"slot {self._config.name} is another's (plugin {state.plugin}): set"
                " ATLAS_SLOT__NAME to a name that is free"
            )
        _log.warning("dropping a slot that no warehouse stands on", slot=self._config.name)
        async with self._database.transaction() as connection:
            await connection.execute(Q["drop_slot"], {"slot": self._config.name})

    def _source_id(self, system_id: str) -> str:
        return f"{system_id}/{self._config.name}"


class SlotStream:
    """The slot's changes as they are committed."""

    def __init__(
        self, walsender: Walsender, config: SlotConfig, position: Lsn, timeline: int
    ) -> None:
        self.timeline = timeline
        self._walsender = walsender
        self._config = config
        self._collector = Collector(position)
        self._walsender.confirm(position)

    async def next_batch(self) -> Batch:
        """As ChangeStream.next_batch: waits for a change, then a moment for more of them."""
        collector, config = self._collector, self._config
        ends: float | None = None
        while True:
            arrived = self._gather()
            if not collector.in_transaction and collector.has_news:
                now = time.monotonic()
                if ends is None:
                    ends = now + config.linger_ms / 1000
                if now >= ends or self._is_full():
                    return collector.take()
            self._check_size()
            if arrived:
                await asyncio.sleep(0)
                continue
            linger = None if ends is None else max(0.0, ends - time.monotonic())
            await self._walsender.wait(None if collector.in_transaction else linger)

    def confirm(self, position: LogPosition) -> None:
        """As ChangeStream.confirm; the server hears of it within a second."""
        self._walsender.confirm(position.lsn)

    async def keep_alive(self) -> None:
        """Tell the server about us, again and again, also while a batch is being applied."""
        # When the connection is lost, next_batch tells of it.
        with suppress(psycopg.Error):
            while True:
                self._walsender.send_status()
                await asyncio.sleep(self._config.status_interval_seconds)

    def _gather(self) -> bool:
        """Feed what has arrived, a bounded piece of it; says whether there was anything."""
        for count in range(_MESSAGES_PER_TURN):
            raw = self._walsender.receive()
            if raw is None:
                return count > 0
            try:
                self._collector.feed(raw)
            except MessageError as error:
                # Not a bad row but a stream we cannot follow: to skip it would be to guess.
                raise SourceLostError(f"the stream cannot be read: {error}") from error
            if not self._collector.in_transaction and self._is_full():
                return True
        return True

    def _is_full(self) -> bool:
        return self._config.is_full(self._collector.change_count, self._collector.byte_count)

    def _check_size(self) -> None:
        if self._collector.byte_count > self._config.transaction_bytes_max:
            raise SourceLostError(
                f"a transaction has over {self._config.transaction_bytes_max} bytes of changes:"
                " raise ATLAS_SLOT__TRANSACTION_BYTES_MAX to have memory spent on it"
            )
