"""Who used the processor during a run: which part is the bottleneck, and how much was not ours."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from atlas_devstack.identity import ProcessIdentity

OTHERS = "others"
"""What runs on the machine and is neither the platform nor the benchmark."""
BENCH = "bench"
"""The driver, the echo server, the baseline's client."""


@dataclass(frozen=True)
class Reading:
    """Processor seconds since the machine and each part started."""

    parts: dict[str, float]
    machine: float

    def since(self, before: "Reading") -> dict[str, float]:
        """Return what each part used since an earlier reading, most first."""
        used = {name: now - before.parts.get(name, 0.0) for name, now in self.parts.items()}
        # Below 0: a process that ended takes its seconds with it, unless its parent waited for it.
        used[OTHERS] = max(self.machine - before.machine - sum(used.values()), 0.0)
        ranked = sorted(used.items(), key=lambda item: item[1], reverse=True)
        return {name: round(seconds, 2) for name, seconds in ranked}


def read(state: Path) -> Reading:
    """Read it for the platform of a state directory and for this process and its children."""
    pids = {identity.pid for identity in _supervised(state).values()}
    parts = {BENCH: _seconds(os.getpid(), skip=pids)}
    for name, identity in _supervised(state).items():
        if identity.is_alive():
            parts[name] = _seconds(identity.pid)
    return Reading(parts, _busy(psutil.cpu_times()))


def _supervised(state: Path) -> dict[str, ProcessIdentity]:
    """Return the platform's processes: perhaps our own children.

    One that a benchmark started besides has a directory of its own, and goes by its name.
    """
    records = {record.stem: record for record in state.glob("run/*.json")}
    records |= {record.parent.parent.name: record for record in state.glob("*/run/*.json")}
    found = {name: ProcessIdentity.read(record) for name, record in records.items()}
    return {name: identity for name, identity in found.items() if identity is not None}


def _seconds(pid: int, skip: set[int] | None = None) -> float:
    """Return what a process and all below it have used."""
    if skip and pid in skip:
        return 0.0
    try:
        process = psutil.Process(pid)
        own = process.cpu_times()
        children = process.children()
    except psutil.NoSuchProcess:
        return 0.0
    ended = 0.0 if skip else own.children_user + own.children_system
    return own.user + own.system + ended + sum(_seconds(child.pid, skip) for child in children)


def _busy(times: Any) -> float:
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
