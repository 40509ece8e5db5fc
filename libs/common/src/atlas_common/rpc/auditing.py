"""The scope that enters administrative acts into the audit log."""

import asyncio
import uuid
from typing import Any, Protocol

import grpc
import grpc.aio

from atlas_common import call as running
from atlas_common.audit import Act, told
from atlas_common.caller import caller_or_none
from atlas_common.errors import FatalError
from atlas_common.rpc.access import Accesses
from atlas_common.rpc.failures import code_of, translated
from atlas_common.rpc.observation import REQUEST_ID_KEY
from atlas_common.rpc.scope import Call, Proceed
from atlas_common.telemetry.logs import logger
from atlas_common.tenant import tenant_or_none

_END_SECONDS_MAX = 5.0
_log = logger("atlas.audit")


class ActLog(Protocol):
    """Keeps what was done."""

    async def begin(self, act: Act) -> None:
        """Enter that the act begins; it has not begun if this raises."""
        ...

    async def end(self, act: Act, outcome: str) -> None:
        """Enter how it ended."""
        ...


class Auditing:
    """Enters an act before it begins, and how it ended after it.

    Not in the act's own transaction: pauses, replays and repairs have none in Postgres, and those
    that fail are to be seen, too. What cannot be entered is not done.
    """

    def __init__(self, log: ActLog | None, accesses: Accesses) -> None:
        """Raises FatalError if there are administrative methods and no log."""
        self._log = log
        self._methods = {name for name, access in accesses.items() if access.audited}
        if self._methods and log is None:
            raise FatalError(
                f"{min(self._methods)} is administrative, and there is no audit log:"
                " give call_chain() one"
            )

    async def audited(self, call: Call, proceed: Proceed) -> Any:
        """Raises what the log raises: the call is refused then."""
        if self._log is None or call.method not in self._methods:
            return await proceed()
        act = _act(call)
        trailers = tuple(call.context.trailing_metadata() or ())
        call.context.set_trailing_metadata((*trailers, (REQUEST_ID_KEY, act.request_id)))
        await self._log.begin(act)
        try:
            answer = await proceed()
        except BaseException as error:
            await self._ended(self._log, act, _outcome(call, error))
            raise
        await self._ended(self._log, act, code_of(call.context).name)
        return answer

    async def _ended(self, log: ActLog, act: Act, outcome: str) -> None:
        # Shielded: a caller that goes away now does not take the entry with it.
        await asyncio.shield(_end(log, act, outcome))


async def _end(log: ActLog, act: Act, outcome: str) -> None:
    """The act is done and its beginning entered: no failure of this entry undoes it."""
    try:
        async with asyncio.timeout(_END_SECONDS_MAX):
            await log.end(act, outcome)
    except Exception as error:  # noqa: BLE001 - see above.
        _log.warning(
            "the end of an act is not in the audit log",
            act=str(act.id),
            method=act.method,
            outcome=outcome,
            cause=repr(error),
        )


def _act(call: Call) -> Act:
    caller, request_id = caller_or_none(), running.request_id()
    assert caller is not None, "Identity comes before"
    return Act(
        id=uuid.uuid4(),
        caller=caller,
        tenant=tenant_or_none(),
        method=call.method,
        request_id=request_id or "",
        request=told(call.request()),
    )


def _outcome(call: Call, error: BaseException) -> str:
    if isinstance(error, grpc.aio.AbortError):
        return code_of(call.context).name
    if isinstance(error, Exception):
        return translated(error).code.name
    return grpc.StatusCode.CANCELLED.name
