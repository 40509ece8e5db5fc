"""`atlas bench ingest`: the write path against raw COPY of the same points, in one run."""

from atlas_bench.ingest.benchmark import measure
from atlas_bench.ingest.options import SCENARIOS, IngestOptions, chosen_options

__all__ = ["SCENARIOS", "IngestOptions", "chosen_options", "measure"]
