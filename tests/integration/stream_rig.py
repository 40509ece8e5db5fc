"""A WriteStream that a test drives message by message."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common import errors
from atlas_common.errors import ServiceError

from .ingest_rig import Client, as_tenant


class Stream:
    """An open stream, started unless told otherwise."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.position = 0
        self.token = b""
        self.credit = pb.WriteStreamCredit()
        self.messages = 0

    async def begin(self, **start: Any) -> None:
        """Send the start; take the answer."""
        await self.call.write(pb.WriteStreamRequest(start=pb.WriteStreamStart(**start)))
        response = await self._next()
        assert response.HasField("started")
        assert not response.acks
        self.position = response.started.position

    async def send(self, sequence: int, points: Sequence[value_pb2.Point], **fields: Any) -> None:
        """One batch."""
        batch = pb.WriteStreamBatch(sequence=sequence, points=points, **fields)
        await self.call.write(pb.WriteStreamRequest(batch=batch))

    async def acks(self, count: int) -> list[pb.BatchAck]:
        """The next acknowledgements."""
        acks: list[pb.BatchAck] = []
        while len(acks) < count:
            acks += (await self._next()).acks
        assert len(acks) == count
        return acks

    async def acks_of_next(self) -> list[pb.BatchAck]:
        """The acknowledgements in the next message."""
        return list((await self._next()).acks)

    async def end(self) -> list[pb.BatchAck]:
        """End our side; the rest of the acknowledgements."""
        await self.call.done_writing()
        acks: list[pb.BatchAck] = []
        while (response := await self.call.read()) is not grpc.aio.EOF:
            acks += response.acks
        return acks

    async def failure(self) -> ServiceError:
        """The error that the stream ends with; what comes before it is passed over."""
        try:
            while True:
                await self._next()
        except grpc.aio.AioRpcError as error:
            return errors.from_rpc_error(error)

    async def _next(self) -> pb.WriteStreamResponse:
        response = await self.call.read()
        assert response is not grpc.aio.EOF, "the stream has ended"
        self.messages += 1
        self.token = response.token or self.token
        if response.HasField("credit"):
            self.credit = response.credit
        answer: pb.WriteStreamResponse = response
        return answer


@asynccontextmanager
async def stream_of(client: Client, tenant: str, **start: Any) -> AsyncIterator[Stream]:
    """A started stream."""
    async with unstarted(client, tenant) as stream:
        await stream.begin(**start)
        yield stream


@asynccontextmanager
async def unstarted(client: Client, tenant: str) -> AsyncIterator[Stream]:
    """A stream without its first message."""
    call = client.ingest.WriteStream(metadata=as_tenant(tenant), timeout=60)
    try:
        yield Stream(call)
    finally:
        call.cancel()
