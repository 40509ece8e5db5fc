"""What `atlas up` was asked for. Light to import: every `atlas` command loads the command line."""

import json
from dataclasses import asdict, dataclass

from atlas_devstack.platform import DEFAULT_TENANTS, SERVICES


@dataclass(frozen=True)
class UpRequest:
    """What `atlas up` was asked for; travels to a detached supervisor as JSON."""

    state: str
    services: tuple[str, ...] = tuple(SERVICES)
    tenants: tuple[str, ...] = DEFAULT_TENANTS
    pg_dsn: str | None = None
    replica_dsns: tuple[str, ...] = ()
    valkey_url: str | None = None
    pg_bin_dir: str | None = None
    kafka: bool = False
    containers: bool = False
    fresh: bool = False
    spans: bool = False

    def to_json(self) -> str:
        """Return it as a detached supervisor reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "UpRequest":
        """Read what to_json() wrote."""
        fields = json.loads(text)
        for name in ("services", "tenants", "replica_dsns"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
