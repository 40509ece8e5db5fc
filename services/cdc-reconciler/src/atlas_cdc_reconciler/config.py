"""What the cdc-reconciler can be told."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from atlas_common.config import (
    DatabaseConfig,
    PolicyConfig,
    Section,
    ServiceConfig,
    TokenConfig,
)
from atlas_common.transport import is_this_host, unverified_kafka


class BatchConfig(Section):
    """How changes are gathered, whatever they are read from."""

    batch_changes_max: int = Field(
        default=50_000, ge=1, description="Changes after which a batch is applied at once."
    )
    batch_bytes_max: int = Field(
        default=32 * 2**20, ge=1024, description="Bytes after which a batch is applied at once."
    )
    linger_ms: float = Field(
        default=100.0, ge=0, description="How long a batch waits for more changes."
    )
    transaction_bytes_max: int = Field(
        default=2**30,
        ge=2**20,
        description="Largest transaction held in memory; a larger one stops the pipeline.",
    )
    snapshot_rows_max: int = Field(
        default=100_000,
        ge=1,
        description="Rows that one connection has in memory while rows are copied.",
    )
    backoff_seconds_max: float = Field(
        default=5.0, gt=0, description="Longest pause before the source is tried again."
    )

    def is_full(self, changes: int, byte_count: int) -> bool:
        """Whether a batch of so many changes and bytes is applied at once."""
        return changes >= self.batch_changes_max or byte_count >= self.batch_bytes_max


class SlotConfig(BatchConfig):
    """The logical replication slot that feeds the warehouse."""

    name: str = Field(
        default="atlas_warehouse", pattern=r"^[a-z0-9_]{1,63}$", description="The slot's name."
    )
    publication: str = Field(
        default="atlas_warehouse", min_length=1, description="The publication that is read."
    )
    copy_connections: int = Field(
        default=2, ge=1, le=16, description="Connections that copy rows at a time."
    )
    cut_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long the stream may wait for a backfill to find a common point.",
    )
    failover: bool = Field(
        default=True,
        description="On PostgreSQL 17 and later: let standbys that synchronise slots have ours.",
    )
    on_lost: Literal["recover", "stop"] = Field(
        default="recover",
        description="When the slot lost its log: copy what differs and go on, or stop.",
    )
    recoveries_per_hour_max: int = Field(
        default=4, ge=1, description="More of them by itself, and the pipeline stops."
    )
    watch_interval_seconds: float = Field(
        default=5.0, gt=0, description="How often the slot's state is looked at."
    )
    warning_share: float = Field(
        default=0.5, gt=0, le=1, description="Of the log that the server keeps, used: a warning."
    )
    critical_share: float = Field(default=0.8, gt=0, le=1, description="The same: critical.")
    unlimited_bytes: int = Field(
        default=10 * 2**30,
        ge=2**20,
        description="What stands for the bound if the server has no max_slot_wal_keep_size.",
    )
    status_interval_seconds: float = Field(
        default=1.0, gt=0, le=5, description="How often the server hears how far we are."
    )


class KafkaConfig(BatchConfig):
    """The topic, filled by Debezium, that feeds the warehouse."""

    bootstrap_servers: str = Field(min_length=1, description="Brokers, host:port, by commas.")
    topic: str = Field(
        min_length=1, max_length=249, description="The topic, of one partition, with all tables."
    )
    group_id: str = Field(
        default="atlas-warehouse",
        min_length=1,
        description="The name under which the broker sees us; offsets are not kept in it.",
    )
    settings: dict[str, SecretStr] = Field(
        default_factory=dict,
        description='Further settings of librdkafka, as JSON: {"security.protocol": "SSL"}; all'
        " values as text.",
    )
    message_bytes_max: int = Field(
        default=64 * 2**20, ge=2**16, le=900 * 2**20, description="Largest event that can be read."
    )
    fetched_bytes_max: int = Field(
        default=64 * 2**20, ge=2**20, description="Bytes of events fetched ahead."
    )
    debezium_slot: str = Field(
        default="",
        pattern=r"^[a-z0-9_]{0,63}$",
        description="Debezium's slot, whose retained log is shown; empty: none is.",
    )
    first_copy: Literal["topic", "database"] = Field(
        default="topic",
        description="topic: from Debezium's snapshot. database: by comparing with the primary.",
    )

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


_KAFKA_SETTINGS = {
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "fetch.message.max.bytes",
    "fetch.max.bytes",
    "receive.message.max.bytes",
    "queued.max.messages.kbytes",
}


class SourceConfig(Section):
    """What the changes are read from."""

    kind: Literal["slot", "kafka"] = Field(
        default="slot",
        description="slot: the database's own log. kafka: a topic that Debezium fills.",
    )


class LeaderConfig(Section):
    """How one instance is chosen to work."""

    lease_seconds: float = Field(
        default=6.0,
        ge=1,
        description="A leader that says nothing for so long has lost the lock.",
    )
    poll_seconds: float = Field(
        default=0.5, gt=0, description="How often a standby tries to get the lock."
    )
    hung_owner_seconds: float = Field(
        default=5.0,
        ge=0,
        description="A former leader that still holds the warehouse's file then is killed.",
    )
    kill_hung_owner: bool = Field(
        default=True,
        description="Whether it is; otherwise a new leader waits until somebody does it.",
    )


class WarehouseConfig(Section):
    """The warehouse in its file."""

    path: Path = Field(description="The DuckDB file; this process owns it alone.")
    memory_limit_mb: int = Field(
        default=512, ge=64, description="Memory for queries and for rows being written."
    )
    threads: int = Field(default=2, ge=1, description="Threads that one query may use.")
    concurrent_reads_max: int = Field(
        default=4, ge=1, description="Reads at work at a time; more of them wait."
    )
    waiting_reads_max: int = Field(
        default=64, ge=0, description="Reads that may wait; more are refused as OVERLOADED."
    )
    aggregate_rows_max: int = Field(
        default=1_000_000, ge=1, description="Most rows that one Aggregate answers."
    )
    aggregate_seconds_max: float = Field(
        default=60.0, gt=0, description="Longest that one Aggregate may take, its sending included."
    )
    percentile_points_max: int = Field(
        default=20_000_000,
        ge=1,
        description="Most points that one Aggregate takes percentiles of: 8 bytes of memory each.",
    )
    compaction_interval_seconds: float = Field(
        default=30.0, ge=0, description="How often it is looked for unsorted rows; 0: never."
    )
    compaction_rows_max: int = Field(
        default=500_000, ge=122_880, description="Most rows that are sorted in one step."
    )
    compaction_step_seconds: float = Field(
        default=0.5, gt=0, description="Time of a step, to which its rows adapt: batches wait."
    )
    compaction_age_seconds: float = Field(
        default=300.0, ge=0, description="Age of ingested_at from which on rows are sorted."
    )
    export_directory: Path | None = Field(
        default=None,
        description="Where a Parquet file of each verified day is written; unset: nowhere.",
    )
    export_interval_seconds: float = Field(
        default=600.0, gt=0, description="How often it is looked for days to export."
    )
    spill_mb_max: int = Field(
        default=2_048, ge=1, description="Disk for what queries cannot hold in memory."
    )
    dead_letters_per_batch_max: int = Field(
        default=1_000,
        ge=1,
        description="More changes at fault in one batch stop the pipeline; those that only wait"
        " behind others, or whose table does not fit any more, do not count.",
    )
    dead_letters_max: int = Field(
        default=1_000_000, ge=1, description="More open dead letters stop the pipeline."
    )
    dead_letter_bytes_max: int = Field(
        default=2**30, ge=1024, description="More bytes in open dead letters stop the pipeline."
    )
    replay_letters_max: int = Field(
        default=200_000, ge=1, description="Most dead letters that one transaction replays."
    )
    replay_page_letters: int = Field(
        default=10_000, ge=1, description="Dead letters in memory while they are replayed."
    )
    audit_interval_seconds: float = Field(
        default=60.0, ge=0, description="How often letters and rows are counted again; 0: never."
    )


class RedshiftConfig(Section):
    """The warehouse in an Amazon Redshift cluster or workgroup."""

    host: str = Field(min_length=1, description="The cluster's endpoint.")
    port: int = Field(default=5439, ge=1, le=65535, description="Its port.")
    database: str = Field(min_length=1, description="The database.")
    user: str = Field(min_length=1, description="The user: owner of the schema, nothing more.")
    password: SecretStr = Field(description="The user's password.")
    tls: bool = Field(
        default=True,
        description="Encrypt, and verify the server's name; off to other hosts in dev alone.",
    )
    schema_name: str = Field(
        default="atlas", pattern=r"^[a-z_][a-z0-9_]{0,62}$", description="Schema of the tables."
    )
    iam_role: str = Field(
        pattern=r"^(default|arn:aws[a-z-]*:iam::\d{12}:role/[A-Za-z0-9_+=,.@/-]+)$",
        max_length=2048,
        description='Role that COPY reads the bucket with: its ARN, or "default".',
    )
    bucket: str = Field(
        pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="Bucket for files under way; in the cluster's region.",
    )
    prefix: str = Field(
        default="cdc",
        pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$",
        max_length=256,
        description="Where in the bucket; nothing else may be there, what is old is deleted.",
    )
    region: str = Field(min_length=1, description="Region of the bucket, as eu-central-1.")
    s3_endpoint_url: str | None = Field(
        default=None, description="Another endpoint than the region's; for tests and VPC endpoints."
    )
    s3_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Longest silence of S3 while a file is put."
    )
    file_bytes_max: int = Field(
        default=32 * 2**20,
        ge=2**16,
        description="Size of a file before compression; a batch is cut into as many as it takes.",
    )
    statement_timeout_seconds: float = Field(
        default=600.0, gt=0, description="Longest statement, waits for locks included."
    )
    conflict_retries_max: int = Field(
        default=5,
        ge=0,
        description="How often a transaction that met another (error 1023) is repeated at once.",
    )
    dead_letters_per_batch_max: int = Field(
        default=1_000, ge=1, description="More of them in one batch stop the pipeline."
    )

    def unverified(self) -> tuple[str, str] | None:
        """As Section."""
        if self.tls or is_this_host(self.host):
            return None
        return "tls", "the cluster is on another host and not verified; leave it on"

    @property
    def socket_timeout_seconds(self) -> int:
        """Longest silence of the cluster: a little longer than it may work on a statement."""
        return int(self.statement_timeout_seconds) + 30


class SinkConfig(Section):
    """Where the warehouse is."""

    kind: Literal["duckdb", "redshift"] = Field(
        default="duckdb",
        description="duckdb: in the file of ATLAS_WAREHOUSE__PATH, and read from there. redshift:"
        " in a cluster, which is only fed: it is to be read itself.",
    )
    redshift: RedshiftConfig | None = Field(
        default=None, description="The cluster, where kind is redshift."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.kind == "redshift" and self.redshift is None:
            raise ValueError(
                "kind is redshift, and ATLAS_SINK__REDSHIFT__HOST and so on are not set"
            )
        return self


class ReconcileConfig(Section):
    """The proof that source and warehouse are equal."""

    window_seconds: int = Field(
        default=60, ge=1, le=86_400, description="Width of a window of ingested_at."
    )
    interval_seconds: float = Field(
        default=30.0,
        ge=0,
        description="How often all tenants are compared, by the default policy; 0: never.",
    )
    catalog_interval_seconds: float = Field(
        default=600.0,
        ge=0,
        description="How often all catalogs are compared, whole, by the default policy; 0: never.",
    )
    full_interval_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How often everything is compared anew, by the default policy; 0: never.",
    )
    windows_per_statement: int = Field(
        default=240, ge=1, le=10_000, description="Windows that one statement digests."
    )
    statement_timeout_seconds: float = Field(
        default=120.0, gt=0, description="Longest digest of one statement's windows."
    )
    seal_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Longest wait for flushes and for the warehouse."
    )
    differences_per_window_max: int = Field(
        default=1_000, ge=1, le=10_000, description="Rows that a report names of one window."
    )
    differences_per_report_max: int = Field(
        default=10_000, ge=1, le=100_000, description="Rows that one report names."
    )
    reports_max: int = Field(default=100, ge=1, description="Reports kept of each tenant.")
    reports_days_max: float = Field(default=30.0, gt=0, description="How long reports are kept.")
    repair_rows_max: int = Field(
        default=1_000_000, ge=1, description="Rows of the largest window that can be repaired."
    )
    freshness_budget_seconds: float = Field(
        default=300.0, gt=0, description="How old the verified past may be; older is a breach."
    )

    @property
    def window_us(self) -> int:
        """Width of a window in microseconds."""
        return self.window_seconds * 1_000_000


class Config(ServiceConfig):
    """Settings of the cdc-reconciler service."""

    primary: DatabaseConfig = Field(description="The primary, through a pooler if there is one.")
    direct: DatabaseConfig = Field(
        description="The same server without a pooler: the replication connection."
    )
    token: TokenConfig = Field(description="Keys of freshness tokens.")
    warehouse: WarehouseConfig = Field(description="The warehouse in its file.")
    leader: LeaderConfig = Field(
        default_factory=LeaderConfig, description="How one instance is chosen to work."
    )
    sink: SinkConfig = Field(default_factory=SinkConfig, description="Where the warehouse is.")
    source: SourceConfig = Field(
        default_factory=SourceConfig, description="What the changes are read from."
    )
    slot: SlotConfig = Field(
        default_factory=SlotConfig,
        description="The slot, for kind slot; how the copy is levelled, for both.",
    )
    kafka: KafkaConfig | None = Field(default=None, description="The topic, for kind kafka.")
    reconcile: ReconcileConfig = Field(
        default_factory=ReconcileConfig, description="The proof of equality."
    )
    policies: PolicyConfig = Field(
        default_factory=PolicyConfig, description="How policies are run."
    )

    @property
    def gathering(self) -> BatchConfig:
        """How the chosen source gathers changes."""
        chosen = self.kafka if self.source.kind == "kafka" else self.slot
        assert chosen is not None
        return chosen

    @property
    def streams_first_copy(self) -> bool:
        """Whether the first copy is taken from what the stream has, not by comparing."""
        return self.kafka is not None and (self.source.kind, self.kafka.first_copy) == (
            "kafka",
            "topic",
        )

    @property
    def slot_name(self) -> str:
        """The slot that holds the log we depend on; empty: it is not known."""
        chosen = self.gathering
        return chosen.debezium_slot if isinstance(chosen, KafkaConfig) else self.slot.name

    @property
    def source_name(self) -> str:
        """What instances that must not work at the same time have in common."""
        chosen = self.gathering
        return f"topic {chosen.topic}" if isinstance(chosen, KafkaConfig) else self.slot.name

    @model_validator(mode="after")
    def _has_its_source(self) -> Self:
        if self.source.kind == "kafka" and self.kafka is None:
            raise ValueError(
                "source.kind is kafka: kafka.bootstrap_servers and kafka.topic belong to it"
            )
        return self
