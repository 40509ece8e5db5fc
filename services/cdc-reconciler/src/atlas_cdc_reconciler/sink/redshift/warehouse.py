"""The sink itself: a batch becomes a transaction, by the one owner and behind the batch before."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from atlas_cdc_reconciler import metrics
from atlas_cdc_reconciler.changes import Batch
from atlas_cdc_reconciler.config import RedshiftConfig
from atlas_cdc_reconciler.letters import HEADS, Fault
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.sink import (
    Counts,
    FencedError,
    SinkState,
    TooManyDeadLettersError,
    WarehouseError,
)
from atlas_cdc_reconciler.sink.redshift import ddl
from atlas_cdc_reconciler.sink.redshift.client import ConflictError, Session
from atlas_cdc_reconciler.sink.redshift.dialect import quoted
from atlas_cdc_reconciler.sink.redshift.letters import Buried
from atlas_cdc_reconciler.sink.redshift.loading import RedshiftLoad
from atlas_cdc_reconciler.sink.redshift.objects import Bucket
from atlas_cdc_reconciler.sink.redshift.plan import Faults, plan_batch
from atlas_cdc_reconciler.sink.redshift.queries import Q
from atlas_cdc_reconciler.sink.redshift.storing import FaultsFoundError, Storing
from atlas_cdc_reconciler.source import SourcePosition
from atlas_cdc_reconciler.tables import TABLES
from atlas_common.db import NO_BEAT, Beat
from atlas_common.telemetry import logger

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = logger(__name__)


class RedshiftWarehouse:
    """As sink.Sink. One thread works through one session, one reads through another.

    Nothing is stored before `claim`. Each claim ends the one before, wherever it was made.
    """

    def __init__(self, config: RedshiftConfig) -> None:
        self._config = config
        self._writer = ThreadPoolExecutor(1, "redshift-writer")
        self._session = Session(config)
        self._reader = ThreadPoolExecutor(1, "redshift-reader")
        self._reading = Session(config)
        self._bucket = Bucket(config)
        self._epoch = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, config: RedshiftConfig) -> AsyncIterator["RedshiftWarehouse"]:
        """A sink until the block ends. Nothing is sent yet: the cluster may start later."""
        warehouse = cls(config)
        try:
            yield warehouse
        finally:
            await warehouse._run(warehouse._session.close)
            await warehouse._read(warehouse._reading.close)
            warehouse._writer.shutdown()
            warehouse._reader.shutdown()

    async def claim(self, owner: str) -> int:
        """Become the one instance that may store anything; answers the epoch that begins.

        Makes what tables are missing, waits for a transaction of the instance before, and deletes
        the files that it left behind. Raises WarehouseError.
        """
        return await self._run(lambda: self._repeated(lambda: self._claim(owner)))

    async def state(self) -> SinkState:
        """As Sink.state."""
        return await self._run(self._state)

    @asynccontextmanager
    async def load(self, position: SourcePosition) -> AsyncIterator[RedshiftLoad]:
        """As Sink.load. The rows are put into the bucket meanwhile, and stored at the end."""
        load = RedshiftLoad(self._run, self._bucket.attempt(self._epoch), position.at)
        try:
            yield load
            await self._run(lambda: self._repeated(lambda: self._finish_load(position, load)))
        finally:
            await self._run(load.attempt.remove)

    async def apply(self, batch: Batch) -> SinkState:
        """As Sink.apply, but that a letter holds back no later change of its row.

        There is no replay of letters here, and a row's last state is better than an old one.
        """
        return await self._run(lambda: self._repeated(lambda: self._apply(batch)))

    async def counts(self) -> Mapping[str, Counts]:
        """As Sink.counts."""
        rows = await self._read(lambda: self._reading.run(Q["counts"]))
        return {row[0]: Counts(*row[1:]) for row in rows}

    async def row_count(self) -> int:
        """Rows of the history. Raises WarehouseError."""
        ((count,),) = await self._read(lambda: self._reading.run(Q["row_count"]))
        return int(count)

    async def _read(self, work: Callable[[], T]) -> T:
        """Read in the reader's thread: not behind a batch that is being stored."""
        future = asyncio.get_running_loop().run_in_executor(self._reader, work)
        return await asyncio.shield(future)

    # From here on: in the writer's thread ---------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        """Work in the writer's thread; it is not interrupted when the caller is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._writer, work)
        return await asyncio.shield(future)

    def _repeated(self, work: Callable[[], T]) -> T:
        for _ in range(self._config.conflict_retries_max):
            try:
                return work()
            except ConflictError as error:
                _log.warning("a transaction met another one", error=str(error))
        return work()

    def _claim(self, owner: str) -> int:
        self._session.run(f"CREATE SCHEMA IF NOT EXISTS {quoted(self._config.schema_name)}")
        for statement in ddl.schema_statements():
            self._session.run(statement)
        with self._session.transaction():
            self._session.run(Q["lock_owner"])  # Waits for a transaction of the owner before us.
            self._session.run(Q["first_owner"])
            self._session.run(Q["claim"], {"owner": owner})
            for name in TABLES:
                self._session.run(Q["begin_counting"], {"table_name": name})
            ((epoch, _),) = self._session.run(Q["owner"])
        self._epoch = int(epoch)
        swept = self._bucket.sweep(self._epoch)
        _log.info("warehouse claimed", owner=owner, epoch=self._epoch, files_swept=swept)
        return self._epoch

    def _state(self) -> SinkState:
        position = None
        for source_id, offset, lsn in self._session.run(Q["position"]):
            position = SourcePosition(source_id, LogPosition(offset, Lsn(lsn)))
        return SinkState(position, self._beat())

    def _beat(self) -> Beat:
        for beat_id, beaten_us in self._session.run(Q["newest_beat"]):
            return Beat(beat_id, _EPOCH + timedelta(microseconds=beaten_us))
        return NO_BEAT

    def _apply(self, batch: Batch) -> SinkState:
        faults: dict[int, Fault] = {}
        while True:
            try:
                return self._store(batch, faults)
            except FaultsFoundError as error:
                faults.update(error.faults)

    def _store(self, batch: Batch, faults: Faults) -> SinkState:
        """Store the batch less what is at fault. Raises FaultsFoundError if there is more of it."""
        plans = plan_batch(batch, faults)
        self._check_few(faults)
        buried = [_buried(batch, number, faults[number]) for number in sorted(faults)]
        attempt = self._bucket.attempt(self._epoch)
        try:
            storing = Storing(self._session, attempt, self._config.iam_role)
            storing.prepare(plans, buried, int(time.time() * 1_000_000))
            with self._session.transaction():
                self._check_owner()
                state = self._state()
                if not _fits(batch, state):
                    return state
                storing.store()
                self._count(_counted(batch, faults))
                self._session.run(Q["set_position"], _stored(batch.position))
                beat = self._beat()
        finally:
            attempt.remove()
        assert state.position is not None
        _tell(_counted(batch, faults), buried)
        return SinkState(SourcePosition(state.position.source_id, batch.position), beat)

    def _check_few(self, faults: Faults) -> None:
        heads = [fault for fault in faults.values() if fault.letter_class in HEADS]
        if len(heads) > self._config.dead_letters_per_batch_max:
            raise TooManyDeadLettersError(
                f"more than {self._config.dead_letters_per_batch_max} changes of one batch"
                f" cannot be applied, the last one: {heads[-1].reason}"
            )

    def _check_owner(self) -> None:
        """Within the transaction, before anything else. A zombie learns of it here."""
        if not self._epoch:
            raise FencedError("this instance has not claimed the warehouse")
        self._session.run(Q["lock_owner"])
        self._session.run(Q["stay_owner"], {"epoch": self._epoch})
        owners = self._session.run(Q["owner"])
        for epoch, owner in owners:
            if epoch != self._epoch:
                raise FencedError(
                    f"{owner} owns the warehouse since epoch {epoch}, ours was {self._epoch}"
                )

    def _finish_load(self, position: SourcePosition, load: RedshiftLoad) -> None:
        counted = {
            name: Counts(
                copied.files.row_count + copied.dead_count,
                copied.files.row_count,
                copied.dead_count,
                0,
            )
            for name, copied in load.tables.items()
        }
        with self._session.transaction():
            self._check_owner()
            if self._session.run(Q["position"]):
                raise WarehouseError("a first copy of what is copied already")
            storing = Storing(self._session, load.attempt, self._config.iam_role)
            for name, copied in load.tables.items():
                storing.insert(TABLES[name], copied.files)
            storing.store_letters(load.letter_files, load.part_files)
            self._count(counted)
            parameters = {"source_id": position.source_id, **_stored(position.at)}
            self._session.run(Q["begin_position"], parameters)
        _tell(counted, ())

    def _count(self, counted: Mapping[str, Counts]) -> None:
        for name, counts in counted.items():
            if name not in TABLES:
                self._session.run(Q["begin_counting"], {"table_name": name})
            self._session.run(Q["count_changes"], {"table_name": name, **asdict(counts)})


def _fits(batch: Batch, state: SinkState) -> bool:
    """Whether the batch is the next one; False: it is stored already."""
    if state.position is None:
        raise RuntimeError("changes before the first copy")
    if batch.position <= state.position.at:
        return False
    if batch.start != state.position.at:
        raise WarehouseError(
            f"the batch begins at {batch.start}, the warehouse stands at {state.position.at}"
        )
    return True


def _buried(batch: Batch, number: int, fault: Fault) -> Buried:
    run, raw = batch.change(number)
    return Buried(
        number,
        run.commit.offset,
        run.commit.lsn.value,
        run.relation.name,
        run.kind.name,
        run.relation.codec.name,
        run.relation.columns_text(),
        fault,
        raw,
    )


def _counted(batch: Batch, faults: Mapping[int, Fault]) -> dict[str, Counts]:
    dead: dict[str, int] = {}
    for number in faults:
        name = batch.change(number)[0].relation.name
        dead[name] = dead.get(name, 0) + 1
    changes, counted = batch.counts(), {}
    for name in sorted(changes.keys() | batch.skipped.keys()):
        buried, skipped = dead.get(name, 0), batch.skipped[name]
        counted[name] = Counts(changes[name] + skipped, changes[name] - buried, buried, skipped)
    return counted


def _tell(counted: Mapping[str, Counts], buried: Iterable[Buried]) -> None:
    """Once it is stored."""
    for letter in buried:
        letter.tell()
    for name, counts in counted.items():
        outcomes = asdict(counts)
        del outcomes["read"]
        for outcome, number in outcomes.items():
            if number:
                metrics.changes.add(number, {"table": name, "outcome": outcome})


def _stored(position: LogPosition) -> dict[str, int]:
    return {"log_offset": position.offset, "lsn": position.lsn.value}
