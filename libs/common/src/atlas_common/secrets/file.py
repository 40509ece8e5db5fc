"""Secrets in files, as Docker, Kubernetes and agents of secret stores write them."""

from pathlib import Path

import structlog
from structlog.typing import FilteringBoundLogger

from atlas_common.bounded_http import bounded
from atlas_common.secrets import readings
from atlas_common.secrets.login import Login, parse_login
from atlas_common.secrets.name import Kind

SECRET_BYTES_MAX = 64 * 1024
# Not by `telemetry.logs`, which needs the settings, which need this.
_log: FilteringBoundLogger = structlog.get_logger(module=__name__)


class LoginFile:
    """A file with a login, read again each time.

    While it is away or only half written, the last login goes on.
    """

    session_seconds_max = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Login | None = None
        self._problem = ""

    def read(self) -> Login:
        """As LoginSource."""
        try:
            login = parse_login(read_text(self._path))
        except ValueError as error:
            readings.failed(Kind.FILE)
            return self._former(f"{self._path}: {error}")
        readings.succeeded(Kind.FILE)
        if self._last not in (None, login):
            _log.info("a login was rotated", file=str(self._path))
        self._last, self._problem = login, ""
        return login

    def _former(self, problem: str) -> Login:
        if self._last is None:
            raise ValueError(problem) from None
        if problem != self._problem:
            _log.warning("a login cannot be read again: the last one goes on", problem=problem)
        self._problem = problem
        return self._last


def read_text(path: Path) -> str:
    """What is in a small file. Raises ValueError, in words that hold nothing of it."""
    try:
        with path.open("rb") as file:
            return bounded(file.read(SECRET_BYTES_MAX + 1), SECRET_BYTES_MAX).decode()
    except OSError as error:
        raise ValueError(error.strerror or type(error).__name__) from None
    except UnicodeDecodeError:  # Its text repeats the bytes.
        raise ValueError("not UTF-8") from None
