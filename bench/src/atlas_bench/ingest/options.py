"""What is measured, how often, how long."""

from dataclasses import dataclass, field
from typing import Any

from atlas_bench.errors import BenchError
from atlas_bench.ingest.fleet import Fleet
from atlas_bench.ingest.job import Ack
from atlas_bench.scenarios import check_known, names_in

SCENARIOS = (
    "write_arrow",
    "write_stream",
    "write",
    "staged_burst",
    "vs_executemany",
    "group_commit",
    "latency",
    "memory",
    "growth",
)
"""In the order in which they run."""


@dataclass(frozen=True)
class GrowthStep:
    """A state of the table in which writing is measured."""

    rows: int
    partitions: int


@dataclass(frozen=True)
class IngestOptions:
    """The whole benchmark; the defaults are what its results are quoted with."""

    fleet: Fleet = field(default_factory=Fleet)
    ack: Ack = Ack.COMMITTED
    """Of every scenario that does not choose its own."""
    only: tuple[str, ...] = SCENARIOS
    repeats: int = 5
    seconds: float = 6.0
    """Of each run at full speed; what was sent by then is waited for."""
    warm_up_seconds: float = 4.0

    arrow_points: int = 20_000
    """Rows of a message of WriteArrow, as of the baseline's COPY."""
    arrow_streams: int = 4
    stream_points: int = 2_000
    """Points of a batch of WriteStream."""
    streams: int = 20
    stream_window: int = 4
    """Batches of a stream that are unacknowledged at a time; fewer where the server says so."""
    arrow_templates: int = 4_000
    """Different messages at most; then they come again with new times."""
    arrow_messages: int = 5
    """Of a stream of WriteArrow, which is answered at its end."""
    burst_points: int = 500_000
    burst_streams: int = 5

    small_callers: int = 1_000
    small_points: int = 10
    small_seconds: float = 5.0
    small_calls_off: int = 1_000
    """Calls of a run without the group commit: each waits for all before it."""
    small_drivers: int = 1
    """Processes that the small calls come from."""
    small_channels: int = 4

    latency_points: int = 100
    """Points of a call of the steady load."""
    latency_points_per_s: float = 10_000.0
    latency_seconds: float = 10.0

    stall_seconds: float = 20.0
    """How long Postgres is stopped under full load."""
    stall_callers: int = 400
    stall_points: int = 1_000

    growth: tuple[GrowthStep, ...] = (
        GrowthStep(1_000_000, 1),
        GrowthStep(10_000_000, 10),
        GrowthStep(30_000_000, 60),
    )
    growth_in_one: tuple[GrowthStep, ...] = ()
    """A second curve, for comparison: everything in one partition."""
    growth_repeats: int = 5
    growth_seconds: float = 5.0

    shared_buffers_mb: int = 512
    everything: bool = False
    """Let query, the warehouse and two replicas follow every row meanwhile."""
    profile: bool = False
    quick: bool = False

    def __post_init__(self) -> None:
        check_known(self.only, SCENARIOS)


_QUICK: dict[str, Any] = {
    "repeats": 1,
    "only": tuple(name for name in SCENARIOS if name != "write"),
    "seconds": 1.5,
    "arrow_templates": 40,
    "arrow_messages": 2,
    "stream_window": 2,
    "warm_up_seconds": 0.5,
    "small_seconds": 1.5,
    "small_calls_off": 150,
    "latency_seconds": 1.5,
    "stall_seconds": 1.0,
    "growth": (GrowthStep(100_000, 1), GrowthStep(300_000, 3)),
    "growth_repeats": 1,
    "growth_seconds": 1.0,
    "quick": True,
}
_IN_ONE = (GrowthStep(1_000_000, 1), GrowthStep(30_000_000, 1))
_QUICK_IN_ONE = (GrowthStep(100_000, 1), GrowthStep(600_000, 1))


def chosen_options(
    *,
    only: str | None = None,
    quick: bool = False,
    ack: str = Ack.COMMITTED,
    growth_in_one: bool = False,
    **others: Any,
) -> IngestOptions:
    """Return the options as a command line gives them. Raises BenchError for what is not known."""
    if ack not in set(Ack):
        raise BenchError(f"ack is {ack!r}: want {', '.join(Ack)}")
    given: dict[str, Any] = {**(_QUICK if quick else {}), "ack": Ack(ack), **others}
    if only is not None:
        given["only"] = names_in(only)
    if growth_in_one:
        given["growth_in_one"] = _QUICK_IN_ONE if quick else _IN_ONE
    if "repeats" in others:
        given["growth_repeats"] = others["repeats"]
    return IngestOptions(**given)
