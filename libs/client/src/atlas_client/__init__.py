"""Python client of the AtlasCo Telemetry Platform.

async with AtlasClient.connect(Endpoints(ingest=..., query=...), tenant="acme") as client:
    session = client.session()
    await session.write([Point("pump-1", "rpm", 1480, datetime.now(UTC))])
    state = await session.get_entities(["pump-1"])  # Sees the write, wherever it is served.
"""

from atlas_client.client import AtlasClient
from atlas_client.consistency import (
    Consistency,
    Level,
    OnUnmet,
    analytics,
    at_least_as_fresh,
    eventual,
    strong,
)
from atlas_client.endpoints import Endpoints
from atlas_client.errors import AtlasError
from atlas_client.producer import (
    BufferFullError,
    Producer,
    ProducerClosedError,
    ProducerError,
    ProducerStats,
    RefusedBatch,
    SpoolFullError,
    SpoolInUseError,
    UndeliveredError,
)
from atlas_client.projection import (
    Difference,
    JobKind,
    JobState,
    ProjectionAdmin,
    ProjectionJob,
)
from atlas_client.queued import queued_write
from atlas_client.records import (
    AckLevel,
    AggregateFunction,
    AggregateRow,
    ArrowWriteResult,
    Attribute,
    CacheStatus,
    Digest,
    EntitiesResult,
    Entity,
    EntityState,
    PipelineStatus,
    Point,
    PointError,
    ProducerPosition,
    Reading,
    ReadMetadata,
    ReconcileSummary,
    Source,
    StagingStatus,
    Tenant,
    Tier,
    UnknownAttributes,
    Verification,
    WindowResult,
    WriteResult,
)
from atlas_client.session import Session
from atlas_client.streams import ReadStream, Reconciliation
from atlas_client.values import DataType, Json, ReadValue, Value
from atlas_client.where import AttributeRef, Where, all_of, any_of, attribute

__all__ = [
    "AckLevel",
    "AggregateFunction",
    "AggregateRow",
    "ArrowWriteResult",
    "AtlasClient",
    "AtlasError",
    "Attribute",
    "AttributeRef",
    "BufferFullError",
    "CacheStatus",
    "Consistency",
    "DataType",
    "Difference",
    "Digest",
    "Endpoints",
    "EntitiesResult",
    "Entity",
    "EntityState",
    "JobKind",
    "JobState",
    "Json",
    "Level",
    "OnUnmet",
    "PipelineStatus",
    "Point",
    "PointError",
    "Producer",
    "ProducerClosedError",
    "ProducerError",
    "ProducerPosition",
    "ProducerStats",
    "ProjectionAdmin",
    "ProjectionJob",
    "ReadMetadata",
    "ReadStream",
    "ReadValue",
    "Reading",
    "ReconcileSummary",
    "Reconciliation",
    "RefusedBatch",
    "Session",
    "Source",
    "SpoolFullError",
    "SpoolInUseError",
    "StagingStatus",
    "Tenant",
    "Tier",
    "UndeliveredError",
    "UnknownAttributes",
    "Value",
    "Verification",
    "Where",
    "WindowResult",
    "WriteResult",
    "all_of",
    "analytics",
    "any_of",
    "at_least_as_fresh",
    "attribute",
    "eventual",
    "queued_write",
    "strong",
]
