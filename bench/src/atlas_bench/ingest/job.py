"""What the driver of ingest is asked for: one line of JSON on its stdin, and one on its stdout."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from atlas_bench.ingest.fleet import Fleet


class Door(StrEnum):
    """Where the points go in."""

    WRITE = "write"
    STREAM = "stream"
    ARROW = "arrow"


class Ack(StrEnum):
    """When a write is answered."""

    STAGED = "staged"
    COMMITTED = "committed"
    DURABLE = "durable"


@dataclass(frozen=True)
class WriteJob:
    """One run of the driver."""

    target: str
    door: Door
    ack: Ack
    fleet: Fleet
    points: int
    """Of one call of Write, one batch of WriteStream, one message of WriteArrow."""
    concurrency: int
    """Callers, or streams, at once."""
    seconds: float
    """When nothing more is sent. What was sent is waited for."""
    points_max: int | None = None
    """Send no more points than these."""
    calls_per_s: float | None = None
    """Open loop (Write only): calls at this rate, whatever the answers."""
    channels: int = 1
    """Connections that calls are spread over."""
    messages_per_stream: int = 5
    """Of WriteArrow: it answers at the end of a stream."""
    window_batches: int = 16
    """Of WriteStream: unacknowledged batches at most, if the server's credit allows."""
    retry_overloaded: bool = False
    """Send a refused call again, with the same request_id, when the server said to."""
    templates_max: int = 4_000
    """Different batches; then they come again with new times."""
    seed: int = 1
    timeout_seconds: float = 60.0

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WriteJob":
        """Read what to_json() wrote."""
        read = json.loads(text)
        fleet = Fleet(**read.pop("fleet"))
        return cls(door=Door(read.pop("door")), ack=Ack(read.pop("ack")), fleet=fleet, **read)


@dataclass
class WriteRun:
    """What came of it."""

    points_acknowledged: int = 0
    points_unknown: int = 0
    """Sent, and neither acknowledged nor refused: they may be stored."""
    seconds: float = 0.0
    """From the first send to the last answer."""
    calls: int = 0
    overloaded: int = 0
    """RESOURCE_EXHAUSTED, also when the call was sent again."""
    errors: dict[str, int] = field(default_factory=dict)
    latency_ms: Mapping[str, float] | None = None
    send_lag_ms: Mapping[str, float] | None = None
    driver_seconds: float = 0.0
    """Processor time of the driver."""
    timeline: list[tuple[float, int, int]] = field(default_factory=list)
    """(CLOCK_MONOTONIC at the end of a slice, points acknowledged in it, calls refused in it)"""

    @property
    def rows_per_s(self) -> float:
        """The rate of what was acknowledged."""
        return self.points_acknowledged / self.seconds if self.seconds else 0.0

    def summary(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        kept = asdict(self)
        del kept["timeline"]
        return {"rows_per_s": round(self.rows_per_s, 1), **kept}
