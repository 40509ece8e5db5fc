"""The settings of the query service."""

from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, model_validator

from atlas_common.config import (
    DatabaseConfig,
    PeerConfig,
    ReplicaConfig,
    Section,
    ServiceConfig,
    TokenConfig,
)

REPLICAS_MAX = 32


class RouterConfig(Section):
    """How reads are routed."""

    poll_interval_seconds: float = Field(
        default=0.2, gt=0, le=10, description="How often each tier is asked how far it is."
    )
    waiting_poll_interval_seconds: float = Field(
        default=0.025, gt=0, le=10, description="The same while a read waits for a tier."
    )
    poll_timeout_seconds: float = Field(
        default=0.5, gt=0, description="How long one such question may take."
    )
    replica_open_timeout_seconds: float = Field(
        default=0.25, gt=0, description="How long opening a snapshot on a replica may take."
    )
    primary_reads_max: int = Field(
        default=4,
        ge=1,
        description="EVENTUAL and token reads at work on the primary at a time.",
    )
    primary_reads_waiting_max: int = Field(
        default=64, ge=0, description="Such reads waiting for their turn; more are refused."
    )
    primary_reads_wait_seconds: float = Field(
        default=0.25, gt=0, description="How long such a read waits for its turn."
    )
    breaker_failures_max: int = Field(
        default=5, ge=1, description="Failures in a row after which an endpoint is left alone."
    )
    breaker_open_seconds: float = Field(
        default=1.0, gt=0, description="For how long, before one call probes it."
    )
    hotcache_timeout_seconds: float = Field(
        default=0.1, gt=0, description="How long hotcache may take before Postgres is read."
    )
    near_seconds: float = Field(
        default=0.5,
        ge=0,
        le=60,
        description="How long an answer of hotcache may be given again, as long as it is fresh"
        " enough for its caller; 0 asks each time.",
    )
    cold_find_seconds_max: float = Field(
        default=5.0,
        gt=0,
        description="How long a statement that filters by cold attributes may take.",
    )
    status_timeout_seconds: float = Field(
        default=0.5, gt=0, description="How long ListTiers waits for a peer's status."
    )


class DiscoveryConfig(Section):
    """How replicas are found that come and go; without it they are ATLAS_REPLICAS, for good."""

    file: str | None = Field(
        default=None,
        description="JSON file with a list as ATLAS_REPLICAS has it, read again when it changes"
        " and at SIGHUP.",
    )
    dns: DatabaseConfig | None = Field(
        default=None,
        description="A DSN whose host is a name: each of its addresses is a replica.",
    )
    interval_seconds: float = Field(
        default=2.0, ge=0.05, le=300, description="How often file or name is looked at."
    )
    drain_seconds: float = Field(
        default=10.0,
        ge=0,
        le=300,
        description="How long reads may go on at a replica that has left, before they are cut off.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> "DiscoveryConfig":
        if self.file is not None and self.dns is not None:
            raise ValueError("file and dns are two ways to say the same: set one")
        if self.dns is not None:
            host = str(conninfo_to_dict(self.dns.dsn.get_secret_value()).get("host") or "")
            if not host or "/" in host or "," in host:
                raise ValueError("the DSN of dns needs one host, by a name")
        return self


class WatchConfig(Section):
    """How entities are watched."""

    watchers_max: int = Field(
        default=256, ge=1, description="WatchEntities streams of this process; more are refused."
    )
    pairs_max: int = Field(
        default=50_000,
        ge=1,
        description="Entities times attributes that all of them watch together.",
    )
    watch_pairs_max: int = Field(default=10_000, ge=1, description="The same of one stream.")
    pending_changes_max: int = Field(
        default=10_000,
        ge=1,
        description="Changes that a stream may be behind; then only the latest of each attribute.",
    )
    pending_bytes_max: int = Field(
        default=8 * 2**20, ge=2**16, description="Bytes of changes one stream may be behind."
    )
    tick_seconds: float = Field(
        default=0.1, gt=0, le=10, description="Least time between two looks for changes."
    )
    staleness_seconds: float = Field(
        default=1.0, gt=0, description="How far a replica that is looked at may be behind."
    )
    rows_max: int = Field(
        default=20_000,
        ge=1_000,
        description="Changes one look takes in; of more only the latest of each attribute.",
    )

    @model_validator(mode="after")
    def _latest_fit(self) -> "WatchConfig":
        if self.pending_changes_max < self.watch_pairs_max:
            raise ValueError("pending_changes_max is below watch_pairs_max: the latest must fit")
        return self


class AccessConfig(Section):
    """How it is counted what callers ask for."""

    sample_every: int = Field(
        default=8,
        ge=0,
        description="One read in so many is counted, so many times (every filter is); 0: none.",
    )
    flush_seconds: float = Field(
        default=10.0, gt=0, description="How often the primary is told what was counted."
    )
    names_max: int = Field(
        default=20_000, ge=1, le=100_000, description="Names of attributes held in between."
    )


class Config(ServiceConfig):
    """Settings of the query service: reads at the consistency the caller asks for."""

    primary: DatabaseConfig = Field(
        description="The primary, with the role atlas_query; perhaps through a pooler."
    )
    replicas: tuple[ReplicaConfig, ...] = Field(
        default=(), description='Streaming replicas: [{"name": "replica-1", "dsn": "..."}, ...].'
    )
    discovery: DiscoveryConfig = Field(
        default_factory=DiscoveryConfig, description="How replicas are found."
    )
    hotcache: PeerConfig | None = Field(
        default=None, description="The hotcache service; unset: hot reads go to Postgres."
    )
    reconciler: PeerConfig | None = Field(
        default=None, description="The cdc-reconciler service; unset: there is no Aggregate."
    )
    token: TokenConfig = Field(description="Keys of freshness tokens and page tokens.")
    router: RouterConfig = Field(default_factory=RouterConfig, description="How reads are routed.")
    watch: WatchConfig = Field(default_factory=WatchConfig, description="How entities are watched.")
    access: AccessConfig = Field(
        default_factory=AccessConfig, description="How it is counted what callers ask for."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "Config":
        check_replicas(self.replicas)
        if self.replicas and (self.discovery.file or self.discovery.dns):
            raise ValueError("replicas are listed, or discovered: set one")
        return self


def check_replicas(replicas: Sequence[ReplicaConfig]) -> None:
    """Raise ValueError unless these can be replicas together."""
    names = [replica.name for replica in replicas]
    if len(set(names)) < len(names) or "primary" in names:
        raise ValueError("replicas need names that differ, and from 'primary'")
    if len(names) > REPLICAS_MAX:
        raise ValueError(f"{len(names)} replicas are more than {REPLICAS_MAX}")
