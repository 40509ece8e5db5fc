"""`atlas bench read`: reads of every tier, against bare gRPC and against SQL over rows."""

from atlas_bench.read.benchmark import measure
from atlas_bench.read.options import SCENARIOS, ReadOptions, chosen_options

__all__ = ["SCENARIOS", "ReadOptions", "chosen_options", "measure"]
