"""Where the keys come from: a file or an address, read again while the service runs."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from atlas_common import errors
from atlas_common.bounded_http import BoundedHttp, Request, bounded, told
from atlas_common.config import JwtConfig
from atlas_common.errors import FatalError
from atlas_common.identity.keys import KeySet
from atlas_common.telemetry.logs import logger

DOCUMENT_BYTES_MAX = 256 * 1024
_FILE_SECONDS = 1.0
_WAITING_MAX = 64  # Unknown keys are what anybody can name: they must not hold up all calls.
_WAIT_SECONDS_MAX = 0.25  # A call waits for a file that was read just now; for an address not.
_log = logger(__name__)


class Document(Protocol):
    """Gives the key set as it is now."""

    def read(self) -> bytes:
        """Blocks, within bounds of time and size. Raises OSError or ValueError."""
        ...


class KeyFile:
    """A file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> bytes:
        """As Document."""
        with self._path.open("rb") as file:
            return bounded(file.read(DOCUMENT_BYTES_MAX + 1), DOCUMENT_BYTES_MAX)


class KeyAddress:
    """An http or https URL."""

    def __init__(self, url: str, ca_file: str | None, timeout_seconds: float) -> None:
        self._request = Request(url)
        self._http = BoundedHttp(ca_file, timeout_seconds, DOCUMENT_BYTES_MAX)

    def read(self) -> bytes:
        """As Document."""
        return self._http.answer(self._request)


class KeySource:
    """The newest usable key set.

    It is renewed in the background, and when a token names a key that is not in it, then at most
    once every `renew_seconds_min` (a file ten times a second). While it cannot be renewed the last
    one is believed, for at most `keys_age_seconds_max`.
    """

    def __init__(
        self,
        document: Document,
        algorithms: frozenset[str],
        *,
        interval_seconds: float,
        pause_seconds: float,
        age_seconds_max: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._document = document
        self._algorithms = algorithms
        self._interval_seconds = interval_seconds
        self._pause_seconds = pause_seconds
        self._age_seconds_max = age_seconds_max
        self._clock = clock
        self._keys: KeySet | None = None
        self._known: bytes | None = None
        self._renewed_at = float("-inf")
        self._tried_at = float("-inf")
        self._renewing: asyncio.Task[None] | None = None
        self._problem = "not read yet"
        self._waiting = 0

    @classmethod
    def of(cls, config: JwtConfig) -> "KeySource":
        """The source that the settings name. Raises FatalError for a file that is no key set."""
        algorithms = frozenset(config.algorithms)
        if config.jwks.startswith(("http:", "https:")):
            try:
                address = KeyAddress(config.jwks, config.jwks_ca_file, config.fetch_timeout_seconds)
            except OSError as error:
                raise FatalError(f"ATLAS_IDENTITY__JWT__JWKS_CA_FILE: {error.strerror}") from None
            return cls(
                address,
                algorithms,
                interval_seconds=config.renew_seconds,
                pause_seconds=config.renew_seconds_min,
                age_seconds_max=config.keys_age_seconds_max,
            )
        source = cls(
            KeyFile(Path(config.jwks)),
            algorithms,
            interval_seconds=_FILE_SECONDS,
            pause_seconds=min(_FILE_SECONDS / 10, config.renew_seconds_min),
            age_seconds_max=config.keys_age_seconds_max,
        )
        try:
            source._take(KeyFile(Path(config.jwks)).read())
        except (OSError, ValueError) as error:
            raise FatalError(f"ATLAS_IDENTITY__JWT__JWKS: {config.jwks}: {told(error)}") from None
        return source

    def current(self) -> KeySet:
        """The keys. Raises ServiceError UNAVAILABLE / DEPENDENCY_UNAVAILABLE if none are known."""
        if self._keys is None or self._clock() - self._renewed_at > self._age_seconds_max:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", "the keys that tokens are verified with are not known"
            )
        return self._keys

    async def check(self) -> None:
        """For readiness. Raises ServiceError as `current()`."""
        self.current()

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            await self._renew()
            failed = self._tried_at != self._renewed_at
            await asyncio.sleep(self._pause_seconds if failed else self._interval_seconds)

    async def renewed(self) -> KeySet:
        """The keys, by a reading that began after this was asked, unless the last one was just now.

        Raises as `current()`, and UNAVAILABLE / OVERLOADED where too many calls wait for that.
        """
        if self._waiting >= _WAITING_MAX:
            raise errors.unavailable(
                "OVERLOADED", "too many calls wait for new keys", retry_after=_WAIT_SECONDS_MAX
            )
        self._waiting += 1
        try:
            await self._read_since(self._clock())
        finally:
            self._waiting -= 1
        return self.current()

    async def _read_since(self, asked_at: float) -> None:
        while self._tried_at < asked_at:
            pause = self._tried_at + self._pause_seconds - self._clock()
            if self._renewing is None and pause > _WAIT_SECONDS_MAX:
                break
            if self._renewing is None and pause > 0:
                await asyncio.sleep(pause)
            await self._renew()

    async def _renew(self) -> None:
        """One reading at a time, whoever asks; it goes on when one of them gives up."""
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._read())
            self._renewing.add_done_callback(self._is_renewed)
        await asyncio.shield(self._renewing)

    def _is_renewed(self, _: object) -> None:
        self._renewing = None

    async def _read(self) -> None:
        self._tried_at = self._clock()
        try:
            document = await asyncio.to_thread(self._document.read)
            self._take(document)
        except (OSError, ValueError) as error:
            problem = told(error)
            if problem != self._problem:
                _log.warning("the keys of tokens cannot be renewed", problem=problem)
            self._problem = problem

    def _take(self, document: bytes) -> None:
        """Raises ValueError."""
        if document != self._known:
            self._keys = KeySet.parse(document, self._algorithms)
            self._known = document
            _log.info("the keys of tokens are renewed", keys=self._keys.ids)
        elif self._problem:
            _log.info("the keys of tokens can be renewed again")
        self._problem = ""
        self._tried_at = self._renewed_at = self._clock()
