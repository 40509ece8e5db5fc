"""Whether what was acknowledged is stored: no more, no less."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from atlas_bench.ingest.job import WriteRun
from atlas_bench.progress import say


@dataclass
class Audit:
    """The books of what the platform acknowledged, and their comparison with the table."""

    admin: "psycopg.Connection[Any]"
    tenant_ids: Sequence[int]
    settle: Callable[[], None]
    findings: list[dict[str, Any]] = field(default_factory=list)
    _acknowledged: int = 0
    _unknown: int = 0
    _since: Any = None

    def enter(self, run: WriteRun) -> WriteRun:
        """Count a run in, and give it back."""
        self._acknowledged += run.points_acknowledged
        self._unknown += run.points_unknown
        return run

    def restart(self) -> None:
        """Begin new books: what was stored before does not count."""
        self.settle()
        self._acknowledged = self._unknown = 0
        row = self.admin.execute("SELECT clock_timestamp()").fetchone()
        assert row is not None
        self._since = row[0]

    def check(self, what: str) -> None:
        """Compare, keep what was found, and begin anew."""
        self.settle()
        row = self.admin.execute(
            "SELECT count(*) FROM entity_values_ts"
            " WHERE tenant_id = ANY (%s) AND ingested_at >= %s",
            [list(self.tenant_ids), self._since],
        ).fetchone()
        assert row is not None
        stored = int(row[0])
        # What failed without a word may be stored, or not; nothing else may differ.
        equal = self._acknowledged <= stored <= self._acknowledged + self._unknown
        self.findings.append(
            {
                "of": what,
                "acknowledged": self._acknowledged,
                "unknown": self._unknown,
                "stored": stored,
                "equal": equal,
            }
        )
        verdict = "equal" if equal else "NOT EQUAL"
        say(f"  audit of {what}: {self._acknowledged:,} acknowledged, {stored:,} stored: {verdict}")
        self.restart()

    def summary(self) -> dict[str, Any]:
        """Return the sums, and whether every comparison held."""
        sums = {
            name: sum(found[name] for found in self.findings)
            for name in ("acknowledged", "unknown", "stored")
        }
        return {
            **sums,
            "equal": all(found["equal"] for found in self.findings),
            "of_scenarios": self.findings,
        }
