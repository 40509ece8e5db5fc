"""What the ingest service can be told. The environment is read here and nowhere else."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from atlas_common.config import (
    DatabaseConfig,
    PeerConfig,
    PolicyConfig,
    Section,
    ServiceConfig,
    TokenConfig,
)
from atlas_common.transport import unverified_kafka


class FlushConfig(Section):
    """The group commit: how much is gathered, and how much may wait."""

    interval_ms: float = Field(
        default=100.0, ge=0, description="Least time from the begin of one flush to the next's."
    )
    points: int = Field(
        default=40_000, ge=1, description="Points that are flushed at once, without waiting."
    )
    bytes: int = Field(
        default=16 * 2**20, ge=2**16, description="Bytes of rows that are flushed at once."
    )
    lanes_min: int = Field(default=1, ge=1, le=32, description="Lanes that are always held.")
    lanes_max: int = Field(
        default=3, ge=1, le=32, description="Lanes held when one cannot keep up: flushes at a time."
    )
    pending_points_max: int = Field(
        default=600_000, ge=10_000, description="Most points accepted and not durable yet."
    )
    pending_bytes_max: int = Field(
        default=128 * 2**20, ge=2**24, description="Most bytes of requests not durable yet."
    )
    invalidate_timeout_ms: float = Field(
        default=250.0, gt=0, description="Longest wait for hotcache after a flush."
    )
    attempts_max: int = Field(
        default=5, ge=1, description="Tries of one flush before its lane is taken over anew."
    )

    @model_validator(mode="after")
    def _lanes_in_order(self) -> Self:
        if self.lanes_max < self.lanes_min:
            raise ValueError(f"lanes_max {self.lanes_max} is below lanes_min {self.lanes_min}")
        return self


class StreamConfig(Section):
    """WriteStream, how many and how much of each may be unacknowledged; and how long waits are."""

    streams_max: int = Field(
        default=200, ge=1, le=10_000, description="WriteStreams at a time; more are refused."
    )
    window_batches: int = Field(
        default=64, ge=1, le=4096, description="Most unacknowledged batches of one stream."
    )
    window_points: int = Field(
        default=100_000, ge=1, le=10_000_000, description="Most points in them."
    )
    start_seconds: float = Field(
        default=5.0, gt=0, le=60, description="How long the first message of a stream may take."
    )
    idle_seconds: float = Field(
        default=300.0,
        gt=0,
        le=86_400,
        description="How long nothing may be sent and under way; of WriteArrow, how long a message"
        " may take.",
    )
    settle_seconds: float = Field(
        default=5.0, gt=0, le=60, description="Longest wait for what an older stream left."
    )


class EventTimeConfig(Section):
    """Which event times are believed."""

    max_future_seconds: float = Field(
        default=3600.0, ge=0, description="How far ahead of this clock a point may lie."
    )
    max_age_days: float = Field(
        default=36_500.0, gt=0, le=365_000, description="How old a point may be."
    )


class MaintenanceConfig(Section):
    """What ingest does for the database besides writing."""

    partitions_interval_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="How often partitions are made ahead, by the default policy.",
    )
    default_rows_interval_seconds: float = Field(
        default=15.0, gt=0, description="How often rows without a partition are looked for."
    )
    retention: DatabaseConfig | None = Field(
        default=None,
        description="The primary itself, as the role atlas_maintenance, to retire partitions;"
        " unset: `python -m atlas_ingest.maintenance` does, as a job.",
    )
    retention_interval_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="How often partitions that may retire are looked at, by the default policy.",
    )
    archive_directory: Path | None = Field(
        default=None,
        description="Where retired rows go as Parquet; unset: classes that want that are kept.",
    )
    adoption_interval_seconds: float = Field(
        default=2.0, gt=0, description="How often lanes without an owner are looked for."
    )


class KafkaConfig(Section):
    """A topic of QueuedWrite that is read."""

    bootstrap_servers: str = Field(min_length=1, description="Brokers, host:port, by commas.")
    topic: str = Field(min_length=1, max_length=249, description="The topic.")
    group_id: str = Field(
        default="atlas-ingest", min_length=1, description="Processes of one group share the topic."
    )
    start: Literal["earliest", "latest"] = Field(
        default="earliest", description="Where to begin with a partition that was never read."
    )
    settings: dict[str, SecretStr] = Field(
        default_factory=dict,
        description='Further settings of librdkafka, as JSON: {"security.protocol": "SSL"}; all'
        " values as text.",
    )
    in_flight_messages_max: int = Field(
        default=2_000, ge=1, description="Messages read and not stored yet; beyond it none is read."
    )
    in_flight_bytes_max: int = Field(default=32 * 2**20, ge=2**16, description="The same in bytes.")

    @field_validator("settings")
    @classmethod
    def _are_not_ours(cls, settings: dict[str, SecretStr]) -> dict[str, SecretStr]:
        ours = sorted(_KAFKA_SETTINGS & set(settings))
        if ours:
            raise ValueError(f"{', '.join(ours)} cannot be set: the source needs its own")
        return settings

    def unverified(self) -> tuple[str, str] | None:
        """As Section."""
        settings = {name: value.get_secret_value() for name, value in self.settings.items()}
        way_out = unverified_kafka(self.bootstrap_servers, settings)
        return None if way_out is None else ("settings", way_out)


class SqsConfig(Section):
    """A queue of QueuedWrite that is read."""

    queue_url: str = Field(min_length=1, description="The queue's URL.")
    region: str = Field(min_length=1, description="Its region, as eu-central-1.")
    endpoint_url: str | None = Field(
        default=None, description="Another endpoint than the region's; for tests and VPC endpoints."
    )
    wait_seconds: int = Field(
        default=5,
        ge=0,
        le=20,
        description="How long one poll waits; so long can the end of us take.",
    )
    visibility_seconds: int = Field(
        default=30,
        ge=2,
        le=43_200,
        description="For how long a message is ours; prolonged while it is under way.",
    )
    in_flight_receives_max: int = Field(
        default=16, ge=1, le=1_000, description="Receives, of ten messages each, not stored yet."
    )


_KAFKA_SETTINGS = {
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "partition.assignment.strategy",
}


class Config(ServiceConfig):
    """Settings of the ingest service."""

    primary: DatabaseConfig = Field(description="The primary, through a pooler if there is one.")
    direct: DatabaseConfig = Field(
        description="The primary itself, never a pooler: lanes hold session locks."
    )
    hotcache: PeerConfig | None = Field(
        default=None, description="Told what each flush changed; unset: nobody is."
    )
    token: TokenConfig = Field(description="Keys of freshness and page tokens.")
    flush: FlushConfig = Field(default_factory=FlushConfig, description="The group commit.")
    stream: StreamConfig = Field(default_factory=StreamConfig, description="WriteStream.")
    event_time: EventTimeConfig = Field(
        default_factory=EventTimeConfig, description="Which event times are believed."
    )
    maintenance: MaintenanceConfig = Field(
        default_factory=MaintenanceConfig, description="Partitions, lanes without an owner."
    )
    policies: PolicyConfig = Field(
        default_factory=PolicyConfig, description="How policies are run."
    )
    kafka: KafkaConfig | None = Field(
        default=None, description="A topic that is read; unset: none is."
    )
    sqs: SqsConfig | None = Field(default=None, description="A queue that is read; unset: none is.")


class JobConfig(ServiceConfig):
    """Settings of `python -m atlas_ingest.maintenance`."""

    maintenance: MaintenanceConfig = Field(
        default_factory=MaintenanceConfig, description="Retention."
    )
