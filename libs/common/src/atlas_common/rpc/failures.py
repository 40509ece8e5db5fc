"""The scope in which every way to fail becomes one google.rpc.Status."""

import asyncio
from typing import Any

import grpc
import grpc.aio
from opentelemetry import trace

from atlas_common import errors, sqlstate
from atlas_common.call import request_id
from atlas_common.errors import STATUS_DETAILS_KEY, ServiceError
from atlas_common.rpc.scope import Call, Context, Proceed
from atlas_common.telemetry.logs import logger

_log = logger("atlas.rpc")
_PEER_CODES = frozenset(  # A peer's codes that are true of us as well; any other means our own bug.
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)


async def failures_reported(call: Call, proceed: Proceed) -> Any:
    """End the call with the status of what it raises; cancellations pass."""
    try:
        answer = await proceed()
    except (asyncio.CancelledError, grpc.aio.AbortError):
        if call.code is grpc.StatusCode.OK:
            call.code = code_of(call.context)  # The handler called context.abort() itself.
        raise
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told.
        failure = translated(error)
        if failure.code is grpc.StatusCode.INTERNAL:
            _log.exception("call failed", method=call.method)
        elif failure is not error:
            _log.warning("call failed", method=call.method, cause=repr(error), error=str(failure))
        call.code, call.reason = failure.code, failure.reason
        trailers = _trailers(call.context, failure)
        if not call.is_unary:
            await call.context.abort(failure.code, failure.message, trailers)
        # Of a unary call the answer is left out where a code is set. abort() does the same by an
        # exception, and takes a fifth more of the processor: what is refused comes in floods.
        call.context.set_code(failure.code)
        call.context.set_details(failure.message)
        call.context.set_trailing_metadata(trailers)
        return None
    else:
        call.code = code_of(call.context)
        return answer


def translated(error: Exception) -> ServiceError:
    """What the caller may know of an error: nothing, unless it was made to be shown."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        relayed = errors.from_rpc_error(error)
        if relayed.code in _PEER_CODES:
            return relayed
    return sqlstate.to_service_error(error) or errors.internal("INTERNAL", "internal error")


def _trailers(context: Context, failure: ServiceError) -> tuple[tuple[str, str | bytes], ...]:
    """What a failure ends with: the trailers of a read belong to its error, too."""
    id_ = request_id()
    if id_ is not None:
        failure.metadata.setdefault("request_id", id_)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        failure.metadata.setdefault("trace_id", trace.format_trace_id(span.trace_id))
    # Both ways to end a call replace what the handler set.
    trailers = tuple(context.trailing_metadata() or ())
    return (*trailers, (STATUS_DETAILS_KEY, failure.to_status().SerializeToString()))


def code_of(context: Context) -> grpc.StatusCode:
    """The code that the handler set; OK if none."""
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return errors.status_code(code) if isinstance(code, int) else grpc.StatusCode.OK
