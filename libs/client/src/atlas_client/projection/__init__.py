"""The projection's administration: attributes promoted and demoted, rebuilding, verifying."""

from atlas_client.projection.admin import ProjectionAdmin
from atlas_client.projection.promotion import (
    AttributeStanding,
    Pin,
    Pinned,
    PromotionDecision,
    PromotionFigures,
    PromotionReport,
)
from atlas_client.projection.records import Difference, JobKind, JobState, ProjectionJob

__all__ = [
    "AttributeStanding",
    "Difference",
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
