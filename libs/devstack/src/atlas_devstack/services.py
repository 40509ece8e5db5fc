"""The four services: what each is told by environment, and its process."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atlas_devstack.account import write_private
from atlas_devstack.component import Component
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database
from atlas_devstack.dsn import whoever_writes
from atlas_devstack.errors import DevstackError
from atlas_devstack.health import is_serving
from atlas_devstack.platform import INDEXER_ROLE, MAINTENANCE_ROLE, ServiceKind
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.process import Launch
from atlas_devstack.waiting import Patience

KEY_RING_FILE = "token_keys.json"
"""In the run directory: the keys of freshness and page tokens, read again while services run."""


@dataclass(frozen=True)
class Wiring:
    """What services have to know of the rest of the stack."""

    database: Database
    replicas: Mapping[str, Database]
    valkey_url: str | None
    credentials: Credentials
    ports: Mapping[str, int]
    """A port for every service, also for those that are not started."""
    warehouse: Path
    log_directory: Path
    run_directory: Path
    spans: bool
    """Whether services write their spans to `<log_directory>/<service>.spans.jsonl` (it grows)."""
    follows_failover: bool = False
    """Whether writers are told all servers, and find the one that takes writes."""
    kafka: str | None = None
    """Bootstrap servers of the broker, if there is one, ..."""
    topic: str | None = None
    """... and the topic there that ingest reads."""

    def target(self, service: str) -> str:
        """Return the address of a service."""
        return f"{LOOPBACK}:{self.ports[service]}"


class Service(Component):
    """A service's process. It keeps its address over restarts."""

    def __init__(
        self, kind: ServiceKind, wiring: Wiring, extra: Mapping[str, str], patience: Patience
    ) -> None:
        super().__init__(kind.name, patience)
        self.kind = kind
        self._wiring = wiring
        self._extra = dict(extra)

    @property
    def target(self) -> str:
        """Its address, "host:port"."""
        return self._wiring.target(self.kind.name)

    def answers(self) -> bool:
        """Say whether it serves and is ready."""
        return self._address_file.exists() and is_serving(self._probed)

    @property
    def _probed(self) -> str:
        """Where it answers health checks: for TLS, which we have no certificate for, elsewhere."""
        port = self._extra.get("ATLAS_RPC__HEALTH_PORT")
        return self.target if port is None else f"{LOOPBACK}:{port}"

    @property
    def _address_file(self) -> Path:
        return self._wiring.run_directory / f"{self.name}.address"

    def _prepare(self) -> Launch:
        self._address_file.unlink(missing_ok=True)
        environment = {
            **_inherited(),
            **_common(self.kind, self._wiring),
            **_token_keys(self._wiring, self._extra),
            **_specific(self.kind, self._wiring),
            "ATLAS_RPC__PORT_FILE": str(self._address_file),
            **self._extra,
        }
        return Launch(
            name=self.name,
            command=[sys.executable, "-m", self.kind.module],
            environment=environment,
            directory=self._wiring.run_directory,
            log_path=self._wiring.log_directory / f"{self.name}.log",
            record_path=self._wiring.run_directory / f"{self.name}.json",
        )


def _inherited() -> dict[str, str]:
    """Return the caller's environment without what would configure a service behind our back."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("ATLAS_", "PG"))}


def _common(kind: ServiceKind, wiring: Wiring) -> dict[str, str]:
    dsn = wiring.database.dsn(kind.role)
    if wiring.follows_failover and kind.name != "query":  # It tells the servers' roles itself.
        every = (wiring.database, *wiring.replicas.values())
        dsn = whoever_writes([database.dsn(kind.role) for database in every])
    spans_file = wiring.log_directory / f"{kind.name}.spans.jsonl"
    return {
        **({"ATLAS_TELEMETRY__SPANS_FILE": str(spans_file)} if wiring.spans else {}),
        "PYTHONUNBUFFERED": "1",
        "ATLAS_ENVIRONMENT": "dev",
        "ATLAS_IDENTITY__MODE": "insecure",  # Whoever reaches loopback may do everything.
        "ATLAS_RPC__HOST": LOOPBACK,
        "ATLAS_RPC__PORT": str(wiring.ports[kind.name]),
        "ATLAS_PRIMARY__DSN": dsn,
        "ATLAS_DIRECT__DSN": dsn,
    }


def _token_keys(wiring: Wiring, extra: Mapping[str, str]) -> dict[str, str]:
    """The ring of keys, which can be rotated; none where the keys themselves are given."""
    if "ATLAS_TOKEN__KEYS" in extra:
        return {}
    return {"ATLAS_TOKEN__KEYS_SOURCE": f"file:{_key_ring(wiring)}"}


def _key_ring(wiring: Wiring) -> Path:
    """Make the file with the keys of tokens. One that is there may have been rotated."""
    path = wiring.run_directory / KEY_RING_FILE
    if not path.exists():
        credentials = wiring.credentials
        ring = {"keys": credentials.token_keys, "active_key": credentials.token_active_key}
        write_private(path, json.dumps(ring), None)
    return path


def _specific(kind: ServiceKind, wiring: Wiring) -> dict[str, str]:
    match kind.name:
        case "ingest":
            retention = wiring.database.dsn(MAINTENANCE_ROLE)
            return {
                "ATLAS_HOTCACHE__TARGET": wiring.target("hotcache"),
                "ATLAS_MAINTENANCE__RETENTION__DSN": retention,
                **_source(wiring),
            }
        case "hotcache":
            return {
                "ATLAS_INDEXING__BUILDER__DSN": wiring.database.dsn(INDEXER_ROLE),
                **({"ATLAS_VALKEY__URL": wiring.valkey_url} if wiring.valkey_url else {}),
            }
        case "query":
            replicas = [
                {"name": name, "dsn": database.dsn(kind.role)}
                for name, database in wiring.replicas.items()
            ]
            return {
                "ATLAS_REPLICAS": json.dumps(replicas),
                "ATLAS_HOTCACHE__TARGET": wiring.target("hotcache"),
                "ATLAS_RECONCILER__TARGET": wiring.target("cdc-reconciler"),
            }
        case "cdc-reconciler":
            return {"ATLAS_WAREHOUSE__PATH": str(wiring.warehouse)}
    raise DevstackError(f"no environment is defined for {kind.name}")


def _source(wiring: Wiring) -> dict[str, str]:
    if wiring.kafka is None or wiring.topic is None:
        return {}
    return {
        "ATLAS_KAFKA__BOOTSTRAP_SERVERS": wiring.kafka,
        "ATLAS_KAFKA__TOPIC": wiring.topic,
    }
