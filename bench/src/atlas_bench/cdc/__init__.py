"""`atlas bench cdc`: from the WAL into the warehouse, and reads of the warehouse."""

from atlas_bench.cdc.benchmark import measure
from atlas_bench.cdc.options import SCENARIOS, CdcOptions, chosen_options

__all__ = ["SCENARIOS", "CdcOptions", "chosen_options", "measure"]
