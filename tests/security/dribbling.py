"""A client of HTTP/2 that sends a message byte by byte, as no library does."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS = 0, 1, 3, 4
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_STREAM = 1
_LONG = 100_000


async def dribble(
    target: str,
    path: str,
    tenant: str,
    messages: Sequence[bytes],
    *,
    seconds: float | None,
) -> bytes:
    """Call a method, send these messages, then one that never ends, a byte in so many seconds.

    None: not even that. Returns the headers that ended the call, as they came: gRPC's servers send
    the text of an error as it is.
    """
    host, port = target.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        whole = b"".join(b"\0" + len(each).to_bytes(4) + each for each in messages)
        writer.write(
            _PREFACE
            + _frame(_SETTINGS, 0, b"", stream=0)
            + _frame(_HEADERS, _END_HEADERS, _headers(path, target, tenant))
            + (_frame(_DATA, 0, whole) if whole else b"")
        )
        ending = asyncio.ensure_future(_end(reader, writer))
        if seconds is not None:
            writer.write(_frame(_DATA, 0, b"\0" + _LONG.to_bytes(4)))
        while not (await asyncio.wait({ending}, timeout=seconds))[0]:
            writer.write(_frame(_DATA, 0, b"x"))
        return ending.result()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    told = b""
    async with aclosing(_frames(reader)) as frames:
        async for kind, flags, stream, payload in frames:
            if kind == _SETTINGS and not flags & _ACK:
                writer.write(_frame(_SETTINGS, _ACK, b"", stream=0))
            if stream == _STREAM and kind == _HEADERS:
                told += payload
            if stream == _STREAM and (kind == _RESET or flags & _END_STREAM):
                break
    return told


async def _frames(
    reader: asyncio.StreamReader,
) -> AsyncGenerator[tuple[int, int, int, bytes], None]:
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
        yield head[3], head[4], int.from_bytes(head[5:]), payload


def _frame(kind: int, flags: int, payload: bytes, stream: int = _STREAM) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def _headers(path: str, authority: str, tenant: str) -> bytes:
    """Literal, as the simplest encoder of HPACK writes them."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "x-atlas-tenant": tenant,
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
