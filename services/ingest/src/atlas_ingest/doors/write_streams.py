"""All WriteStreams of this process: bounded in number, one for each producer, ended together."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_common import errors
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant, current_tenant
from atlas_common.token import Position, TokenSigner
from atlas_ingest.config import StreamConfig
from atlas_ingest.doors import stream_convert as convert
from atlas_ingest.doors.sequences import ProducerSequences, RisingSequences, Sequences
from atlas_ingest.doors.write_stream import WriteStream
from atlas_ingest.optimizer import Ingested, WriteOptimizer
from atlas_ingest.staging import StagingMonitor
from atlas_ingest.store import Store

_RETRY_AFTER_SECONDS = 1.0
_RECONNECT_SECONDS = 0.1

_Key = tuple[int, str]


class WriteStreams:
    """Opens streams, and knows which of them a producer has."""

    def __init__(
        self,
        optimizer: WriteOptimizer,
        store: Store,
        signer: TokenSigner,
        monitor: StagingMonitor,
        config: StreamConfig,
    ) -> None:
        self._optimizer = optimizer
        self._store = store
        self._signer = signer
        self._monitor = monitor
        self._config = config
        self._streams: set[WriteStream] = set()
        self._producers: dict[_Key, list[WriteStream]] = {}
        self._left: dict[_Key, set[asyncio.Task[Ingested]]] = {}
        self._count = 0
        self._is_draining = False

    @property
    def count(self) -> int:
        """Streams that are open."""
        return self._count

    async def serve(
        self, requests: AsyncIterator[pb.WriteStreamRequest]
    ) -> AsyncGenerator[pb.WriteStreamResponse, None]:
        """One stream, from its start to its end. Raises ServiceError, psycopg.Error."""
        with self._counted():
            messages = aiter(requests)
            start = await self._start(messages)
            tenant = current_tenant()
            stream = WriteStream(
                tenant,
                start,
                optimizer=self._optimizer,
                signer=self._signer,
                monitor=self._monitor,
                config=self._config,
            )
            with self._known(stream, (tenant.id, start.producer_id)):
                sequences, position, held = await self._resume(stream, tenant, start.producer_id)
                async with aclosing(
                    stream.responses(messages, sequences, position, held)
                ) as responses:
                    async for response in responses:
                        yield response

    def drain(self) -> None:
        """End all streams: what is under way is acknowledged, nothing more is taken on."""
        self._is_draining = True
        for stream in self._streams:
            stream.stop(_stopping())

    @contextmanager
    def _counted(self) -> Iterator[None]:
        if self._is_draining:
            raise _stopping()
        if self._count >= self._config.streams_max:
            raise errors.resource_exhausted(
                "OVERLOADED",
                f"{self._count} streams are open already",
                retry_after=_RETRY_AFTER_SECONDS,
                streams_max=self._config.streams_max,
            )
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    async def _start(self, messages: AsyncIterator[pb.WriteStreamRequest]) -> convert.StreamStart:
        try:
            async with asyncio.timeout(self._config.start_seconds):
                first = await anext(messages, None)
        except TimeoutError:
            raise errors.deadline_exceeded(
                "DEADLINE_EXCEEDED",
                f"no start came within {self._config.start_seconds:g} s",
            ) from None
        return convert.start_of(first or pb.WriteStreamRequest())

    @contextmanager
    def _known(self, stream: WriteStream, key: _Key) -> Iterator[None]:
        """While it is known, the stream is its producer's; older ones take on nothing more."""
        if self._is_draining:
            stream.stop(_stopping())
        self._streams.add(stream)
        same = self._producers.setdefault(key, []) if key[1] else []
        for older in same:
            older.stop(_superseded(key[1]))
        same.append(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)
            same.remove(stream)
            if key[1]:
                self._keep_left(key, stream)

    def _keep_left(self, key: _Key, stream: WriteStream) -> None:
        """Remember what the stream left on its way, until that is over."""
        left = self._left.setdefault(key, set())
        for task in stream.under_way:
            left.add(task)
            task.add_done_callback(lambda done: self._forget(key, done))
        self._forget(key, None)

    def _forget(self, key: _Key, done: "asyncio.Task[Ingested] | None") -> None:
        if not self._producers.get(key, True):
            del self._producers[key]
        left = self._left.get(key, set())
        if done is not None:
            left.discard(done)
        if not left:
            self._left.pop(key, None)

    async def _resume(
        self, stream: WriteStream, tenant: Tenant, producer_id: str
    ) -> tuple[Sequences, int, Position | None]:
        if not producer_id:
            return RisingSequences(), 0, None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.settle_seconds):
                await self._settled((tenant.id, producer_id), stream)
        row = await self._store.producer_position(tenant, producer_id)
        if row is None:
            return ProducerSequences(producer_id, 0), 0, None
        return ProducerSequences(producer_id, row.sequence), row.sequence, row.position

    async def _settled(self, key: _Key, stream: WriteStream) -> None:
        """What older streams had taken on is stored: the position tells of it.

        Not needed for being right, it would be known as sent before; but for not sending it again.
        """
        older = [each for each in self._producers[key] if each is not stream]
        for each in older:
            await each.stopped()
        tasks = {task for each in older for task in each.under_way} | self._left.get(key, set())
        if tasks:
            await asyncio.wait(tasks)


def _stopping() -> ServiceError:
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "this process is stopping: open a stream to another",
        retry_after=_RECONNECT_SECONDS,
    )


def _superseded(producer_id: str) -> ServiceError:
    return errors.aborted(
        "PRODUCER_SUPERSEDED",
        f"a newer stream of producer {producer_id!r} took over: if it is not your own, give each"
        " producer an id of its own",
    )
