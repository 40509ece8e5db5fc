"""The projection's administration: what is hot, what is indexed, rebuilding, verifying."""

from atlas_client.projection.admin import ProjectionAdmin
from atlas_client.projection.promotion import (
    AttributeStanding,
    Pin,
    Pinned,
    PromotionDecision,
    PromotionFigures,
    PromotionReport,
)
from atlas_client.projection.records import (
    AttributeIndex,
    Difference,
    IndexState,
    JobKind,
    JobState,
    ProjectionJob,
)

__all__ = [
    "AttributeIndex",
    "AttributeStanding",
    "Difference",
    "IndexState",
    "JobKind",
    "JobState",
    "Pin",
    "Pinned",
    "ProjectionAdmin",
    "ProjectionJob",
    "PromotionDecision",
    "PromotionFigures",
    "PromotionReport",
]
