"""A channel that takes up new credentials without anybody noticing."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import grpc
import grpc.aio

from atlas.wire.pem import Pem, PemFiles

Open = Callable[[grpc.ChannelCredentials], grpc.aio.Channel]


def credentials(pem: Pem) -> grpc.ChannelCredentials:
    """TLS to servers of the authorities (those of the system if there are none), with our own
    certificate if there is one.
    """
    return grpc.ssl_channel_credentials(
        root_certificates=pem.ca, private_key=pem.key, certificate_chain=pem.certificate
    )


class RenewedChannel(grpc.aio.Channel):
    """A channel whose calls begin on a connection made with the newest certificates.

    When the files have changed, the next call opens another channel; the former is closed once the
    last of its calls has ended, so that no call is lost to it.
    """

    def __init__(self, files: PemFiles, open_: Open) -> None:
        self._files = files
        self._open = open_
        self._pem = files.current()
        self._current = _Generation(open_(credentials(self._pem)))
        self._former: set[_Generation] = set()
        self._closing: set[asyncio.Task[None]] = set()

    def generation(self) -> "_Generation":
        """Where a call that begins now belongs."""
        pem = self._files.current()
        if pem is not self._pem:
            former, self._pem = self._current, pem
            self._current = _Generation(self._open(credentials(pem)))
            self._former.add(former)
            former.when_idle(self._retire)
        return self._current

    def _retire(self, former: "_Generation") -> None:
        self._former.discard(former)
        task = asyncio.ensure_future(former.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "unary_unary", arguments, options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "unary_stream", arguments, options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "stream_unary", arguments, options)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        return _Method(self, "stream_stream", arguments, options)

    async def close(self, grace: float | None = None) -> None:
        """Close all; calls under way get `grace` seconds."""
        channels = [self._current.channel, *(former.channel for former in self._former)]
        self._former.clear()
        await asyncio.gather(*(channel.close(grace) for channel in channels), *self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """That of the newest connection."""
        return self._current.channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """That of the newest connection."""
        await self._current.channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the newest connection is made."""
        await self.generation().channel.channel_ready()


class _Generation:
    """A channel with the calls that began on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._calls = 0
        self._idle: Callable[[_Generation], None] | None = None

    def begun(self, call: grpc.aio.Call) -> None:
        """Count a call until it is done."""
        self._calls += 1
        call.add_done_callback(self._ended)

    def when_idle(self, idle: "Callable[[_Generation], None]") -> None:
        """Have this called when no call is left; at once if none is."""
        self._idle = idle
        self._tell()

    def _ended(self, _: object) -> None:
        self._calls -= 1
        self._tell()

    def _tell(self) -> None:
        if self._calls == 0 and self._idle is not None:
            idle, self._idle = self._idle, None
            idle(self)


class _Method:
    """A method's callable, on whichever channel is current when it is called."""

    def __init__(
        self, channel: RenewedChannel, arity: str, arguments: tuple[Any, ...], options: Any
    ) -> None:
        self._channel = channel
        self._arity = arity
        self._arguments = arguments
        self._options = options
        self._generation: _Generation | None = None
        self._callable: Any = None
        path = arguments[0] if arguments else options["method"]
        self._method = path.encode() if isinstance(path, str) else path  # As grpc.aio's own.

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        generation = self._channel.generation()
        if generation is not self._generation:
            make = getattr(generation.channel, self._arity)
            self._generation, self._callable = generation, make(*self._arguments, **self._options)
        call = self._callable(*arguments, **options)
        generation.begun(call)
        return call
