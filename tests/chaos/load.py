"""Clients under load: they send, note every outcome, and repeat what they do not know."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas_client.call import open_channel
from atlas_client.errors import AtlasError
from atlas_common.rpc import TENANT_KEY

from .ledger import Ledger, Level, SentBatch

CALL_SECONDS_MAX = 15.0
DRAIN_SECONDS_MAX = 40.0
_PAUSE_SECONDS = 0.05
Stub = Any  # IngestServiceAsyncStub: it exists for type checkers only.
LEVELS = (Level.DURABLE, Level.COMMITTED, Level.STAGED)


@dataclass
class Door:
    """The ingest processes that clients may go to."""

    stubs: list[Stub]
    ledger: Ledger
    patience_seconds: float = 10.0
    """How long a producer waits for what was acknowledged and is missing when it comes back."""
    _next: Iterator[int] = field(default_factory=itertools.count)

    def stub(self) -> Stub:
        """One of them; asked again, the next."""
        return self.stubs[next(self._next) % len(self.stubs)]

    async def attempt(self, call: Callable[[Stub], Awaitable[None]], stub: Stub) -> bool:
        """Make a call once; False if it has to be made again. Raises AtlasError otherwise.

        What has to be made again is what the platform's own client repeats, and what took too long.
        """
        try:
            await call(stub)
        except grpc.aio.AioRpcError as raised:
            error = AtlasError.from_rpc(raised)
            self.ledger.failures[f"{error.code.name} {error.reason}".strip()] += 1
            if not (error.is_transient or _is_broken(error)):
                raise error from raised
            if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after is None:
                self.ledger.surprises.append(f"no RetryInfo: {error}")
            await asyncio.sleep(error.retry_after or _PAUSE_SECONDS)
            return False
        return True

    async def repeat(self, call: Callable[[Stub], Awaitable[None]]) -> None:
        """Make a call at one process after another until one of them answers it."""
        while not await self.attempt(call, self.stub()):
            pass

    async def deliver(self, batch: SentBatch) -> None:
        """Write a batch, by one or more calls, until its outcome is known."""
        await self.settle(batch, self._write)

    async def settle(
        self, batch: SentBatch, write: Callable[[Stub, SentBatch], Awaitable[None]]
    ) -> None:
        """The same with another kind of call, which acknowledges the batch."""

        async def attempt(stub: Stub) -> None:
            batch.attempts += 1
            await write(stub, batch)

        try:
            await self.repeat(attempt)
        except AtlasError as error:
            self.refused(batch, error.reason or str(error))
        else:
            if batch.is_bad:
                self.ledger.surprises.append(f"{batch.key}: a bad batch was acknowledged")

    def refused(self, batch: SentBatch, reason: str) -> None:
        """A batch was refused for good: as it should be, or not."""
        batch.refuse(reason)
        if not (batch.is_bad and reason == "VALUE_OUT_OF_RANGE"):
            self.ledger.surprises.append(f"{batch.key} was refused: {reason}")

    async def _write(self, stub: Stub, batch: SentBatch) -> None:
        answer = await stub.Write(
            write_request(batch), timeout=CALL_SECONDS_MAX, metadata=((TENANT_KEY, batch.tenant),)
        )
        if answer.accepted_count != len(batch.points):
            self.ledger.surprises.append(f"{batch.key}: accepted {answer.accepted_count}")
        batch.acknowledge(answer.token, duplicate=answer.duplicate)


def _is_broken(error: AtlasError) -> bool:
    """It took too long, or gRPC itself met the end of a stream while it sent."""
    if error.code is grpc.StatusCode.INTERNAL:
        return not error.reason
    return error.code is grpc.StatusCode.DEADLINE_EXCEEDED


def write_request(batch: SentBatch) -> pb.WriteRequest:
    """The same bytes at every attempt."""
    return pb.WriteRequest(
        request_id=batch.key,
        points=[point.message() for point in batch.points],
        ack=pb.AckLevel.ValueType(batch.level),
    )


@asynccontextmanager
async def door_to(targets: Sequence[str], ledger: Ledger) -> AsyncIterator[Door]:
    """Channels to these processes."""
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(open_channel(t, None)) for t in targets]
        stubs = [ingest_service_pb2_grpc.IngestServiceStub(channel) for channel in channels]
        yield Door(stubs, ledger)


class Burst:
    """Batches sent when a test says so; after the block every outcome is known."""

    def __init__(
        self, door: Door, tenants: Sequence[str], points: int, tasks: asyncio.TaskGroup
    ) -> None:
        self._door = door
        self._tenants = tenants
        self._points = points
        self._tasks = tasks
        self._numbers = itertools.count()

    def send(self, batches: int, level: Level = Level.DURABLE, *, clients: int = 1) -> None:
        """So many of each tenant, all at once, and each of them by so many clients."""
        for number in itertools.islice(self._numbers, batches):
            for tenant in self._tenants:
                batch = self._door.ledger.new_batch(tenant, f"burst-{number}", level, self._points)
                for _ in range(clients):
                    self.send_again(batch)

    def send_again(self, batch: SentBatch) -> None:
        """By one client more."""
        self._tasks.create_task(self._door.deliver(batch))

    @classmethod
    @asynccontextmanager
    async def to(cls, door: Door, tenants: Sequence[str], *, points: int) -> "AsyncIterator[Burst]":
        """Through this door. TimeoutError if some outcome stays unknown."""
        async with asyncio.TaskGroup() as tasks, asyncio.timeout(None) as patience:
            yield cls(door, tenants, points, tasks)
            patience.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS_MAX)
