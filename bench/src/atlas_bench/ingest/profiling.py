"""Where the time goes: Python's steps in ingest, and the statements in Postgres, run by run."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
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


@dataclass
class _Sums:
    """Of a kind of run, all repeats together."""

    rows: int = 0
    parts: dict[str, float] = field(default_factory=dict)
    steps: dict[tuple[str, str], float] = field(default_factory=dict)
    statements: dict[str, list[float]] = field(default_factory=dict)


class Profile:
    """Looks at runs, and sums up what it saw by their kind."""

    def __init__(self, admin: "psycopg.Connection[Any]", pid: int, samples: Path) -> None:
        self._admin = admin
        self._pid = pid
        self._samples = samples
        self._sums: dict[str, _Sums] = {}
        admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    @contextmanager
    def of(self, kind: str) -> Iterator[None]:
        """Look at what happens in the block."""
        before = self._python()
        self._admin.execute("SELECT pg_stat_statements_reset()")
        yield
        sums = self._sums.setdefault(kind, _Sums())
        for place, seconds in self._python().items():
            spent = seconds - before.get(place, 0.0)
            sums.steps[place] = sums.steps.get(place, 0.0) + spent
        for text, figures in self._statements().items():
            known = sums.statements.setdefault(text, [0.0] * len(figures))
            sums.statements[text] = [a + b for a, b in zip(known, figures, strict=True)]

    def count(self, kind: str, rows: int, parts: Mapping[str, float]) -> None:
        """Note how many rows a run stored, and who used the processor for how many seconds."""
        sums = self._sums.setdefault(kind, _Sums())
        sums.rows += rows
        for part, seconds in parts.items():
            sums.parts[part] = sums.parts.get(part, 0.0) + seconds

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Return what was seen, a table a title; times are of one row, in microseconds."""
        found: dict[str, list[dict[str, Any]]] = {}
        for kind, sums in self._sums.items():
            if sums.rows:
                found[f"{kind}: processor time, all processes"] = _processes(sums)
                found[f"{kind}: Python in ingest"] = _python_table(sums)
                found[f"{kind}: statements in Postgres"] = _statement_table(sums)
        return found

    def _python(self) -> dict[tuple[str, str], float]:
        told = self._ask()
        steps = {(step, library): seconds for step, library, seconds in told["steps"]}
        steps["(other threads: gRPC's core, pools)", "-"] = (
            told["process_seconds"] - told["main_seconds"]
        )
        return steps

    def _ask(self) -> dict[str, Any]:
        """Have the process write its sums."""
        self._samples.unlink(missing_ok=True)
        os.kill(self._pid, signal.SIGUSR2)
        deadline = time.monotonic() + _WAIT_SECONDS_MAX
        while not self._samples.exists():
            if time.monotonic() > deadline:
                raise BenchError("ingest wrote no samples")
            time.sleep(0.01)
        told: dict[str, Any] = json.loads(self._samples.read_text())
        return told

    def _statements(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for query, toplevel, *figures in self._admin.execute(_STATEMENTS).fetchall():
            text = _LANE.sub("lane", " ".join(str(query).split()))[:_TEXT_LENGTH]
            text = text if toplevel else f"  {text}"
            known = found.setdefault(text, [0.0] * len(figures))
            found[text] = [a + float(b) for a, b in zip(known, figures, strict=True)]
        return found


def _processes(sums: _Sums) -> list[dict[str, Any]]:
    ranked = sorted(sums.parts.items(), key=lambda item: -item[1])
    return [
        {"step": part, "us_per_row": round(seconds * 1e6 / sums.rows, 3)}
        for part, seconds in ranked
    ]


def _python_table(sums: _Sums) -> list[dict[str, Any]]:
    total = sum(sums.steps.values()) or 1.0
    ranked = sorted(sums.steps.items(), key=lambda item: -item[1])[:_STEPS_SHOWN]
    return [
        {
            "step": step,
            "in": library,
            "us_per_row": round(seconds * 1e6 / sums.rows, 3),
            "share": f"{seconds / total:.1%}",
        }
        for (step, library), seconds in ranked
        if seconds > 0
    ]


def _statement_table(sums: _Sums) -> list[dict[str, Any]]:
    """Nested statements are indented; what calls them contains their time."""
    ranked = sorted(sums.statements.items(), key=lambda item: -item[1][1])[:_STEPS_SHOWN]
    return [
        {
            "step": text,
            "us_per_row": round(milliseconds * 1e3 / sums.rows, 3),
            "calls": int(calls),
            "ms_per_call": round(milliseconds / calls, 2) if calls else 0.0,
            "rows": int(rows),
            "wal_b_per_row": round(wal / sums.rows, 1),
            "blocks_per_row": round(blocks / sums.rows, 2),
        }
        for text, (calls, milliseconds, rows, wal, blocks) in ranked
    ]
