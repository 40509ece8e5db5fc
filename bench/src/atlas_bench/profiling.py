"""Where the time goes: Python's steps in services, and the statements in Postgres, run by run."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from atlas_bench.errors import BenchError

SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track": "all",
    "pg_stat_statements.max": "5000",
    "track_io_timing": "on",
}
"""Of Postgres, for its part."""
_SAMPLING = Path(__file__).with_name("sampling")
_WAIT_SECONDS_MAX = 10.0
_STEPS_SHOWN = 25
_LANE = re.compile(r"lane_\d+_[ab]")
_TEXT_LENGTH = 80
_STATEMENTS = """
SELECT query, toplevel, calls, total_exec_time, rows, wal_bytes,
    shared_blks_hit + shared_blks_read AS blocks
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def environment(samples: Path) -> dict[str, str]:
    """Return what makes a service's process write its samples there."""
    path = os.pathsep.join(filter(None, [str(_SAMPLING), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "ATLAS_BENCH_SAMPLES": str(samples)}


@dataclass(frozen=True)
class Sampled:
    """A service's process that samples itself, and where it writes what it found."""

    name: str
    pid: int
    samples: Path


@dataclass
class _Sums:
    """Of a kind of run, all repeats together; steps by service, statements by server."""

    units: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    steps: dict[str, dict[tuple[str, str], float]] = field(default_factory=dict)
    statements: dict[str, dict[str, list[float]]] = field(default_factory=dict)


class Profile:
    """Looks at runs, and sums up what it saw by their kind. Figures are of one `unit`: row, call.

    `servers`: a connection of an administrator to each, by its name; the first is the primary.
    """

    def __init__(
        self,
        servers: "Mapping[str, psycopg.Connection[Any]]",
        services: Sequence[Sampled],
        unit: str,
    ) -> None:
        self._servers = servers
        self._services = services
        self._unit = unit
        self._sums: dict[str, _Sums] = {}
        primary = next(iter(servers.values()))
        primary.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Look at what happens in the block."""
        before = {service.name: _python(service) for service in self._services}
        for server in self._servers.values():
            server.execute("SELECT pg_stat_statements_reset()")
        yield
        sums = self._sums.setdefault(kind, _Sums())
        for service in self._services:
            steps = sums.steps.setdefault(service.name, {})
            for place, seconds in _python(service).items():
                spent = seconds - before[service.name].get(place, 0.0)
                steps[place] = steps.get(place, 0.0) + spent
        for name, server in self._servers.items():
            statements = sums.statements.setdefault(name, {})
            for text, figures in _statements(server).items():
                known = statements.setdefault(text, [0.0] * len(figures))
                statements[text] = [a + b for a, b in zip(known, figures, strict=True)]

    def count(self, kind: str, units: int, parts: Mapping[str, float]) -> None:
        """Note how much a run did, and who used the processor for how many seconds."""
        sums = self._sums.setdefault(kind, _Sums())
        sums.units += units
        for part, seconds in parts.items():
            sums.parts[part] = sums.parts.get(part, 0.0) + seconds

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return what was seen, a table a title; times are of one unit, in microseconds."""
        found: dict[str, list[dict[str, Any]]] = {}
        for kind, sums in self._sums.items():
            if not sums.units:
                continue
            per = _Per(sums.units, self._unit)
            found[f"{kind}: processor time, all processes"] = _processes(sums.parts, per)
            for name, steps in sums.steps.items():
                found[f"{kind}: Python in {name}"] = _python_table(steps, per)
            for name, statements in sums.statements.items():
                found[f"{kind}: statements in {name}"] = _statement_table(statements, per)
        return found


@dataclass(frozen=True)
class _Per:
    """What figures are divided by, and how they are called then."""

    units: int
    unit: str

    def of(self, name: str, value: float, digits: int) -> dict[str, float]:
        return {f"{name}_per_{self.unit}": round(value / self.units, digits)}


def _python(service: Sampled) -> dict[tuple[str, str], float]:
    told = _ask(service)
    steps = {(step, library): seconds for step, library, seconds in told["steps"]}
    steps["(other threads: gRPC's core, pools)", "-"] = (
        told["process_seconds"] - told["main_seconds"]
    )
    return steps


def _ask(service: Sampled) -> dict[str, Any]:
    """Have the process write its sums."""
    service.samples.unlink(missing_ok=True)
    os.kill(service.pid, signal.SIGUSR2)
    deadline = time.monotonic() + _WAIT_SECONDS_MAX
    while not service.samples.exists():
        if time.monotonic() > deadline:
            raise BenchError(f"{service.name} wrote no samples")
        time.sleep(0.01)
    told: dict[str, Any] = json.loads(service.samples.read_text())
    return told


def _statements(server: "psycopg.Connection[Any]") -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for query, toplevel, *figures in server.execute(_STATEMENTS).fetchall():
        text = _LANE.sub("lane", " ".join(str(query).split()))[:_TEXT_LENGTH]
        text = text if toplevel else f"  {text}"
        known = found.setdefault(text, [0.0] * len(figures))
        found[text] = [a + float(b) for a, b in zip(known, figures, strict=True)]
    return found


def _processes(parts: Mapping[str, float], per: _Per) -> list[dict[str, Any]]:
    ranked = sorted(parts.items(), key=lambda item: -item[1])
    return [{"step": part, **per.of("us", seconds * 1e6, 3)} for part, seconds in ranked]


def _python_table(steps: Mapping[tuple[str, str], float], per: _Per) -> list[dict[str, Any]]:
    total = sum(steps.values()) or 1.0
    ranked = sorted(steps.items(), key=lambda item: -item[1])[:_STEPS_SHOWN]
    return [
        {
            "step": step,
            "in": library,
            **per.of("us", seconds * 1e6, 3),
            "share": f"{seconds / total:.1%}",
        }
        for (step, library), seconds in ranked
        if seconds > 0
    ]


def _statement_table(statements: Mapping[str, list[float]], per: _Per) -> list[dict[str, Any]]:
    """Nested statements are indented; what calls them contains their time."""
    ranked = sorted(statements.items(), key=lambda item: -item[1][1])[:_STEPS_SHOWN]
    return [
        {
            "step": text,
            **per.of("us", milliseconds * 1e3, 3),
            "calls": int(calls),
            "ms_per_call": round(milliseconds / calls, 2) if calls else 0.0,
            "rows": int(rows),
            **per.of("wal_b", wal, 1),
            **per.of("blocks", blocks, 2),
        }
        for text, (calls, milliseconds, rows, wal, blocks) in ranked
    ]
