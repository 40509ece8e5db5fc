"""A TCP proxy that misbehaves on command, between a service and a server under test."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from atlas_devstack.ports import LOOPBACK

_CHUNK_BYTES = 65_536
_BACKLOG = 100
_CHUNKS_IN_FLIGHT_MAX = 64  # Per direction; then the sender feels back pressure.
_LINGER_NONE = struct.pack("ii", 1, 0)  # Closing sends RST.


class FaultProxy:
    """Forwards connections on a port of its own to a target; every fault holds until changed.

    Belongs to one event loop. Made by listen().
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = 0
        """Port on loopback; set once it listens."""
        self.latency_seconds = 0.0
        """Delay added in each direction, without narrowing the bandwidth."""
        self._target = (target_host, target_port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_refusing = False
        self._fatal_request: tuple[bytes, int | None] | None = None
        self._answers_held = asyncio.Event()
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def listen(
        cls, target_port: int, target_host: str = LOOPBACK
    ) -> AsyncIterator["FaultProxy"]:
        """Forward to the target until the context ends; then every connection is cut."""
        proxy = cls(target_host, target_port)
        # Not asyncio's server: it loses connections that it has accepted and not yet handed over
        # when it is closed (python/cpython#109564).
        with socket.create_server((LOOPBACK, 0), backlog=_BACKLOG) as listener:
            listener.setblocking(False)
            proxy.port = listener.getsockname()[1]
            loop = asyncio.get_running_loop()
            loop.add_reader(listener, proxy._accept, listener)
            try:
                yield proxy
            finally:
                loop.remove_reader(listener)
                proxy.refuse()
                if proxy._serving:
                    await asyncio.wait(proxy._serving)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def stall(self) -> None:
        """Let nothing through any more, in either direction; connections stay and may be made."""
        self._flowing.clear()

    def resume(self) -> None:
        """End stall() and refuse()."""
        self._is_refusing = False
        self._flowing.set()

    def hold_answers_to(self, request: bytes, *, client_port: int | None = None) -> asyncio.Event:
        """Let the next request that contains these bytes through, and no answer to it.

        The server does what it was asked to, and the client never hears of it. Only that
        connection is affected, for good: the one that the server sees coming from `client_port`,
        or any. The event is set when the request has been seen. The bytes must lie in one packet,
        which those of a short request do.
        """
        self._answers_held = asyncio.Event()
        self._fatal_request = (request, client_port)
        return self._answers_held

    def refuse(self) -> None:
        """Cut what is open, and reset every new connection at once: the server is down."""
        self._is_refusing = True
        self.cut()

    def cut(self) -> None:
        """Reset all open connections, on both sides; new ones work."""
        for link in tuple(self._links):
            link.cut()

    def half_open(self) -> None:
        """Reset the server's side only: clients keep connections that nobody answers on.

        What a failed machine or a dropped NAT entry looks like.
        """
        for link in self._links:
            link.half_open()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # The client is gone again.
            return
        connection.setblocking(False)
        # Known before its first step: a proxy that ends now must still end this connection.
        task = asyncio.create_task(self._serve(connection))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        if self._refuses():
            _reset(writer)
            return
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
            return
        if self._refuses():  # Since a moment ago, while we were connecting.
            _reset(writer)
            _reset(upstream_writer)
            return
        link = _Link(self, (reader, writer), (upstream_reader, upstream_writer))
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            _reset(writer)
            _reset(upstream_writer)

    def _refuses(self) -> bool:
        return self._is_refusing

    def _is_fatal(self, chunk: bytes, client_port: int) -> bool:
        if self._fatal_request is None:
            return False
        request, wanted_port = self._fatal_request
        if request not in chunk or wanted_port not in {None, client_port}:
            return False
        self._fatal_request = None
        self._answers_held.set()
        return True

    async def _pass_on(self, due: float) -> None:
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        await self._flowing.wait()


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One client's connection and ours to the server."""

    def __init__(self, proxy: FaultProxy, client: _Stream, server: _Stream) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._client_port: int = server[1].get_extra_info("sockname")[1]
        """Of this client, as the server sees it."""
        self._is_half_open = False
        self._answers_flow = asyncio.Event()
        self._answers_flow.set()
        self._forwarding: asyncio.Future[tuple[None, None]] | None = None

    async def run(self) -> None:
        """Forward both ways until both sides have ended, or a fault ends it."""
        up = self._pump(self._client[0], self._server[1])
        down = self._pump(self._server[0], self._client[1])
        self._forwarding = asyncio.gather(up, down)
        await asyncio.wait({self._forwarding})  # Also returns when it is cancelled.
        if not self._forwarding.cancelled():
            error = self._forwarding.exception()
            # A pump that was cancelled, not the gathering of them: asyncio tells these apart.
            if error is not None and not isinstance(error, asyncio.CancelledError):
                raise error
        if self._is_half_open:
            with contextlib.suppress(OSError):
                while await self._client[0].read(_CHUNK_BYTES):
                    pass  # Swallowed, as a dead network would.

    def cut(self) -> None:
        """Reset both sides."""
        self._end_forwarding()
        _reset(self._client[1])
        _reset(self._server[1])

    def half_open(self) -> None:
        """Reset the server's side; the client keeps its connection until it gives up."""
        self._is_half_open = True
        self._end_forwarding()
        _reset(self._server[1])

    def _end_forwarding(self) -> None:
        if self._forwarding is not None:
            self._forwarding.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_IN_FLIGHT_MAX)
        await asyncio.gather(self._take(reader, queue), self._give(writer, queue))

    async def _take(
        self, reader: asyncio.StreamReader, queue: "asyncio.Queue[tuple[float, bytes]]"
    ) -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = await reader.read(_CHUNK_BYTES)
            except OSError:
                chunk = b""
            if reader is self._client[0] and self._proxy._is_fatal(chunk, self._client_port):
                self._answers_flow.clear()  # Before the server can see the request.
            due = asyncio.get_running_loop().time() + self._proxy.latency_seconds
            await queue.put((due, chunk))

    async def _give(
        self, writer: asyncio.StreamWriter, queue: "asyncio.Queue[tuple[float, bytes]]"
    ) -> None:
        while True:
            due, chunk = await queue.get()
            await self._proxy._pass_on(due)
            if writer is self._client[1]:
                await self._answers_flow.wait()
            with contextlib.suppress(OSError, RuntimeError):  # The other side is gone: drain.
                if chunk:
                    writer.write(chunk)
                    await writer.drain()
                else:
                    writer.write_eof()
            if not chunk:
                return


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
    writer.transport.abort()
