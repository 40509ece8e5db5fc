"""Where everything of a running stack is: what `atlas up --json` prints."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoints:
    """Addresses of a stack. The DSNs and the URL contain passwords."""

    services: dict[str, str]
    """Service name -> "host:port"."""
    primary: str
    """Administrator's DSN of the primary: to look at the data in development."""
    replicas: list[str]
    valkey: str | None
    warehouse: str
    """Path of the DuckDB file; cdc-reconciler owns it while it runs."""
    tenants: list[str]
    kafka: str | None = None
    """Its bootstrap servers, if there is a broker."""
    topic: str | None = None
    """The topic there that ingest reads QueuedWrite from; another one at each start."""

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(
            {
                "services": self.services,
                "postgres": {"primary": self.primary, "replicas": self.replicas},
                "valkey": self.valkey,
                "kafka": {"bootstrap_servers": self.kafka, "topic": self.topic},
                "warehouse": self.warehouse,
                "tenants": self.tenants,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Endpoints":
        """Read what to_json() wrote."""
        read = json.loads(text)
        return cls(
            services=read["services"],
            primary=read["postgres"]["primary"],
            replicas=read["postgres"]["replicas"],
            valkey=read["valkey"],
            warehouse=read["warehouse"],
            tenants=read["tenants"],
            kafka=read["kafka"]["bootstrap_servers"],
            topic=read["kafka"]["topic"],
        )
