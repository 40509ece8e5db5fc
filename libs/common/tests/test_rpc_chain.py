"""The chain around every call, on a real server, for every arity."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from atlas_common import telemetry
from atlas_common.config import RpcConfig, TelemetryConfig
from atlas_common.errors import FatalError
from atlas_common.rpc import Access, Insecure, call_chain
from atlas_common.rpc.scope import Scope
from atlas_common.tenant import Tenant
from atlas_common.testing import KnownTenants, serving, serving_at

from .echo_service import ARITIES, NAME, Echo, add, call, failure

STYLES = (*ARITIES, "Written")
ACCESSES = {f"/{NAME}/{style}": Access("telemetry.read") for style in STYLES}
ACME = (("x-atlas-tenant", "acme"),)
GLOBEX = (("x-atlas-tenant", "globex"),)


def chain(**settings: Any) -> Sequence[Scope]:
    return call_chain(
        RpcConfig(**settings),
        authenticator=Insecure("dev"),
        tenants=KnownTenants(Tenant(1, "acme"), Tenant(2, "globex")),
        accesses=ACCESSES,
    )


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def channel(echo: Echo) -> AsyncIterator[grpc.aio.Channel]:
    with telemetry.setup("echo", TelemetryConfig()):
        async with serving(echo, add=add, chain=chain()) as channel:
            yield channel


@pytest.mark.parametrize("arity", STYLES)
async def test_responses_pass(channel: grpc.aio.Channel, arity: str) -> None:
    answer = await call(channel, arity, b"hello", metadata=ACME)
    assert answer == ([b"hello"] if arity.endswith("Unary") else [b"first", b"hello"])


@pytest.mark.parametrize("arity", STYLES)
async def test_a_service_error_keeps_its_reason_field_and_trailers(
    channel: grpc.aio.Channel, arity: str
) -> None:
    error, trailers = await failure(channel, arity, b"service error", metadata=ACME)
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert (error.reason, error.message, error.field) == ("ENTITY_UNKNOWN", "no pump", "key")
    assert error.metadata["key"] == "pump"
    assert len(error.metadata["trace_id"]) == 32
    assert trailers["x-data-source"] == "primary"


@pytest.mark.parametrize("arity", STYLES)
@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (b"database error", "ABORTED", "OVERLOADED"),
        (b"bug", "INTERNAL", "INTERNAL"),
        (b"own timeout", "INTERNAL", "INTERNAL"),
        (b"peer refuses", "INTERNAL", "INTERNAL"),
    ],
)
async def test_other_errors_get_a_reason_and_leak_no_text(
    channel: grpc.aio.Channel, arity: str, request_: bytes, code: str, reason: str
) -> None:
    error, trailers = await failure(channel, arity, request_, metadata=ACME)
    assert (error.code.name, error.reason) == (code, reason)
    assert "secret" not in error.message
    assert b"secret" not in trailers["grpc-status-details-bin"]


async def test_a_peer_that_is_away_is_a_dependency_that_is(channel: grpc.aio.Channel) -> None:
    error, _ = await failure(channel, "UnaryUnary", b"peer away", metadata=ACME)
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert error.reason == "DEPENDENCY_UNAVAILABLE"


@pytest.mark.parametrize("arity", STYLES)
async def test_an_abort_by_the_handler_itself_stays(channel: grpc.aio.Channel, arity: str) -> None:
    error, _ = await failure(channel, arity, b"abort", metadata=ACME)
    assert (error.code, error.message) == (grpc.StatusCode.DATA_LOSS, "by hand")


@pytest.mark.parametrize("arity", STYLES)
async def test_each_call_runs_as_its_own_tenant(channel: grpc.aio.Channel, arity: str) -> None:
    answers = await asyncio.gather(
        *(
            call(channel, arity, b"who", metadata=(*tenant, ("x-request-id", f"r{n}")))
            for n, tenant in enumerate((ACME, GLOBEX) * 5)
        )
    )
    assert [answer[-1] for answer in answers] == [
        f"{'globex' if n % 2 else 'acme'} r{n}".encode() for n in range(10)
    ]


@pytest.mark.parametrize("arity", STYLES)
@pytest.mark.parametrize(
    ("metadata", "code", "reason"),
    [
        ((), "UNAUTHENTICATED", "TENANT_MISSING"),
        ((("x-atlas-tenant", ""),), "UNAUTHENTICATED", "TENANT_MISSING"),
        ((*ACME, *GLOBEX), "UNAUTHENTICATED", "TENANT_MISSING"),
        ((("x-atlas-tenant", "nobody"),), "NOT_FOUND", "TENANT_UNKNOWN"),
    ],
    ids=["none", "empty", "two", "unknown"],
)
async def test_a_call_without_a_known_tenant_is_refused(
    channel: grpc.aio.Channel, arity: str, metadata: Any, code: str, reason: str
) -> None:
    error, _ = await failure(channel, arity, b"who", metadata=metadata)
    assert (error.code.name, error.reason) == (code, reason)


async def test_tenantless_methods_need_no_tenant_and_get_none(echo: Echo) -> None:
    scopes = call_chain(
        RpcConfig(),
        authenticator=Insecure("dev"),
        tenants=KnownTenants(Tenant(1, "acme")),
        accesses={
            **ACCESSES,
            f"/{NAME}/StreamUnary": Access("telemetry.read", tenantless=True),
        },
    )
    async with serving(echo, add=add, chain=scopes) as channel:
        for metadata in ((), ACME):
            (answer,) = await call(channel, "StreamUnary", b"who", metadata=metadata)
            assert answer.startswith(b"None ")
        error, _ = await failure(channel, "UnaryUnary", b"who")
        assert error.reason == "TENANT_MISSING"


def test_callers_are_believed_in_development_alone() -> None:
    for environment in ("staging", "prod"):
        with pytest.raises(FatalError, match=f"refused in environment '{environment}'"):
            Insecure(environment)


@pytest.mark.parametrize("arity", STYLES)
async def test_work_ends_before_the_deadline_so_that_the_reason_arrives(
    echo: Echo, arity: str
) -> None:
    # A reserve that a busy machine does not use up.
    async with serving(echo, add=add, chain=chain(deadline_reserve_ms=5000)) as channel:
        error, _ = await failure(channel, arity, b"wait", metadata=ACME, timeout=1.5)
        assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
        # gRPC's own expiry has no ErrorInfo: this text is the server's.
        assert error.message.startswith("not done within 0.")
        assert await asyncio.wait_for(echo.ended.get(), 5) == "cancelled"


@pytest.mark.parametrize("arity", STYLES)
async def test_a_deadline_too_short_is_refused_before_any_work(echo: Echo, arity: str) -> None:
    async with serving(echo, add=add, chain=chain(deadline_floor_ms=5000)) as channel:
        error, _ = await failure(channel, arity, b"wait", metadata=ACME, timeout=2)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.reason == "DEADLINE_TOO_SHORT"
    assert not echo.started.is_set()


async def test_a_unary_call_without_a_deadline_gets_the_default(echo: Echo) -> None:
    scopes = chain(default_deadline_seconds=0.1)
    async with (
        serving_at(echo, add=add, chain=scopes) as target,
        grpc.aio.insecure_channel(target) as plain,  # Ours would set a timeout.
    ):
        error, _ = await failure(plain, "UnaryUnary", b"wait", metadata=ACME)
        assert error.message == "not done within 0.100 s"
        _, left = await call(plain, "UnaryStream", b"time", metadata=ACME)
        assert left == b"None"  # A stream may go on for ever.


async def test_the_handler_knows_its_time(channel: grpc.aio.Channel) -> None:
    (left,) = await call(channel, "UnaryUnary", b"time", metadata=ACME, timeout=4)
    # 20 ms are kept for reporting; gRPC rounds what it sends up, here to 10 ms.
    assert 0 < float(left) < 3.995


@pytest.mark.parametrize("arity", STYLES)
async def test_cancelling_a_call_cancels_its_handler(
    channel: grpc.aio.Channel, echo: Echo, arity: str
) -> None:
    first = asyncio.Event()
    task = asyncio.create_task(call(channel, arity, b"wait", first, metadata=ACME))
    await asyncio.wait_for(echo.started.wait(), 5)
    if not arity.endswith("Unary"):
        # Cancelled before the first response, grpc.aio's client tells the server only when the call
        # is garbage-collected.
        await asyncio.wait_for(first.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(echo.ended.get(), 5) == "cancelled"


async def test_a_stream_cancelled_while_it_writes_is_closed_within_its_call(
    channel: grpc.aio.Channel, echo: Echo
) -> None:
    stream = cast("Any", channel).unary_stream(f"/{NAME}/UnaryStream")(b"flood", metadata=ACME)
    await stream.read()  # And no more: the server fills its window and waits.
    stream.cancel()
    assert await asyncio.wait_for(echo.ended.get(), 5) == "closed as acme"


async def test_calls_beyond_the_bound_are_refused_with_a_delay(echo: Echo) -> None:
    async with serving(echo, add=add, chain=chain(max_concurrent_rpcs=1)) as channel:
        first = asyncio.create_task(call(channel, "UnaryUnary", b"wait", metadata=ACME))
        await asyncio.wait_for(echo.started.wait(), 5)
        error, _ = await failure(channel, "UnaryUnary", b"x", metadata=ACME)
        assert (error.code.name, error.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert error.retry_after
        echo.release.set()
        assert await first == [b"wait"]
        assert await call(channel, "UnaryUnary", b"x", metadata=ACME) == [b"x"]


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    error, _ = await failure(channel, "Nothing", b"", metadata=ACME)
    assert error.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("id_", ["", "with space", "x" * 129])
async def test_a_request_id_that_is_none_is_replaced(channel: grpc.aio.Channel, id_: str) -> None:
    metadata = (*ACME, ("x-request-id", id_))
    (answer,) = await call(channel, "UnaryUnary", b"who", metadata=metadata)
    assert len(answer.split()[-1]) == 32


@pytest.mark.parametrize("arity", STYLES)
async def test_client_and_server_spans_make_one_trace(
    echo: Echo, arity: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spans.jsonl"
    with telemetry.setup("echo", TelemetryConfig(spans_file=str(path)), instance="e1"):
        async with serving(echo, add=add, chain=chain()) as channel:
            with telemetry.tracer.start_as_current_span("caller"):
                await failure(channel, arity, b"bug", metadata=(*ACME, ("x-request-id", "r7")))
            async with asyncio.timeout(5):
                while len(path.read_text().splitlines()) < 3:  # noqa: ASYNC110 - a file tells nobody.
                    await asyncio.sleep(0.005)
    spans = {span["kind"]: span for span in map(json.loads, path.read_text().splitlines())}
    caller, client, server = spans["INTERNAL"], spans["CLIENT"], spans["SERVER"]
    assert client["parent_id"] == caller["span_id"]
    assert server["parent_id"] == client["span_id"]
    assert server["name"] == f"{NAME}/{arity}"
    assert server["status"] == client["status"] == "ERROR"
    assert server["attributes"]["rpc.grpc.status_code"] == 13
    assert server["attributes"]["atlas.tenant"] == "acme"

    lines = capfd.readouterr().err.splitlines()
    logged = [
        json.loads(line) for line in lines if line.startswith("{")
    ]  # gRPC's core writes, too.
    (line,) = [line for line in logged if line["event"] == "call"]
    assert (line["method"], line["code"]) == (f"/{NAME}/{arity}", "INTERNAL")
    assert (line["tenant"], line["request_id"]) == ("acme", "r7")
    assert line["trace_id"] == server["trace_id"]
    (failed,) = [line for line in logged if line["event"] == "call failed"]
    assert failed["exception"][0]["exc_type"] == "RuntimeError"
    assert failed["trace_id"] == server["trace_id"]
