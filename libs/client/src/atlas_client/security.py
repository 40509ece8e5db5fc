"""How a client believes the services, and proves to them who calls."""

import ipaddress
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.wire.pem import CHECK_SECONDS, PemFiles

Token = str | Callable[[], str]
"""A bearer token, or what gives one: it is asked at every call, so let it answer at once."""

_TOKEN_BYTES_MAX = 64 * 1024


class TokenFile:
    """A token in a file that somebody renews; looked at once a second at most."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError if there is no token in it."""
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._mark, self._token = self._read()

    def __call__(self) -> str:
        """The newest token; the former one while the file is away or empty."""
        now = self._clock()
        if now - self._looked_at >= CHECK_SECONDS:
            self._looked_at = now
            try:
                found = self._path.stat()
                if (found.st_mtime_ns, found.st_size, found.st_ino) != self._mark:
                    self._mark, self._token = self._read()
            except (OSError, ValueError):
                pass  # Being renewed: the next call looks again.
        return self._token

    def _read(self) -> tuple[tuple[int, int, int], str]:
        try:
            with self._path.open(encoding="ascii") as file:
                found = os.fstat(file.fileno())
                token = file.read(_TOKEN_BYTES_MAX).strip()
        except OSError as error:
            raise ValueError(f"{self._path}: {os.strerror(error.errno or 0)}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{self._path}: no token: it has other characters") from None
        if not token or not token.isprintable():
            raise ValueError(f"{self._path}: no token: it is empty or has line breaks")
        return (found.st_mtime_ns, found.st_size, found.st_ino), token


@dataclass(frozen=True, slots=True)
class Security:
    """TLS and identity of a client. Files are read again for new connections when they change."""

    tls: bool = False
    """Connect by TLS. Implied by any of the files and by `server_name`."""
    ca_file: Path | None = None
    """Authorities of the services' certificates; those of the system if none are given."""
    certificate_file: Path | None = None
    """Our own certificate, if the services ask for one, ..."""
    key_file: Path | None = None
    """... and its private key."""
    server_name: str | None = None
    """The name in the services' certificates, where it is not the host that is connected to."""
    token: Token | None = None
    """Who calls. It is sent by TLS alone, or within this host."""

    def __repr__(self) -> str:
        return f"Security(ca_file={self.ca_file}, certificate_file={self.certificate_file})"

    @property
    def is_tls(self) -> bool:
        """Whether connections are by TLS."""
        files = (self.ca_file, self.certificate_file, self.key_file, self.server_name)
        return self.tls or any(given is not None for given in files)

    def pem(self) -> PemFiles:
        """The files' content. Raises ValueError if they cannot be used."""
        return PemFiles(ca=self.ca_file, certificate=self.certificate_file, key=self.key_file)

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Security":
        """Read "security" of an endpoints file: the names of files, and `server_name`.

        Raises ValueError for names that it does not have, and when there is no token in its file.
        """
        known = {"tls", "ca_file", "certificate_file", "key_file", "server_name", "token_file"}
        unknown = sorted(set(entry) - known)
        if unknown:
            raise ValueError(f"security: {', '.join(unknown)}: there is no such setting")
        token_file = entry.get("token_file")
        return cls(
            tls=bool(entry.get("tls", False)),
            ca_file=_path(entry.get("ca_file")),
            certificate_file=_path(entry.get("certificate_file")),
            key_file=_path(entry.get("key_file")),
            server_name=entry.get("server_name"),
            token=None if token_file is None else TokenFile(Path(token_file)),
        )

    def check(self, target: str) -> None:
        """Raises ValueError where the token would cross a network in the clear."""
        if self.token is not None and not self.is_tls and not _is_this_host(target):
            raise ValueError(
                f"a token is not sent to {target} in the clear: set tls, or the services' ca_file"
            )


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _is_this_host(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
