"""A secret that is read again in the background."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from atlas_common.secrets import readings
from atlas_common.secrets.name import SourceName
from atlas_common.secrets.store import Secret, Store
from atlas_common.telemetry.logs import logger

RETRY_SECONDS_MIN = 1.0
RETRY_SECONDS_MAX = 30.0
_LEASE_SECONDS_MIN = 1.0  # What is good for less is asked for again as if it were good for this.
_T = TypeVar("_T")
_log = logger(__name__)


class Refreshed(Generic[_T]):
    """The newest secret of a store that can be used.

    It is asked for every `refresh_seconds`; one with a lease when half of that is over, for another
    one. While the store is away or gives what is no secret, the last one goes on.
    """

    def __init__(
        self,
        name: SourceName,
        store: Store,
        parse: Callable[[str], _T],
        *,
        refresh_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._store = store
        self._parse = parse
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._text = ""
        self._newest: _T | None = None
        self._lease_seconds: float | None = None
        self._asked_at = 0.0
        self._failures = 0
        self._problem = ""

    @property
    def newest(self) -> _T:
        """The secret. Raises ValueError if none was ever read."""
        if self._newest is None:
            raise ValueError(f"{self.name}: not read yet")
        return self._newest

    @property
    def lease_seconds(self) -> float | None:
        """For how long the newest one was good when it was asked for; None: no lease."""
        return self._lease_seconds

    async def run(self) -> None:
        """Read again for ever."""
        while True:
            await asyncio.sleep(self.pause_seconds())
            await self.refresh()

    async def first(self) -> None:
        """Read it for the first time. Raises ValueError."""
        await self._read()

    async def refresh(self) -> None:
        """Read it again, if that can be; says so once if not."""
        try:
            await self._read()
        except ValueError as error:
            self._failures += 1
            readings.failed(self.name.kind)
            if str(error) != self._problem:
                self._problem = str(error)
                _log.warning(
                    "a secret cannot be read again: the last one goes on",
                    source=str(self.name),
                    problem=self._problem,
                    good_seconds=self._good_seconds(),
                )

    def pause_seconds(self) -> float:
        """How long to wait before the next reading."""
        if self._failures:
            return min(
                self._until_refresh(),
                RETRY_SECONDS_MAX,
                RETRY_SECONDS_MIN * 2.0 ** min(self._failures - 1, 10),
            )
        # Not all processes at once: they were started together.
        return random.uniform(0.9, 1.0) * self._until_refresh()  # noqa: S311 - no secret.

    def _until_refresh(self) -> float:
        if self._lease_seconds is None:
            return self._refresh_seconds
        return max(self._lease_seconds, _LEASE_SECONDS_MIN) / 2

    async def _read(self) -> None:
        asked_at = self._clock()
        secret = await asyncio.to_thread(self._store.fetch, self.name.rest)
        self._take(secret, self._parse(secret.text), asked_at)

    def _take(self, secret: Secret, parsed: _T, asked_at: float) -> None:
        if self._newest is None:
            _log.info("a secret is read", source=str(self.name), lease_seconds=secret.lease_seconds)
        elif secret.text != self._text:
            _log.info("a secret was rotated", source=str(self.name), now=str(parsed))
        elif self._problem:
            _log.info("a secret can be read again", source=str(self.name))
        if secret.text != self._text:  # Else those who hold the former one would think it new.
            self._text, self._newest = secret.text, parsed
        self._lease_seconds, self._asked_at = secret.lease_seconds, asked_at
        self._failures, self._problem = 0, ""
        readings.succeeded(self.name.kind)

    def _good_seconds(self) -> float | None:
        """For how long the last one is good still; None: nobody knows."""
        if self._lease_seconds is None:
            return None
        return round(max(0.0, self._asked_at + self._lease_seconds - self._clock()), 1)
