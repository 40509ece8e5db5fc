"""The fault proxy does to connections what it says."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from atlas_devstack.proxy import FaultProxy

SOON_SECONDS = 5.0
BRIEFLY_SECONDS = 0.1


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy before a server that echoes."""

    echoing: set[asyncio.Task[None] | None] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        echoing.add(asyncio.current_task())
        try:
            while chunk := await reader.read(65_536):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, FaultProxy.listen(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    await asyncio.gather(*(task for task in echoing if task))


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, proxy: FaultProxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def echo(self, sent: bytes) -> bytes:
        self.writer.write(sent)
        return await self.reader.readexactly(len(sent))

    def close(self) -> None:
        self.writer.transport.abort()


async def test_it_forwards_more_than_it_buffers(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    sent = bytes(range(256)) * 65_536  # 16 MiB
    async with asyncio.timeout(SOON_SECONDS):
        assert await client.echo(sent) == sent
    client.close()


async def test_latency_delays_both_directions(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    proxy.latency_seconds = 0.05
    began = asyncio.get_running_loop().time()
    await client.echo(b"x")
    assert asyncio.get_running_loop().time() - began >= 0.1
    client.close()


async def test_a_stall_holds_bytes_back_and_loses_none(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    assert await client.echo(b"a") == b"a"
    proxy.stall()
    echo = asyncio.ensure_future(client.echo(b"b"))
    done, _ = await asyncio.wait({echo}, timeout=BRIEFLY_SECONDS)
    assert not done
    proxy.resume()
    async with asyncio.timeout(SOON_SECONDS):
        assert await echo == b"b"
    client.close()


async def test_a_cut_resets_even_a_stalled_connection_and_new_ones_work(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    await client.echo(b"a")
    proxy.stall()
    client.writer.write(b"b")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(SOON_SECONDS):
            await client.reader.read(1)
    proxy.resume()
    again = await Client.connect(proxy)
    assert await again.echo(b"c") == b"c"
    client.close()
    again.close()


async def test_held_answers_are_those_of_one_connection_from_one_request_on(
    proxy: FaultProxy,
) -> None:
    client, other = await Client.connect(proxy), await Client.connect(proxy)
    held = proxy.hold_answers_to(b"COMMIT")
    assert await client.echo(b"BEGIN") == b"BEGIN"
    assert not held.is_set()
    echo = asyncio.ensure_future(client.echo(b"Q COMMIT;"))
    async with asyncio.timeout(SOON_SECONDS):
        await held.wait()
    assert await other.echo(b"COMMIT") == b"COMMIT"
    done, _ = await asyncio.wait({echo}, timeout=BRIEFLY_SECONDS)
    assert not done
    echo.cancel()
    client.close()
    other.close()


async def test_half_open_leaves_the_client_without_an_answer(proxy: FaultProxy) -> None:
    client = await Client.connect(proxy)
    await client.echo(b"a")
    proxy.half_open()
    echo = asyncio.ensure_future(client.echo(b"b"))
    done, _ = await asyncio.wait({echo}, timeout=BRIEFLY_SECONDS)
    assert not done
    echo.cancel()
    client.close()


async def test_refusing_resets_new_connections_until_resumed(proxy: FaultProxy) -> None:
    proxy.refuse()
    client = await Client.connect(proxy)
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(SOON_SECONDS):
            await client.reader.read(1)
    proxy.resume()
    again = await Client.connect(proxy)
    assert await again.echo(b"c") == b"c"
    client.close()
    again.close()


@pytest.mark.parametrize("turns", range(12))
async def test_it_ends_what_was_just_accepted(turns: int) -> None:
    """Whatever step of accepting a connection the end falls on, nothing is left open."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        async with FaultProxy.listen(server.getsockname()[1]) as proxy:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", proxy.port))
            for _ in range(turns):
                await asyncio.sleep(0)
    del proxy
    assert open_transports() == []


def open_transports() -> list[object]:
    """Sockets that the loop has and nobody closed."""
    gc.collect()
    return [
        transport
        for transport in gc.get_objects()
        if isinstance(transport, asyncio.Transport) and not transport.is_closing()
    ]
