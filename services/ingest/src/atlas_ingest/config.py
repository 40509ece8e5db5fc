"""What the ingest service can be told. The environment is read here and nowhere else."""

from typing import Self

from pydantic import Field, model_validator

from atlas_common.config import DatabaseConfig, PeerConfig, Section, ServiceConfig, TokenConfig


class FlushConfig(Section):
    """The group commit: how much is gathered, and how much may wait."""

    interval_ms: float = Field(
        default=100.0, ge=0, description="Least time from the begin of one flush to the next's."
    )
    points: int = Field(
        default=20_000, ge=1, description="Points that are flushed at once, without waiting."
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


class EventTimeConfig(Section):
    """Which event times are believed."""

    max_future_seconds: float = Field(
        default=3600.0, ge=0, description="How far ahead of this clock a point may lie."
    )
    max_age_days: float = Field(
        default=36_500.0, gt=0, le=365_000, description="How old a point may be."
    )


class CatalogConfig(Section):
    """Bounds of the catalog."""

    attributes_per_tenant_max: int = Field(
        default=10_000, ge=1, description="Attributes a tenant can have."
    )


class MaintenanceConfig(Section):
    """What ingest does for the database besides writing."""

    partitions_interval_seconds: float = Field(
        default=3600.0, gt=0, description="How often partitions are made ahead."
    )
    adoption_interval_seconds: float = Field(
        default=2.0, gt=0, description="How often lanes without an owner are looked for."
    )


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
    event_time: EventTimeConfig = Field(
        default_factory=EventTimeConfig, description="Which event times are believed."
    )
    catalog: CatalogConfig = Field(
        default_factory=CatalogConfig, description="Bounds of the catalog."
    )
    maintenance: MaintenanceConfig = Field(
        default_factory=MaintenanceConfig, description="Partitions, lanes without an owner."
    )
