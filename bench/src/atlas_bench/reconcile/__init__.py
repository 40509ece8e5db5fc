"""How long the proof takes that the warehouse equals the source."""

from atlas_bench.reconcile.benchmark import measure
from atlas_bench.reconcile.options import chosen_options

__all__ = ["chosen_options", "measure"]
