"""Who used the processor during a run, and who waited for it: which part is the bottleneck."""

import contextlib
import os
import time
from collections.abc import Set
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
    """Processor seconds since the machine and each part started, and when they were read.

    `queued`: seconds for which threads of each part were ready to run and no core was free.
    """

    parts: dict[str, float]
    queued: dict[str, float]
    machine: float
    at: float

    def since(self, before: "Reading") -> dict[str, float]:
        """Return what each part used since an earlier reading, most first."""
        used = {name: now - before.parts.get(name, 0.0) for name, now in self.parts.items()}
        # Below 0: a process that ended takes its seconds with it, unless its parent waited for it.
        used[OTHERS] = max(self.machine - before.machine - sum(used.values()), 0.0)
        return _ranked(used)

    def queued_since(self, before: "Reading") -> dict[str, float]:
        """Return for how long each part waited for a core since an earlier reading, most first."""
        return _ranked(
            {name: max(now - before.queued.get(name, 0), 0) for name, now in self.queued.items()}
        )

    def busy_share_since(self, before: "Reading") -> float:
        """Return the share of all cores' time that was used; 1 means that everybody waits."""
        cores = os.cpu_count() or 1
        return round((self.machine - before.machine) / ((self.at - before.at) * cores), 3)


def read(state: Path) -> Reading:
    """Read it for the platform of a state directory and for this process and its children."""
    supervised = _supervised(state)
    pids = {identity.pid for identity in supervised.values()}
    parts = {BENCH: cpu_seconds(os.getpid(), skip=pids)}
    queued = {BENCH: _queued_seconds(os.getpid(), skip=pids)}
    for name, identity in supervised.items():
        if identity.is_alive():
            parts[name] = cpu_seconds(identity.pid)
            queued[name] = _queued_seconds(identity.pid)
    return Reading(parts, queued, _busy(psutil.cpu_times()), time.monotonic())


def _supervised(state: Path) -> dict[str, ProcessIdentity]:
    """Return the platform's processes: perhaps our own children.

    One that a benchmark started besides has a directory of its own, and goes by its name.
    """
    records = {record.stem: record for record in state.glob("run/*.json")}
    records |= {record.parent.parent.name: record for record in state.glob("*/run/*.json")}
    found = {name: ProcessIdentity.read(record) for name, record in records.items()}
    return {name: identity for name, identity in found.items() if identity is not None}


def cpu_seconds(pid: int, skip: Set[int] = frozenset()) -> float:
    """Return what a process and all below it have used."""
    if pid in skip:
        return 0.0
    try:
        process = psutil.Process(pid)
        own = process.cpu_times()
        children = process.children()
    except psutil.NoSuchProcess:
        return 0.0
    ended = 0.0 if skip else own.children_user + own.children_system
    return own.user + own.system + ended + sum(cpu_seconds(child.pid, skip) for child in children)


def _queued_seconds(pid: int, skip: Set[int] = frozenset()) -> float:
    """Return for how long the threads of a process and of all below it have waited for a core."""
    if pid in skip:
        return 0.0
    total = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # It has ended meanwhile.
            total += int(task.read_text().split()[1]) / 1e9
    with contextlib.suppress(psutil.NoSuchProcess):
        total += sum(_queued_seconds(one.pid, skip) for one in psutil.Process(pid).children())
    return total


def _ranked(seconds: dict[str, float]) -> dict[str, float]:
    ranked = sorted(seconds.items(), key=lambda item: item[1], reverse=True)
    return {name: round(each, 2) for name, each in ranked}


def _busy(times: Any) -> float:
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
