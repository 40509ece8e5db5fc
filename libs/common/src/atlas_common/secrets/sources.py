"""From the name of a source to what it says now."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from atlas_common.key_ring import KeyRing
from atlas_common.secrets.file import LoginFile
from atlas_common.secrets.login import Login, LoginSource
from atlas_common.secrets.name import Kind, SourceName

_SOURCES_MAX = 256
_SESSIONS_PER_LEASE = 3  # Another login is asked for at half a lease: then the rest is enough.


class Held(Protocol):
    """What is known of a secret without asking for it."""

    @property
    def newest(self) -> object:
        """The secret. Raises ValueError if none was ever read."""
        ...

    @property
    def lease_seconds(self) -> float | None:
        """For how long it was good when it was asked for; None: no lease."""
        ...


class _StoreLogin:
    def __init__(self, name: SourceName) -> None:
        self._name = name

    def read(self) -> Login:
        login = _held(self._name).newest
        assert isinstance(login, Login)
        return login

    @property
    def session_seconds_max(self) -> float | None:
        lease = _held(self._name).lease_seconds
        return None if lease is None else lease / _SESSIONS_PER_LEASE


@lru_cache(_SOURCES_MAX)
def login_source(named: str) -> LoginSource:
    """The source of this name, the same one each time. Raises ValueError if it names none."""
    name = SourceName.parse(named)
    return LoginFile(Path(name.rest)) if name.kind is Kind.FILE else _StoreLogin(name)


def check_login_source(named: str | None) -> str | None:
    """A validator of settings: it names a source; a file is there now. Raises ValueError."""
    if named is not None:
        source = login_source(named)
        if isinstance(source, LoginFile):
            source.read()
    return named


def newest_ring(named: str) -> Callable[[], KeyRing]:
    """What gives the keys as they are now. Raises ValueError if it names no source."""
    name = SourceName.parse(named)

    def newest() -> KeyRing:
        ring = _held(name).newest
        assert isinstance(ring, KeyRing)
        return ring

    return newest


_open: Mapping[SourceName, Held] = {}


@contextmanager
def held(secrets: Mapping[SourceName, Held]) -> Iterator[None]:
    """These are what their names stand for until the block ends."""
    global _open  # noqa: PLW0603 - of the process, as the settings that name them are.
    before = _open
    _open = {**before, **secrets}
    try:
        yield
    finally:
        _open = before


def _held(name: SourceName) -> Held:
    found = _open.get(name)
    if found is None:
        raise ValueError(f"{name}: not opened")
    return found
