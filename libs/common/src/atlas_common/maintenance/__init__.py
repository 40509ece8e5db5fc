"""Jobs that policies in the database have done now and then, by one process at a time."""

from atlas_common.maintenance.job import Job, JobError, RunResult, listed
from atlas_common.maintenance.runner import Runner
from atlas_common.maintenance.store import PolicyStore

__all__ = ["Job", "JobError", "PolicyStore", "RunResult", "Runner", "listed"]
