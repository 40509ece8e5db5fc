"""What the platform is held to: shown beside what was measured, never enforced."""

from collections.abc import Iterable, Mapping
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


def verdicts(targets: Iterable[Target], result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each target that was measured, the bound, the value, and whether it is met."""
    found = {}
    for target in targets:
        value: Any = result
        for name in target.path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            bound = {"at_most": target.bound} if target.is_most else {"at_least": target.bound}
            aim = {} if target.aim is None else {"aim": target.aim}
            found[target.path] = {**bound, **aim, "is": value, "met": target.is_met(value)}
    return found
