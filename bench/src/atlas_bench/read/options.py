"""What is measured, how often, how long."""

from dataclasses import dataclass, field
from typing import Any

from atlas_bench.ingest.options import IngestOptions
from atlas_bench.read.estate import Estate
from atlas_bench.scenarios import check_known, names_in

_IN_TURN = ("hot", "secured", "batch", "filter", "jsonb", "cold", "history", "router")
SCENARIOS = (*_IN_TURN, "noisy", "under_ingest")
"""In the order in which they run; all but the last two take turns."""


@dataclass(frozen=True)
class ReadOptions:
    """The whole benchmark; the defaults are what its results are quoted with."""

    estate: Estate = field(default_factory=Estate)
    only: tuple[str, ...] = SCENARIOS
    repeats: int = 5
    seconds: float = 4.0
    """Of each run."""
    callers: int = 16
    """Of a closed loop, which finds the throughput."""
    batch_callers: int = 4
    """The same for calls with a batch: each is the work of many."""
    batch_entities: int = 100
    hot_rate: float = 500.0
    """Calls per second of the open loop, which finds the latency, for one hot entity; ..."""
    rate: float = 100.0
    """... for what Postgres answers; ..."""
    filter_rate: float = 20.0
    """... for a page of a hundred entities, ..."""
    filter_all_rate: float = 3.0
    """... and for one with all their hot attributes."""
    variants: int = 200
    """Different requests of a kind, sent in turn, where it is not about one entity."""
    router_rounds: int = 1_000
    """Reads of each kind in a run of the router's scenario."""
    noisy_quota: float = 25.0
    """Calls per second that the neighbour of `noisy` may make."""
    noisy_seconds: float = 8.0
    """Of a run beside it: its p99 is that of so many calls."""
    ingest: IngestOptions = field(default_factory=lambda: IngestOptions(arrow_templates=100))
    """Of the load in `under_ingest`."""
    ingest_lead_seconds: float = 2.0
    """How long that load, or a neighbour's, runs before a read is measured beside it."""
    shared_buffers_mb: int = 512
    profile: bool = False
    quick: bool = False

    def __post_init__(self) -> None:
        check_known(self.only, SCENARIOS)


_QUICK: dict[str, Any] = {
    "estate": Estate(entities=10_000, followed=40),
    "only": _IN_TURN,
    "repeats": 2,
    "seconds": 0.6,
    "filter_all_rate": 8.0,
    "variants": 20,
    "router_rounds": 150,
    "quick": True,
}


def chosen_options(*, only: str | None = None, quick: bool = False, **others: Any) -> ReadOptions:
    """Return the options as a command line gives them. Raises BenchError for what is not known."""
    given: dict[str, Any] = {**(_QUICK if quick else {}), **others}
    if only is not None:
        given["only"] = names_in(only)
    return ReadOptions(**given)
