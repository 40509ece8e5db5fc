"""A watch that outlives its streams."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import grpc.aio

from atlas.query.v1 import query_service_pb2 as query_pb2
from atlas_client import live
from atlas_client.call import Caller
from atlas_client.errors import AtlasError
from atlas_client.records import WatchEvent

_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.1, 5.0
_SILENCES_MAX = 3
_SILENCE_SECONDS_MIN = 5.0
"""A first look at many attributes takes longer than a heartbeat may be apart."""


class Watch(AsyncIterator[WatchEvent]):
    """An asynchronous iterator over the changes of entities, without an end.

    A stream that breaks, for a restart for example, is opened again from the last resume_token, so
    that nothing is lost; what was sent after that token comes again. Raises AtlasError when that
    does not work for as long as the patience is, and at once for what no repetition mends:
    POSITION_LOST means to watch anew, without a token. `await watch.aclose()` ends it at once.
    """

    def __init__(
        self,
        caller: Caller,
        method: grpc.aio.UnaryStreamMultiCallable[
            query_pb2.WatchEntitiesRequest, query_pb2.WatchEntitiesResponse
        ],
        request: query_pb2.WatchEntitiesRequest,
        patience_seconds: float,
    ) -> None:
        self._caller = caller
        self._method = method
        self._request = request
        self._patience_seconds = patience_seconds
        self._events = self._all()

    @property
    def resume_token(self) -> bytes:
        """From where another watch can go on: all that came up to it has been given out."""
        return self._request.resume_token

    async def __anext__(self) -> WatchEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """End the call."""
        await self._events.aclose()

    async def _all(self) -> AsyncGenerator[WatchEvent, None]:
        pause, heard = _PAUSE_SECONDS_MIN, time.monotonic()
        interval = self._request.heartbeat_interval.ToTimedelta().total_seconds()
        silence = max(_SILENCE_SECONDS_MIN, _SILENCES_MAX * interval)
        while True:
            try:
                stream = self._caller.endless(self._method, self._request, silence=silence)
                async with aclosing(stream) as answers:  # type: ignore[type-var]
                    async for answer in answers:
                        yield live.watch_event(answer)
                        # After: whoever is cancelled while it has the event gets it again.
                        if answer.resume_token:
                            self._request.resume_token = answer.resume_token
                        pause, heard = _PAUSE_SECONDS_MIN, time.monotonic()
            except AtlasError as error:
                if not _is_mended(error) or time.monotonic() - heard > self._patience_seconds:
                    raise
                pause = max(pause, error.retry_after or 0.0)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(pause * 2, _PAUSE_SECONDS_MAX)


def _is_mended(error: AtlasError) -> bool:
    """Whether another stream may go on; one with a token that has been renewed meanwhile does."""
    return error.is_transient or error.reason == "CREDENTIALS_EXPIRED"
