"""What the write path is held to: shown beside what was measured, never enforced."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound on one result, and what would be better still."""

    path: str
    """Where in the result, for example "ratios.write_arrow"."""
    bound: float
    aim: float | None = None
    is_most: bool = False
    """The bound is the most that is allowed; else the least."""

    def is_met(self, value: float) -> bool:
        """Compare."""
        return value <= self.bound if self.is_most else value >= self.bound


TARGETS = (
    Target("ratios.write_arrow", 0.80, aim=1.0),
    Target("ratios.write_stream", 0.60, aim=0.80),
    Target("ratios.staged_burst", 2.0),
    Target("ratios.vs_executemany", 4.0, aim=6.0),
    Target("ratios.group_commit", 10.0),
    Target("ratios.growth", 0.8),
    Target("latency_ms.committed_p99", 250.0, is_most=True),
    Target("latency_ms.staged_p99", 25.0, is_most=True),
    Target("rss_mb_max", 512.0, is_most=True),
)


def verdicts(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each target that was measured, the bound, the value, and whether it is met."""
    found = {}
    for target in TARGETS:
        value: Any = result
        for name in target.path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            bound = {"at_most": target.bound} if target.is_most else {"at_least": target.bound}
            aim = {} if target.aim is None else {"aim": target.aim}
            found[target.path] = {**bound, **aim, "is": value, "met": target.is_met(value)}
    return found
