"""Whether the service can do its work: asks its dependencies, again and again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from atlas_common.config import RpcConfig
from atlas_common.errors import FatalError
from atlas_common.rpc.health import HealthServicer
from atlas_common.telemetry.logs import logger

Check = Callable[[], Awaitable[None]]
_log = logger(__name__)


class Readiness:
    """Runs the checks at each interval, all at a time, and tells the health servicer.

    A check returns when its dependency is there and raises when it is not; raising FatalError ends
    the service.
    """

    def __init__(
        self, checks: Mapping[str, Check], health: HealthServicer, config: RpcConfig
    ) -> None:
        self._checks = checks
        self._health = health
        self._interval_seconds = config.readiness_interval_seconds
        self._timeout_seconds = config.readiness_timeout_seconds
        self._failing: dict[str, str] | None = None

    async def run(self) -> None:
        """Check until cancelled. Raises FatalError."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval_seconds)

    async def check(self) -> None:
        """Check once. Raises FatalError."""
        problems = await asyncio.gather(*(self._problem(check) for check in self._checks.values()))
        failing = {
            name: problem
            for name, problem in zip(self._checks, problems, strict=True)
            if problem is not None
        }
        if self._failing is None or set(failing) != set(self._failing):
            if failing:
                _log.warning("not ready", failing=failing)
            else:
                _log.info("ready")
        self._failing = failing
        await self._health.set_ready(not failing)

    async def _problem(self, check: Check) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await check()
        except FatalError:
            raise
        except TimeoutError:
            return f"no answer within {self._timeout_seconds:g} s"
        except Exception as error:  # noqa: BLE001 - whatever it is, the dependency is not there.
            return f"{type(error).__name__}: {error}"
        return None
