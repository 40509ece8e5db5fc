"""Where a login comes from when the setting names a source in place of the login itself.

A source is asked for each new connection, so what was rotated is used without a restart.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from structlog.typing import FilteringBoundLogger

FORM = "file:/absolute/path"
SECRET_BYTES_MAX = 64 * 1024
_SOURCES_MAX = 256
# Not by `telemetry.logs`, which needs the settings, which need this.
_log: FilteringBoundLogger = structlog.get_logger(module=__name__)


class Login(BaseModel):
    """A password, and the user it is of where the source says so. Shows neither by accident."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    password: SecretStr = Field(min_length=1)
    username: str | None = Field(default=None, min_length=1)


class LoginSource(Protocol):
    """Gives the login that new connections are to use."""

    def read(self) -> Login:
        """The newest login. Raises ValueError, in words that hold nothing secret."""
        ...


class LoginFile:
    """A file, as Docker, Kubernetes and agents of secret stores write them.

    It holds the password, or a JSON object with `username` and `password` (other fields are not
    looked at), for rotation by two users. While it is away or only half written, the last login
    goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last: Login | None = None
        self._problem = ""

    def read(self) -> Login:
        """As LoginSource."""
        try:
            login = _parsed(self._content())
        except ValueError as error:
            return self._former(f"{self._path}: {error}")
        if self._last not in (None, login):
            _log.info("a login was rotated", file=str(self._path))
        self._last, self._problem = login, ""
        return login

    def _content(self) -> str:
        try:
            with self._path.open("rb") as file:
                content = file.read(SECRET_BYTES_MAX + 1)
            if len(content) > SECRET_BYTES_MAX:
                raise ValueError(f"larger than {SECRET_BYTES_MAX} bytes")
            return content.decode()
        except OSError as error:
            raise ValueError(error.strerror or type(error).__name__) from None
        except UnicodeDecodeError:  # Its text repeats the bytes.
            raise ValueError("not UTF-8") from None

    def _former(self, problem: str) -> Login:
        if self._last is None:
            raise ValueError(problem) from None
        if problem != self._problem:
            _log.warning("a login cannot be read again: the last one goes on", problem=problem)
        self._problem = problem
        return self._last


@lru_cache(_SOURCES_MAX)
def login_source(named: str) -> LoginSource:
    """The source of this name, the same one each time. Raises ValueError if it names none."""
    kind, _, rest = named.partition(":")
    if kind != "file" or not rest.startswith("/"):
        # Not repeated: somebody may have put the password itself here.
        raise ValueError(f"not a source of a login: give {FORM}")
    return LoginFile(Path(rest))


def check_login_source(named: str | None) -> str | None:
    """A validator of settings: the source is there now. Raises ValueError."""
    if named is not None:
        login_source(named).read()
    return named


def _parsed(content: str) -> Login:
    text = content.rstrip("\r\n")
    if not text:
        raise ValueError("empty")
    if "\0" in text:
        raise ValueError("holds a NUL")
    if not text.startswith("{"):
        return Login(password=SecretStr(text))
    try:
        return Login.model_validate(json.loads(text))
    except (ValidationError, json.JSONDecodeError):  # Their texts may repeat what is in it.
        raise ValueError("not a JSON object with the texts username and password") from None
