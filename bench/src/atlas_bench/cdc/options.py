"""What is measured, how often, how long."""

from dataclasses import dataclass, field
from typing import Any

from atlas_bench.ingest.fleet import Fleet
from atlas_bench.ingest.options import IngestOptions
from atlas_bench.scenarios import check_known, names_in

SCENARIOS = ("debezium", "backlog", "analytics", "live", "freshness")
"""In the order in which they run; `analytics` asks what `backlog` has copied."""
GROWTH_ROWS = 30_000_000


@dataclass(frozen=True)
class CdcOptions:
    """The whole benchmark; the defaults are what its results are quoted with."""

    only: tuple[str, ...] = SCENARIOS
    repeats: int = 5
    """Parts of equal size that the backlog is cut into, and times that a question is asked."""
    rows: int = 10_000_000
    """Of the measured tenant, before the warehouse follows; a tenth more are of its neighbour."""
    entities: int = 1_000
    """Of the measured tenant: one attribute each, a reading a minute."""
    debezium_rows: int = 200_000
    """Of the backlog that Debezium works off, and then the slot."""
    live_seconds: float = 60.0
    """How long ingest runs at full speed."""
    freshness_seconds: float = 30.0
    probes_per_s: float = 20.0
    """Writes whose way into the warehouse is timed, beside the steady load."""
    ingest: IngestOptions = field(
        default_factory=lambda: IngestOptions(fleet=Fleet(attribute_sets=1), arrow_templates=100)
    )
    """Of both loads."""
    shared_buffers_mb: int = 512
    profile: bool = False
    quick: bool = False

    def __post_init__(self) -> None:
        check_known(self.only, SCENARIOS)


_QUICK: dict[str, Any] = {
    "only": tuple(name for name in SCENARIOS if name != "debezium"),
    "rows": 500_000,
    "live_seconds": 5.0,
    "freshness_seconds": 5.0,
    "ingest": IngestOptions(
        fleet=Fleet(tenants=5, entities=200, attribute_sets=1),
        arrow_points=4_000,
        arrow_templates=20,
        latency_points_per_s=10_000.0,
    ),
    "quick": True,
}


def chosen_options(
    *, only: str | None = None, quick: bool = False, growth: bool = False, **others: Any
) -> CdcOptions:
    """Return the options as a command line gives them. Raises BenchError for what is not known."""
    given: dict[str, Any] = {**(_QUICK if quick else {}), **others}
    if growth:
        given = {"rows": GROWTH_ROWS, "only": ("backlog",), **given}
    if only is not None:
        given["only"] = names_in(only)
    return CdcOptions(**given)
