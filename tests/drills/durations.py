"""How long drills took, and the table of docs/disaster-recovery.md that says so."""

import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_HEAD = "| drill | rows | from the disaster to the proof | machine | date |\n|---|---|---|---|---|"


@dataclass
class Durations:
    """Drill -> rows of the platform meanwhile, and seconds."""

    measured: dict[str, tuple[int, float]] = field(default_factory=dict)

    def write_into(self, document: Path, machine: str, day: date) -> None:
        """Replace the rows of these drills between the marks; others stay.

        Raises ValueError if the marks are not there.
        """
        before, begin, rest = document.read_text().partition(BEGIN)
        table, end, after = rest.partition(END)
        if not (begin and end):
            raise ValueError(f"{document} has no {BEGIN} ... {END}")
        rows = {line.split("|")[1].strip(): line for line in table.strip().splitlines()[2:]}
        for name, (count, seconds) in self.measured.items():
            rows[name] = f"| {name} | {count:,} | {seconds:.0f} s | {machine} | {day} |"
        lines = "\n".join(rows[name] for name in sorted(rows))
        document.write_text(f"{before}{BEGIN}\n{_HEAD}\n{lines}\n{END}{after}")


class Drill:
    """The clock of one drill: it runs from the disaster to the proof."""

    def __init__(self, durations: Durations) -> None:
        self._durations = durations
        self.began = 0.0
        """The disaster, by time.monotonic()."""

    def disaster(self) -> None:
        """It happens now: call it right before."""
        self.began = time.monotonic()

    def proven(self, name: str, row_count: int) -> None:
        """The service works and the proof is there."""
        assert self.began, "no disaster"
        self._durations.measured[name] = (row_count, time.monotonic() - self.began)
