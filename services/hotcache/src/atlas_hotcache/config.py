"""What the hotcache service can be told."""

from dataclasses import fields

from pydantic import Field, SecretStr, field_validator, model_validator

from atlas_common.config import (
    PASSWORD_SOURCE,
    DatabaseConfig,
    PasswordSource,
    PolicyConfig,
    Section,
    ServiceConfig,
    TokenConfig,
)
from atlas_common.transport import is_this_host
from atlas_hotcache.promotion.policy import Mode, Rules
from atlas_hotcache.valkey_url import FORMS, ValkeyUrl


class ValkeyConfig(Section):
    """The Valkey (or Redis) server, servers with sentinels, or cluster, that holds the cache."""

    url: SecretStr = Field(
        description=f"As {FORMS}, with ?ssl_ca_certs=/path. To another host by TLS and with a"
        " login, outside dev."
    )
    password_source: PasswordSource = Field(default=None, description=PASSWORD_SOURCE.format("URL"))
    shards: int = Field(
        default=16,
        ge=1,
        le=256,
        description="In a cluster: into how many slots the tenants are spread. Costs a script each"
        " for every flush. A change makes the cache begin empty.",
    )
    connect_timeout_seconds: float = Field(
        default=0.1, gt=0, description="How long connecting may take."
    )
    call_timeout_seconds: float = Field(
        default=0.1,
        gt=0,
        description="How long one script may take; Postgres answers when it takes more.",
    )
    connections_max: int = Field(
        default=32,
        ge=1,
        description="Most scripts at a time, and connections; in a cluster, to each node.",
    )
    failures_max: int = Field(
        default=5, ge=1, description="Failures in a row after which the server is left alone."
    )
    open_seconds: float = Field(
        default=1.0, gt=0, description="For how long it is left alone before it is tried again."
    )

    @field_validator("url")
    @classmethod
    def _is_a_valkey_url(cls, url: SecretStr) -> SecretStr:
        ValkeyUrl.parse(url.get_secret_value())
        return url

    def unverified(self) -> tuple[str, str] | None:
        """As Section."""
        url = ValkeyUrl.parse(self.url.get_secret_value())
        if all(is_this_host(host) for host, _ in url.nodes):
            return None
        if not url.is_tls:
            return "url", (
                "the server is on another host and not verified; begin the URL with rediss, and"
                " add ?ssl_ca_certs=/path/of/its/authorities.pem unless the system knows them"
            )
        if not (
            url.login.password or self.password_source or "ssl_certfile" in dict(url.tls_files)
        ):
            return "url", (
                "the server is on another host and lets in whoever reaches it; give the URL a"
                " password, or set ATLAS_VALKEY__PASSWORD_SOURCE"
            )
        return None


class CacheConfig(Section):
    """How entries live, and when they are distrusted."""

    entry_ttl_seconds: float = Field(default=300.0, gt=0, description="Life of an entry.")
    tombstone_ttl_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Life of the mark an invalidation leaves, against fills that began before it.",
    )
    fill_seconds_max: float = Field(
        default=10.0, gt=0, description="A fill that began longer ago than this is refused."
    )
    poll_interval_seconds: float = Field(
        default=0.15, gt=0, description="How often the primary is asked how far it is."
    )
    patience_seconds: float = Field(
        default=1.0,
        gt=0,
        description="How long a flush may be missing here before everything is forgotten.",
    )
    catch_up_seconds: float = Field(
        default=0.3,
        gt=0,
        description="How long a flush may be missing here before the primary is asked what it"
        " changed, so that nothing else need be forgotten.",
    )
    catch_up_entities_max: int = Field(
        default=20_000,
        ge=0,
        description="Missed flushes that changed more entities than this are not made up for:"
        " everything is forgotten. 0 makes up for none.",
    )
    max_staleness_default_seconds: float = Field(
        default=3.0, gt=0, description="What a call accepts that names no max_staleness."
    )
    primary_reads_max: int = Field(
        default=64, ge=1, description="Reads of the primary at a time; more are refused."
    )
    invalidated_entities_max: int = Field(
        default=100_000,
        ge=1,
        description="A flush that changed more entities than this makes the cache forget all.",
    )
    checked_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Share of the entities answered from the cache that are compared with the"
        " primary; 0 compares none.",
    )
    checks_per_second_max: float = Field(
        default=2.0, gt=0, description="Most comparisons a second, whatever the share."
    )

    @model_validator(mode="after")
    def _tombstones_outlive_fills(self) -> "CacheConfig":
        if self.tombstone_ttl_seconds < 2 * self.fill_seconds_max:
            raise ValueError("tombstone_ttl_seconds is less than twice fill_seconds_max")
        return self


class ProjectionConfig(Section):
    """Jobs on the projection, and what is remembered of which attributes are hot."""

    catalog_ttl_seconds: float = Field(
        default=10.0, gt=0, description="How long the definitions of attributes are remembered."
    )
    catalog_age_max_seconds: float = Field(
        default=20.0,
        gt=0,
        description="How long they are believed while the primary does not answer.",
    )
    expiry_seconds: float = Field(
        default=30.0,
        gt=0,
        description="How long a demoted attribute's values stay, for readers that believe it hot.",
    )
    poll_seconds: float = Field(
        default=1.0, gt=0, description="How often jobs are looked for, and what they wait for."
    )
    lease_seconds: float = Field(
        default=10.0,
        ge=2,
        description="How long after a process's death another takes its jobs on.",
    )
    batch_entities_max: int = Field(
        default=500, ge=1, le=10_000, description="Most entities that a job does at once."
    )
    batch_seconds_max: float = Field(
        default=0.25, gt=0, description="Batches that take longer are made smaller: flushes wait."
    )
    statement_seconds_max: float = Field(
        default=5.0, gt=0, description="A batch that takes longer is given up, and made smaller."
    )
    verify_interval_seconds: float = Field(
        default=86_400.0,
        ge=0,
        description="How often projection and cache are verified, by the default policy; 0: never.",
    )
    verify_percent: int = Field(
        default=10, ge=1, le=100, description="How many of the entities are compared then."
    )
    jobs_per_tenant_max: int = Field(
        default=8, ge=1, le=16, description="Most jobs of one tenant at a time."
    )

    @model_validator(mode="after")
    def _values_outlive_beliefs(self) -> "ProjectionConfig":
        if self.expiry_seconds <= max(self.catalog_ttl_seconds, self.catalog_age_max_seconds):
            raise ValueError("expiry_seconds is not above catalog_age_max_seconds and its like")
        if self.lease_seconds <= self.statement_seconds_max / 2:
            raise ValueError("lease_seconds is not above half of statement_seconds_max")
        return self


class IndexingConfig(Section):
    """Indexes of cold attributes."""

    builder: DatabaseConfig | None = Field(
        default=None,
        description="The primary itself, as the role atlas_indexer; unset: another process builds,"
        " see python -m atlas_hotcache.indexing.",
    )
    per_tenant_max: int = Field(
        default=4, ge=0, le=64, description="Most indexes of one tenant: each slows its writing."
    )
    indexes_max: int = Field(
        default=16, ge=0, le=64, description="Most of all tenants: each slows all writing a little."
    )
    poll_seconds: float = Field(
        default=2.0, gt=0, description="How often it is looked for what is to be built or dropped."
    )
    wait_seconds_max: float = Field(
        default=60.0,
        gt=0,
        description="How long an index waits for older transactions to end, before it is put off;"
        " nobody waits for it meanwhile.",
    )
    build_seconds_max: float = Field(
        default=21_600.0, gt=0, description="How long the index of one partition may take."
    )
    retry_seconds: float = Field(
        default=30.0, gt=0, description="After how long what failed or was put off is tried again."
    )


class IndexingJobConfig(ServiceConfig):
    """Settings of `python -m atlas_hotcache.indexing`."""

    indexing: IndexingConfig = Field(
        default_factory=IndexingConfig, description="Indexes of cold attributes."
    )


class PromotionConfig(Section):
    """Whether attributes are promoted and demoted by how they are read and written, and when."""

    mode: Mode = Field(
        default=Mode.OFF,
        description="off; dry_run: decisions are entered into the audit log only; or on.",
    )
    window_hours: int = Field(
        default=24, ge=1, le=336, description="How many full hours back reads are looked at."
    )
    hours_min: int = Field(
        default=6, ge=1, description="In how many of them reads must have been counted at least."
    )
    interval_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="How often all attributes are evaluated, by the default policy.",
    )
    lease_seconds: float = Field(
        default=60.0, ge=5, description="How long after a process's death another may evaluate."
    )
    sample_pages_max: int = Field(
        default=4_000, ge=1, description="Pages of points read to estimate what is written."
    )
    promote_score: float = Field(
        default=2.0, gt=0, description="Cold attributes with this score or more are promoted."
    )
    promote_percentile: float = Field(
        default=50.0, gt=0, le=100, description="Of the scores of hours, for promotions."
    )
    demote_score: float = Field(
        default=0.5, ge=0, description="Hot attributes with this score or less are demoted."
    )
    demote_percentile: float = Field(
        default=90.0, gt=0, le=100, description="Of the scores of hours, for demotions."
    )
    filter_weight: float = Field(
        default=20.0, ge=0, description="As how many reads a filter over the attribute counts."
    )
    scope_weight: float = Field(
        default=1.0,
        ge=0,
        description="As how much of a read of a hot attribute a read of whatever is hot counts.",
    )
    point_weight: float = Field(
        default=0.1, ge=0, description="How many reads projecting a point is worth."
    )
    idle_reads_per_hour: float = Field(
        default=60.0, gt=0, description="How many reads an hour being hot is worth at all."
    )
    dwell_hours: float = Field(
        default=6.0, ge=0, description="How long an attribute stays what it has become."
    )
    confirmations: int = Field(
        default=3, ge=1, le=100, description="Evaluations in a row that must wish for a change."
    )
    hot_max: int = Field(
        default=50, ge=0, description="Hot attributes of a tenant up to which it is promoted."
    )
    changes_max: int = Field(
        default=2,
        ge=1,
        description="Promotions, and demotions, of a tenant in one evaluation.",
    )

    @model_validator(mode="after")
    def _never_asks_for_both(self) -> "PromotionConfig":
        if self.demote_score >= self.promote_score:
            raise ValueError("demote_score is not below promote_score: attributes would flap")
        if self.demote_percentile < self.promote_percentile:
            raise ValueError("demote_percentile is below promote_percentile: attributes would flap")
        if self.hours_min > self.window_hours:
            raise ValueError("hours_min is above window_hours")
        return self

    def rules(self) -> Rules:
        """What the policy goes by."""
        return Rules(**{field.name: getattr(self, field.name) for field in fields(Rules)})


class Config(ServiceConfig):
    """Settings of the hotcache service."""

    primary: DatabaseConfig = Field(description="The primary, through a pooler if there is one.")
    token: TokenConfig = Field(description="Keys of freshness tokens.")
    valkey: ValkeyConfig = Field(description="The server that holds the cache.")
    cache: CacheConfig = Field(
        default_factory=CacheConfig, description="How entries live, and when they are distrusted."
    )
    projection: ProjectionConfig = Field(
        default_factory=ProjectionConfig, description="Jobs on the projection."
    )
    indexing: IndexingConfig = Field(
        default_factory=IndexingConfig, description="Indexes of cold attributes."
    )
    promotion: PromotionConfig = Field(
        default_factory=PromotionConfig, description="Promoting and demoting by reads."
    )
    policies: PolicyConfig = Field(
        default_factory=PolicyConfig, description="How policies are run."
    )
