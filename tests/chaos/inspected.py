"""Runs a service exactly as its own module does, and writes what it holds to a file on SIGUSR1.

What a cancelled call may leave behind (a task, a pooled connection, a flight, a turn) is seen from
inside only. Nothing of the service is replaced: its objects are noted when they are made.
"""

import asyncio
import functools
import importlib
import json
import os
import signal
import weakref
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MODULE = "INSPECTED_MODULE"
FILE = "INSPECTED_FILE"
_NOTED = {
    "atlas_query": {
        "atlas_common.db.database": "Database",
        "atlas_common.rpc.admission": "Admission",
        "atlas_query.admission": "Admission",
        "atlas_query.endpoint": "Endpoint",
    },
    "atlas_hotcache": {
        "atlas_common.db.database": "Database",
        "atlas_common.rpc.admission": "Admission",
        "atlas_hotcache.flights": "Flights",
    },
}


@dataclass(frozen=True)
class Holdings:
    """What a process holds at a moment."""

    tasks: int
    in_use: int
    """Pooled connections that somebody has."""
    connections: int
    waiting: int
    """Callers that wait for a connection or for their turn."""
    calls: int
    reads: int
    flights: int
    resident_bytes: int


def holdings(found: Iterable[Any]) -> Holdings:
    """Sum up what was noted."""
    counts: dict[str, int] = dict.fromkeys(
        ("in_use", "connections", "waiting", "calls", "reads", "flights"), 0
    )
    for one in found:
        if hasattr(one, "stats"):
            stats = one.stats()
            counts["in_use"] += stats.in_use
            counts["connections"] += stats.size
            counts["waiting"] += stats.waiting
        elif hasattr(one, "reads_running"):
            counts["reads"] += one.reads_running
        elif hasattr(one, "waiter_count"):
            counts["flights"] += len(one)
        else:
            counts["calls"] += getattr(one, "_calls", 0)
            counts["waiting"] += getattr(one, "_waiting", 0)
    return Holdings(tasks=len(asyncio.all_tasks()), resident_bytes=_resident_bytes(), **counts)


def read(path: Path) -> Holdings:
    """What a process wrote."""
    return Holdings(**json.loads(path.read_text()))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _note(module: str) -> "weakref.WeakSet[Any]":
    """Every object of the named classes that is made from now on."""
    found: weakref.WeakSet[Any] = weakref.WeakSet()
    for path, name in _NOTED[module].items():
        made = getattr(importlib.import_module(path), name)
        made.__init__ = _noting(made.__init__, found)
    return found


def _noting(initialise: Any, found: "weakref.WeakSet[Any]") -> Any:
    @functools.wraps(initialise)
    def noting(self: Any, *arguments: Any, **named: Any) -> None:
        initialise(self, *arguments, **named)
        found.add(self)

    return noting


def main() -> None:
    """Serve until SIGTERM."""
    name, path = os.environ.pop(MODULE), Path(os.environ.pop(FILE))
    found = _note(name)
    service = importlib.import_module(f"{name}.__main__")

    def tell() -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(holdings(found))))
        partial.replace(path)

    async def serve() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
        await service.main()

    service.run(serve)


if __name__ == "__main__":
    main()
