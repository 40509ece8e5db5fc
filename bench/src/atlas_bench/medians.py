"""Medians and ratios over repeated runs.

Medians, not means: one run that shared the machine with something else must not move the result.
"""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of the values that there are; None when there is none."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None


def ratio(value: float | None, baseline: float | None) -> float | None:
    """Return value / baseline; None when one is unknown or the baseline is 0."""
    if value is None or not baseline:
        return None
    return round(value / baseline, 4)


def pick(run: Mapping[str, Any], path: str) -> float | None:
    """Return a number deep in a run: pick(run, "latency_ms.p99"); None where it is missing."""
    found: Any = run
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return None if found is None else float(found)


def medians(runs: Iterable[Mapping[str, Any]], paths: Mapping[str, str]) -> dict[str, float | None]:
    """Return the median over the runs of each path: {name of the result: path in a run}."""
    kept = list(runs)
    return {name: median(pick(run, path) for run in kept) for name, path in paths.items()}


def paired_ratio(
    runs: Iterable[Mapping[str, Any]], baseline: Iterable[Mapping[str, Any]], path: str
) -> float | None:
    """Return the median of run / baseline over the runs of the same repeat.

    Not the ratio of the medians: as the table grows, both get slower from repeat to repeat, and
    what else the machine does changes too. Neighbours in time share both.
    """
    of_repeat = {run["repeat"]: pick(run, path) for run in baseline}
    return median(ratio(pick(run, path), of_repeat.get(run["repeat"])) for run in runs)
