"""What is measured, how often, how long."""

from dataclasses import dataclass, field
from typing import Any

from atlas_bench.ingest.fleet import Fleet
from atlas_bench.ingest.options import IngestOptions
from atlas_bench.scenarios import check_known, names_in

SCENARIOS = ("full", "incremental", "reladiff", "ingest")
"""full and incremental take turns; then the peer; then ingest beside reconciliation."""


@dataclass(frozen=True)
class ReconcileOptions:
    """The whole benchmark; the defaults are what its results are quoted with."""

    rows: int = 10_000_000
    hours: float = 24.0
    """Of ingestion that the rows are spread over; a window is a minute."""
    new_share: float = 0.01
    """Rows that are new in each incremental run."""
    only: tuple[str, ...] = SCENARIOS
    repeats: int = 5
    peer_repeats: int = 3
    ingest_seconds: float = 12.0
    """Of each run of ingest."""
    interval_seconds: float = 4.0
    """How often reconciliation runs beside it: harder than by default, every 30 s."""
    ingest: IngestOptions = field(default_factory=lambda: IngestOptions(arrow_templates=100))
    shared_buffers_mb: int = 512
    quick: bool = False

    def __post_init__(self) -> None:
        check_known(self.only, SCENARIOS)


_QUICK: dict[str, Any] = {
    "rows": 300_000,
    "hours": 1.0,
    "only": tuple(name for name in SCENARIOS if name != "reladiff"),
    "repeats": 2,
    "ingest_seconds": 2.0,
    "interval_seconds": 1.0,
    "ingest": IngestOptions(fleet=Fleet(tenants=4), arrow_templates=20, arrow_messages=2),
    "quick": True,
}


def chosen_options(
    *, only: str | None = None, quick: bool = False, **others: Any
) -> ReconcileOptions:
    """Return the options as a command line gives them. Raises BenchError for what is not known."""
    given: dict[str, Any] = {**(_QUICK if quick else {}), **others}
    if only is not None:
        given["only"] = names_in(only)
    return ReconcileOptions(**given)
