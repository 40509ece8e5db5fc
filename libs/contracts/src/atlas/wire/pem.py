"""Certificates and keys in PEM files, read again when somebody renews them."""

import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHECK_SECONDS = 1.0
_READ_ATTEMPTS = 3
_FILE_BYTES_MAX = 1024 * 1024

_Mark = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files hold. Never to be shown: one of it is a private key."""

    ca: bytes | None
    """Authorities that the other side's certificate has to be of."""
    certificate: bytes | None
    """Our own, with what leads from it to its authority."""
    key: bytes | None
    """The private key of that."""

    def __repr__(self) -> str:
        return "Pem(...)"


class PemFiles:
    """The files' content: looked at most once a second, taken only when it is whole.

    Who renews a certificate writes two files, one after the other: what does not fit together is
    left alone until it does, and the former content goes on. Safe for threads.
    """

    def __init__(
        self,
        *,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError, with the file and what is wrong, if they cannot be used."""
        if (certificate is None) != (key is None):
            raise ValueError("a certificate needs its key, and a key its certificate")
        self._paths = (ca, certificate, key)
        self._clock = clock
        self._lock = threading.Lock()
        self._looked_at = clock()
        self._mark = self._marked()
        self._current = self._read()
        self.problem: str | None = None
        """Why the newest content is not taken; None if it is."""

    def current(self) -> Pem:
        """The newest content that is usable; the same object as long as nothing changed."""
        with self._lock:
            now = self._clock()
            if now - self._looked_at >= CHECK_SECONDS:
                self._looked_at = now
                self._look()
            return self._current

    def _look(self) -> None:
        try:
            mark = self._marked()
            if mark == self._mark:
                return
            fresh = self._read()
        except ValueError as error:
            self.problem = str(error)
            return
        self._mark, self.problem = mark, None
        if fresh != self._current:
            self._current = fresh

    def _marked(self) -> _Mark:
        return tuple(_mark(path) for path in self._paths if path is not None)

    def _read(self) -> Pem:
        ca, certificate, key = self._paths
        for _ in range(_READ_ATTEMPTS):
            read = Pem(*(None if path is None else _bytes(path) for path in self._paths))
            if ca is not None:
                _check_authorities(ca)
            if certificate is not None and key is not None:
                _check_pair(certificate, key)
            # What was checked is what was read, unless the files changed in between.
            if read == Pem(*(None if path is None else _bytes(path) for path in self._paths)):
                return read
        raise ValueError(f"{certificate or ca} changes all the time")


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()  # Of what a link leads to: Kubernetes renews by moving a link.
    except OSError as error:
        raise ValueError(f"{path}: {os.strerror(error.errno or 0)}") from None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            read = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"{path}: {os.strerror(error.errno or 0)}") from None
    if len(read) > _FILE_BYTES_MAX:
        raise ValueError(f"{path}: larger than {_FILE_BYTES_MAX} bytes")
    return read


def _check_authorities(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError):
        raise ValueError(f"{path}: no certificates in PEM format") from None


def _check_pair(certificate: Path, key: Path) -> None:
    def locked() -> str:
        raise ValueError(f"{key}: the key is encrypted; give one that is not")

    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_cert_chain(certificate, key, password=locked)
    except (ssl.SSLError, OSError):
        raise ValueError(
            f"{certificate} and {key}: no certificate in PEM format with the key that belongs to it"
        ) from None
