"""What a sink is fed with in tests: the real slot, batch by batch, by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.sink import Sink, SinkState
from atlas_cdc_reconciler.source import SourcePosition
from atlas_cdc_reconciler.source.slot import SlotSource
from atlas_common import db
from atlas_common.config import DatabaseConfig

from .reconciler_rig import Rig


class Feed:
    """The source of a rig, opened."""

    def __init__(self, rig: Rig, source: SlotSource) -> None:
        self._rig = rig
        self._source = source

    async def copy(self, sink: Sink, fails_with: Exception | None = None) -> None:
        """Make the first copy, or all of it but the end."""
        async with (
            self._source.snapshot() as snapshot,
            sink.load(snapshot.position) as load,
        ):
            async for copied in snapshot.rows():
                await load.append(copied)
            if fails_with is not None:
                raise fails_with

    async def batches(self, position: SourcePosition) -> list[Batch]:
        """What was committed from the position until now."""
        beat = self._beat()
        batches: list[Batch] = []
        async with self._source.stream(position) as stream:
            while not any(_has_beat(batch, beat) for batch in batches[-1:]):
                batches.append(await stream.next_batch())
        return batches

    async def follow(self, sink: Sink) -> SinkState:
        """Store all that is committed now, as the pipeline does."""
        beat = self._beat()
        state = await sink.state()
        assert state.position is not None
        async with self._source.stream(state.position) as stream:
            while state.beat.beat_id < beat:
                batch = await stream.next_batch()
                state = await sink.apply(batch)
                stream.confirm(batch.position)
        return state

    def _beat(self) -> int:
        self._rig.admin.execute("SELECT beat_heart('0 seconds')")
        row = self._rig.admin.execute("SELECT beat_id FROM replication_heartbeat").fetchone()
        assert row is not None
        return int(row[0])


def _has_beat(batch: Batch, beat: int) -> bool:
    runs = [run for run in batch.runs if run.relation.name == "replication_heartbeat"]
    wanted = beat.to_bytes(8, "big")
    return any(wanted in raw for run in runs for raw in run.raws)


@asynccontextmanager
async def open_feed(rig: Rig) -> AsyncIterator[Feed]:
    """The rig's source."""
    config = DatabaseConfig(dsn=SecretStr(rig.server.dsn("atlas_reconciler")))
    async with db.Database.open(config, name="primary") as primary:
        yield Feed(rig, SlotSource(rig.slot, config, primary))
