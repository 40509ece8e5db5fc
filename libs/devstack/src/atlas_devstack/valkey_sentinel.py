"""Valkey with Sentinel: a master, its replica, and sentinels that make the one the other."""

import os
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from atlas_devstack.account import write_private
from atlas_devstack.component import Component
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.process import Launch
from atlas_devstack.valkey import Valkey, ValkeySite, answers_ping, binary
from atlas_devstack.waiting import Patience, wait_until

SERVICE = "hotcache"
_SENTINELS = 3
_QUORUM = 2
_DOWN_AFTER_MS = 500
_FAILOVER_TIMEOUT_MS = 3_000


class Sentinel(Component):
    """One sentinel. It keeps over a restart what it knows."""

    stop_seconds_max = 5.0

    def __init__(self, site: ValkeySite, patience: Patience, name: str) -> None:
        super().__init__(name, patience)
        self._site = site

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return self._site.port

    @property
    def url(self) -> str:
        """Its own URL, with its password."""
        return f"redis://:{self._site.password}@{LOOPBACK}:{self.port}"

    def answers(self) -> bool:
        """Say whether it answers PING now."""
        return answers_ping(self.url)

    def ask(self, *command: str) -> Any:
        """Run a command on it."""
        with redis.Redis.from_url(self.url, socket_timeout=2, decode_responses=True) as client:
            return client.execute_command(*command)

    def _prepare(self) -> Launch:
        site = self._site
        configuration = site.directory / f"{self.name}.conf"
        if not configuration.exists():  # It writes into this file whom it follows.
            lines = [
                f"bind {LOOPBACK}",
                f"port {site.port}",
                f'dir "{site.directory}"',
                f"requirepass {site.password}",
                f"sentinel sentinel-pass {site.password}",
                *site.settings,
            ]
            write_private(configuration, "\n".join(lines) + "\n", None)
        return Launch(
            name=self.name,
            command=[str(binary()), str(configuration), "--sentinel"],
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            directory=site.directory,
            log_path=site.log_directory / f"{self.name}.log",
            record_path=site.record_directory / f"{self.name}.json",
        )


class ValkeySentinels:
    """All of them. Two servers, of which one is the master now."""

    def __init__(self, directory: Path, patience: Patience) -> None:
        self._directory = directory
        self._patience = patience
        self._password, self._sentinel_password = secrets.token_hex(8), secrets.token_hex(8)
        taken: set[int] = set()
        self._ports = [free_port(taken) for _ in range(2 + _SENTINELS)]
        self.servers: list[Valkey] = []
        self.sentinels: list[Sentinel] = []

    @property
    def master_port(self) -> int:
        """The port of the server that is the master at first: for a proxy before it."""
        return self._ports[0]

    @property
    def url(self) -> str:
        """As hotcache takes it."""
        hosts = ",".join(f"{LOOPBACK}:{port}" for port in self._ports[2:])
        return self.url_by(hosts)

    def url_by(self, sentinels: str) -> str:
        """The same by way of other addresses of sentinels: "host:port,host:port"."""
        return (
            f"redis+sentinel://:{self._password}@{sentinels}/{SERVICE}/0"
            f"?sentinel_password={self._sentinel_password}"
        )

    def start(self, *, reached_at: int | None = None) -> None:
        """Start all; returns when the sentinels know each other and the replica.

        `reached_at`: a port by which all others reach the first master, instead of its own.
        """
        master = reached_at or self.master_port
        follows = [(), (f"replicaof {LOOPBACK} {master}",)]
        for number, own in enumerate(follows):
            self.servers.append(
                Valkey(self._site(f"server-{number}", number, own), self._patience, f"v{number}")
            )
            self.servers[-1].start()
        watched = (
            f"sentinel monitor {SERVICE} {LOOPBACK} {master} {_QUORUM}",
            f"sentinel auth-pass {SERVICE} {self._password}",
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {_FAILOVER_TIMEOUT_MS}",
        )
        for number in range(_SENTINELS):
            site = self._site(f"sentinel-{number}", 2 + number, watched, is_sentinel=True)
            self.sentinels.append(Sentinel(site, self._patience, f"sentinel{number}"))
            self.sentinels[-1].start()
        wait_until(self._is_whole, "sentinels", patience=self._patience)

    def stop(self) -> None:
        """Stop all, paused or not."""
        with ExitStack() as cleanup:
            for component in (*self.servers, *self.sentinels):
                cleanup.callback(component.stop)

    def master(self) -> Valkey:
        """Who is the master, by the first sentinel."""
        _, port = self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        # An address that is no server's own is that of the proxy before the first one.
        return next((one for one in self.servers if one.port == int(port)), self.servers[0])

    def _is_whole(self) -> bool:
        for sentinel in self.sentinels:
            (state,) = sentinel.ask("SENTINEL", "MASTERS")
            known = _pairs(state)
            if known["num-slaves"] != "1" or known["num-other-sentinels"] != str(_SENTINELS - 1):
                return False
        return True

    def _site(
        self, name: str, port_number: int, settings: tuple[str, ...], *, is_sentinel: bool = False
    ) -> ValkeySite:
        directory = self._directory / name
        directory.mkdir(parents=True, exist_ok=True)
        if not is_sentinel:
            settings += (f"masterauth {self._password}", "repl-diskless-sync-delay 0")
        password = self._sentinel_password if is_sentinel else self._password
        port = self._ports[port_number]
        return ValkeySite(directory, directory, directory, port, password, settings)


def _pairs(answer: Any) -> dict[str, str]:
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
