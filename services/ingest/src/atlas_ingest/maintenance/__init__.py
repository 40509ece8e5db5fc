"""What the database needs done now and then: partitions ahead, rows moved, old ones retired."""

from atlas_ingest.maintenance.metrics import observe_partitions, observe_retention
from atlas_ingest.maintenance.partitions import Partitions
from atlas_ingest.maintenance.retention import Retention

__all__ = ["Partitions", "Retention", "observe_partitions", "observe_retention"]
