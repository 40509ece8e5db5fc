"""The projection's administration: attributes promoted and demoted, rebuilding, verifying."""

from atlas_client.projection.admin import ProjectionAdmin
from atlas_client.projection.records import Difference, JobKind, JobState, ProjectionJob

__all__ = ["Difference", "JobKind", "JobState", "ProjectionAdmin", "ProjectionJob"]
