"""Work that goes on beside the calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from atlas_common.errors import FatalError
from atlas_common.telemetry.logs import logger

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 5.0
_STABLE_SECONDS = 30.0  # Having run this long, a task's next death counts as its first.
_STOP_TIMEOUT_SECONDS = 10.0
_log = logger(__name__)

Work = Callable[[], Awaitable[None]]


class Supervisor:
    """Keeps tasks running while its block runs: one that dies is logged and started again.

    A task that returns is finished. FatalError is not survived: as in a TaskGroup the block is
    cancelled, and the error leaves the `async with`. At the end tasks are cancelled and awaited.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._owner: asyncio.Task[object] | None = None
        self._fatal: FatalError | None = None

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        owner, self._owner = self._owner, None
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_STOP_TIMEOUT_SECONDS)
            for task in late:
                _log.error("background task does not stop", task=self._tasks[task])
        if self._fatal is not None:
            if kind is asyncio.CancelledError and owner is not None:
                owner.uncancel()  # It was we who cancelled the block.
            raise self._fatal

    def start(self, name: str, work: Work) -> None:
        """Run `work()` now and after each of its deaths, until the block ends."""
        if self._owner is None:
            raise RuntimeError("tasks are started within the supervisor's block")
        task = asyncio.create_task(self._keep(name, work), name=name)
        self._tasks[task] = name

    async def _keep(self, name: str, work: Work) -> None:
        backoff = BACKOFF_SECONDS_MIN
        while True:
            started = time.monotonic()
            try:
                await work()
            except FatalError as error:
                self._end(name, error)
                return
            except Exception:  # noqa: BLE001 - whatever it died of, the others go on.
                if time.monotonic() - started > _STABLE_SECONDS:
                    backoff = BACKOFF_SECONDS_MIN
                _log.exception("background task died", task=name, restart_in_seconds=backoff)
            else:
                return
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    def _end(self, name: str, error: FatalError) -> None:
        _log.critical("background task cannot go on", task=name, error=str(error))
        if self._fatal is None:
            self._fatal = error
            if self._owner is not None:
                self._owner.cancel()
