"""A server's life: readiness, the port file, the drain."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from atlas_common.config import RpcConfig
from atlas_common.errors import FatalError
from atlas_common.rpc import new_server, serve

from .echo_service import NAME, Echo, add, call

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Dependency:
    """A readiness check whose outcome the test decides."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.hangs = False

    async def check(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.problem is not None:
            raise self.problem


class Running:
    """A server that runs, and the handles on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.echo = Echo()
        self.dependency = Dependency()
        self.stop = asyncio.Event()
        self.port_file = tmp_path / "port"
        self.task: asyncio.Task[None] | None = None
        self.target = ""

    def config(self, **settings: Any) -> RpcConfig:
        return RpcConfig.model_validate(
            {
                "port_file": str(self.port_file),
                "readiness_interval_seconds": 0.02,
                "readiness_timeout_seconds": 0.1,
                **settings,
            }
        )

    async def start(self, config: RpcConfig, **options: Any) -> None:
        server = new_server(config, [])
        add(self.echo, server)
        self.task = asyncio.create_task(
            serve(
                server,
                config,
                services=[NAME],
                readiness={"dependency": self.dependency.check},
                stop=self.stop,
                **options,
            )
        )
        await self.until(lambda: self.port_file.exists() or self.done)
        if self.port_file.exists():
            self.target = self.port_file.read_text().strip()

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    async def finish(self) -> None:
        assert self.task is not None
        self.stop.set()
        await asyncio.wait_for(self.task, 10)

    @staticmethod
    async def until(holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110 - files and servers tell nobody.
                await asyncio.sleep(0.005)

    async def health(self, service: str = "") -> int:
        async with grpc.aio.insecure_channel(self.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            return int(answer.status)

    async def becomes(self, status: int, service: str = "") -> None:
        async with asyncio.timeout(10):
            while await self.health(service) != status:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path)
    yield running
    if running.task is not None and not running.done:
        running.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running.task


async def test_readiness_follows_the_dependencies_and_liveness_does_not(running: Running) -> None:
    running.dependency.problem = ConnectionError("away")
    await running.start(running.config())
    for service in ("", NAME):
        assert await running.health(service) == NOT_SERVING
    assert await running.health("liveness") == SERVING
    running.dependency.problem = None
    for service in ("", NAME):
        await running.becomes(SERVING, service)
    running.dependency.hangs = True  # A check that hangs counts as failed after its timeout.
    await running.becomes(NOT_SERVING)
    assert await running.health("liveness") == SERVING
    running.dependency.hangs = False
    await running.becomes(SERVING)
    await running.finish()


async def test_an_unknown_services_health_is_not_found(running: Running) -> None:
    await running.start(running.config())
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.health("no.such.Service")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    await running.finish()


async def test_the_port_file_has_the_address_and_a_newline(running: Running) -> None:
    await running.start(running.config())
    host, _, port = running.port_file.read_text().rpartition(":")
    assert host == "127.0.0.1"
    assert port.endswith("\n")
    assert int(port) > 0
    await running.finish()


async def test_reflection_lists_the_services(running: Running) -> None:
    await running.start(running.config())
    async with grpc.aio.insecure_channel(running.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        stream = stub.ServerReflectionInfo()
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await stream.read()
        await stream.done_writing()
        names = {service.name for service in answer.list_services_response.service}
        assert await stream.read() == grpc.aio.EOF
    assert {NAME, "grpc.health.v1.Health"} <= names
    await running.finish()


async def test_a_drain_lets_running_calls_finish_and_takes_no_new_ones(running: Running) -> None:
    await running.start(running.config())
    async with grpc.aio.insecure_channel(running.target) as channel:
        under_way = asyncio.create_task(call(channel, "UnaryUnary", b"wait"))
        await asyncio.wait_for(running.echo.started.wait(), 5)
        running.stop.set()

        async def refused() -> bool:
            async with grpc.aio.insecure_channel(running.target) as other:
                try:
                    await call(other, "UnaryUnary", b"x", timeout=1)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        async with asyncio.timeout(10):
            while not await refused():  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert not running.done
        running.echo.release.set()
        assert await under_way == [b"wait"]
    await running.finish()


async def test_calls_that_outlast_the_grace_are_cancelled(running: Running) -> None:
    await running.start(running.config(grace_seconds=0.1))
    async with grpc.aio.insecure_channel(running.target) as channel:
        task = asyncio.create_task(call(channel, "UnaryUnary", b"wait"))
        await asyncio.wait_for(running.echo.started.wait(), 5)
        await running.finish()
        with pytest.raises(grpc.aio.AioRpcError):
            await task
    assert running.echo.ended.get_nowait() == "cancelled"


async def test_a_health_watch_tells_of_the_stop_and_does_not_hold_it_up(running: Running) -> None:
    await running.start(running.config(grace_seconds=60))
    await running.becomes(SERVING)
    async with grpc.aio.insecure_channel(running.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == SERVING
        await running.finish()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() == grpc.aio.EOF


async def test_sigterm_stops_and_a_second_one_stops_at_once(running: Running) -> None:
    await running.start(running.config(grace_seconds=60))
    async with grpc.aio.insecure_channel(running.target) as channel:
        task = asyncio.create_task(call(channel, "UnaryUnary", b"wait"))
        await asyncio.wait_for(running.echo.started.wait(), 5)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(running.stop.wait(), 5)
        assert not running.done  # The call has sixty seconds,
        os.kill(os.getpid(), signal.SIGTERM)
        await running.finish()  # but not any more.
        with pytest.raises(grpc.aio.AioRpcError):
            await task
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_background_tasks_run_until_the_last_call_is_answered(running: Running) -> None:
    alive = asyncio.Event()
    ended_after_release = False

    async def work() -> None:
        nonlocal ended_after_release
        alive.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended_after_release = running.echo.release.is_set()

    await running.start(running.config(), background={"work": work})
    await asyncio.wait_for(alive.wait(), 5)
    async with grpc.aio.insecure_channel(running.target) as channel:
        under_way = asyncio.create_task(call(channel, "UnaryUnary", b"wait"))
        await asyncio.wait_for(running.echo.started.wait(), 5)
        running.stop.set()
        running.echo.release.set()
        await under_way
    await running.finish()
    assert ended_after_release


@pytest.mark.parametrize("where", ["check", "background"])
async def test_a_fatal_error_stops_the_server_and_leaves_it(running: Running, where: str) -> None:
    async def fatal() -> None:
        raise FatalError("superuser")

    if where == "check":
        running.dependency.problem = FatalError("superuser")
    await running.start(
        running.config(), background={"work": fatal} if where == "background" else {}
    )
    assert running.task is not None
    with pytest.raises(FatalError, match="superuser"):
        await asyncio.wait_for(running.task, 10)


async def test_an_address_in_use_is_fatal_and_named(running: Running) -> None:
    await running.start(running.config())
    port = int(running.target.rpartition(":")[2])
    config = RpcConfig(port=port)
    with pytest.raises(FatalError, match=f"ATLAS_RPC__PORT: cannot listen on 127.0.0.1:{port}"):
        await serve(new_server(config, []), config, services=[])
    await running.finish()
