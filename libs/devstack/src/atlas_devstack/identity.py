"""Telling a process from a later one that got the same pid."""

import contextlib
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class ProcessIdentity:
    """A pid together with a mark of when it started, which a reused pid cannot share."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity | None":
        """Identify a live process; None when there is none (a zombie is none)."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            return cls(pid, _start_mark(process))
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            return None

    def is_alive(self) -> bool:
        """Say whether this very process still runs."""
        return ProcessIdentity.of(self.pid) == self

    def send(self, signal_number: signal.Signals) -> None:
        """Signal this very process; nothing happens when it is gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal_number)

    def descendants(self) -> list["ProcessIdentity"]:
        """Return its live children, theirs, and so on."""
        try:
            below = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [found for child in below if (found := ProcessIdentity.of(child.pid))]

    def write(self, path: Path) -> None:
        """Record it atomically."""
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self)) + "\n")
        fresh.replace(path)

    @classmethod
    def read(cls, path: Path) -> "ProcessIdentity | None":
        """Read a record; None when there is none, or none that makes sense."""
        try:
            record = json.loads(path.read_text())
            return cls(int(record["pid"]), str(record["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _start_mark(process: psutil.Process) -> str:
    stat = Path(f"/proc/{process.pid}/stat")
    if not stat.exists():  # Not Linux.
        return str(process.create_time())
    # Ticks since boot (field 22; the name in field 2 may contain anything up to the last ")"), not
    # the wall clock: a clock step would make every process look like another one.
    ticks = stat.read_text().rpartition(")")[2].split()[19]
    return f"{_BOOT_ID.read_text().strip()}:{ticks}"
