"""TLS in front of a server that has none: ends it here, and hands on what is inside.

The embedded Postgres and Valkey are built without TLS. What clients see is real all the same: their
own handshake, their own verification of the certificate.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from atlas_devstack.authority import CertificateFiles
from atlas_devstack.ports import LOOPBACK

_BACKLOG = 100
_CHUNK_BYTES = 65_536
_HANDSHAKE_SECONDS_MAX = 10.0
# https://www.postgresql.org/docs/current/protocol-message-formats.html
_SSL_REQUEST = struct.pack(">II", 8, 80_877_103)


class TlsFront:
    """Takes TLS on a port of its own, and nothing in the clear. Made by listen()."""

    def __init__(
        self,
        target_port: int,
        certificate: CertificateFiles,
        *,
        asks_first: bool,
        client_ca_file: Path | None,
    ) -> None:
        self.port = 0
        """Port on loopback; set once it listens."""
        self.taken = 0
        """How many clients said something by TLS: they believe the certificate."""
        self._target_port = target_port
        self._certificate = certificate
        self._asks_first = asks_first
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if client_ca_file is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(client_ca_file)
        self.renew()
        self._loop = asyncio.new_event_loop()
        self._serving: set[asyncio.Task[None]] = set()

    @classmethod
    @contextmanager
    def listen(
        cls,
        target_port: int,
        certificate: CertificateFiles,
        *,
        asks_first: bool = False,
        client_ca_file: Path | None = None,
    ) -> "Iterator[TlsFront]":
        """Serve in a thread until the block ends; then every connection is cut.

        `asks_first`: as Postgres does, whose clients ask whether there is TLS before they begin.
        With `client_ca_file` clients need a certificate of these authorities.
        """
        front = cls(target_port, certificate, asks_first=asks_first, client_ca_file=client_ca_file)
        thread = threading.Thread(target=front._loop.run_forever, name="tls-front", daemon=True)
        thread.start()
        try:
            with socket.create_server((LOOPBACK, 0), backlog=_BACKLOG) as listener:
                listener.setblocking(False)
                front.port = listener.getsockname()[1]
                front._loop.call_soon_threadsafe(front._listen, listener)
                try:
                    yield front
                finally:
                    front._called(front._end(listener))
        finally:
            front._loop.call_soon_threadsafe(front._loop.stop)
            thread.join()
            front._loop.close()

    def renew(self) -> None:
        """Show what is in the certificate's files now, to connections from now on."""
        self._context.load_cert_chain(self._certificate.certificate, self._certificate.key)

    def cut(self) -> None:
        """End all connections that are open; new ones work."""
        self._called(self._cut())

    def _called(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _listen(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._accept, listener)

    async def _end(self, listener: socket.socket) -> None:
        self._loop.remove_reader(listener)
        await self._cut()

    async def _cut(self) -> None:
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        for _ in range(3):  # Transports close a step after they were told to.
            await asyncio.sleep(0)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # The client is gone again.
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        # Also of a task that is cancelled before its first step.
        task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        # Whoever is not who he must be, or goes away, is gone: nothing is handed on for him.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_HANDSHAKE_SECONDS_MAX):
                if self._asks_first and not await self._was_asked(connection):
                    return
                client = await self._by_tls(connection)
            try:
                server = await asyncio.open_connection(LOOPBACK, self._target_port)
            except OSError:
                client[1].transport.abort()
                raise
            await _joined(client, server, self._take)

    def _take(self) -> None:
        self.taken += 1

    async def _was_asked(self, connection: socket.socket) -> bool:
        request = b""
        while len(request) < len(_SSL_REQUEST):
            more = await self._loop.sock_recv(connection, len(_SSL_REQUEST) - len(request))
            if not more:
                return False
            request += more
        if request != _SSL_REQUEST:
            return False
        await self._loop.sock_sendall(connection, b"S")
        return True

    async def _by_tls(
        self, connection: socket.socket
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=self._context
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)


_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _joined(client: _Stream, server: _Stream, on_first: Callable[[], None]) -> None:
    """Forward both ways until either side ends."""
    pumps = {
        asyncio.create_task(_pump(client[0], server[1], on_first)),
        asyncio.create_task(_pump(server[0], client[1])),
    }
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for _, writer in (client, server):  # What is under way is sent yet.
            writer.close()
        for _, writer in (client, server):
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for _, writer in (client, server):
            writer.transport.abort()


async def _pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    on_first: Callable[[], None] | None = None,
) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            if on_first is not None:
                on_first()
                on_first = None
            writer.write(chunk)
            await writer.drain()
