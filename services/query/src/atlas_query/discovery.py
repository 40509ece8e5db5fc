"""Where the list of replicas comes from: a file that is read again, or a name in DNS."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pydantic
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from atlas_common.config import DatabaseConfig, ReplicaConfig
from atlas_query.config import REPLICAS_MAX, check_replicas

FILE_BYTES_MAX = 2**20
LOOK_SECONDS_MAX = 5.0
DNS_KEEP_SECONDS = 60.0
_Replicas = pydantic.TypeAdapter(tuple[ReplicaConfig, ...])
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class DiscoveryError(Exception):
    """The list cannot be had now, or is no list of replicas; the text says what is wrong where."""


class Discovery(Protocol):
    """A list of replicas that changes."""

    name: str

    async def replicas(self) -> tuple[ReplicaConfig, ...]:
        """The list as it is now. Raises DiscoveryError, TimeoutError."""


class ReplicaFile:
    """A JSON file with what ATLAS_REPLICAS would hold. Replace it by renaming another onto it."""

    name = "file"

    def __init__(self, path: Path, environment: str) -> None:
        self._path = path
        self._environment = environment

    async def replicas(self) -> tuple[ReplicaConfig, ...]:
        """As it is now; an empty list is a list, an empty file is not."""
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                raw = await asyncio.to_thread(_read, self._path)
        except OSError as error:
            raise DiscoveryError(f"{self._path}: {error.strerror}") from error
        try:
            found = _Replicas.validate_python(json.loads(raw))
            check_replicas(found)
            self._check_verified(found)
        except pydantic.ValidationError as error:
            # Never with the input: it has passwords in it.
            where = "; ".join(
                f"{''.join(f'[{part}]' for part in each['loc'])}: {each['msg']}"
                for each in error.errors(include_input=False, include_url=False)
            )
            raise DiscoveryError(f"{self._path}: {where}") from None
        except ValueError as error:  # Not JSON, not UTF-8, or names that do not fit.
            raise DiscoveryError(f"{self._path}: {error}") from None
        return found

    def _check_verified(self, found: Sequence[ReplicaConfig]) -> None:
        """As settings are checked at the start. Raises ValueError."""
        for number, replica in enumerate(found):
            if self._environment != "dev" and (unverified := replica.unverified()) is not None:
                name, way_out = unverified
                raise ValueError(
                    f"[{number}][{name}]: refused in environment {self._environment!r}: {way_out}"
                )


class DnsName:
    """A DSN whose host is a name of all replicas: each address is one of them.

    A name may tell one of its addresses at a time, in turns, as managed databases do. So an address
    stays for a minute after it was told last. `resolve`: host and port to addresses.
    """

    name = "dns"

    def __init__(
        self, config: DatabaseConfig, monotonic: Callable[[], float], resolve: Resolve | None = None
    ) -> None:
        self._config = config
        self._monotonic = monotonic
        self._resolve = resolve or _resolve
        given: dict[str, Any] = conninfo_to_dict(config.dsn.get_secret_value())
        self._host, self._port = str(given["host"]), int(given.get("port") or 5432)
        self._told: dict[str, float] = {}

    async def replicas(self) -> tuple[ReplicaConfig, ...]:
        """Every address told lately, under its own name."""
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                addresses = await self._resolve(self._host, self._port)
        except OSError as error:
            raise DiscoveryError(f"{self._host}: {error.strerror or error}") from error
        now = self._monotonic()
        self._told.update(dict.fromkeys(addresses, now))
        self._told = {
            address: told for address, told in self._told.items() if now - told <= DNS_KEEP_SECONDS
        }
        newest = sorted(self._told, key=lambda address: (-self._told[address], address))
        return tuple(self._replica(address) for address in sorted(newest[:REPLICAS_MAX]))

    def _replica(self, address: str) -> ReplicaConfig:
        # The name stays the host: certificates are for it.
        dsn = make_conninfo(self._config.dsn.get_secret_value(), hostaddr=address)
        settings = {**self._config.model_dump(), "dsn": SecretStr(dsn)}
        return ReplicaConfig.model_validate({**settings, "name": f"{address}:{self._port}"})


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise OSError(27, f"more than {FILE_BYTES_MAX} bytes")
    return raw


async def _resolve(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})
