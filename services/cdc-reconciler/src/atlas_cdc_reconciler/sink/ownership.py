"""Who owns the warehouse's file, and ending an owner that hangs.

A process that was stopped keeps its lock on the file, and nothing it could be told reaches it. The
one that took the leadership from it may kill it, and nobody else: the owner leaves a note beside
the file, of which lock it leads by. Who holds that very lock knows that the owner lost it.
"""

import json
import os
import re
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from atlas_common.telemetry import logger

_PID = re.compile(r"\(PID (\d+)\)")
_START_TIME_FIELD = 19  # Of /proc/<pid>/stat, behind the command's closing parenthesis.
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A leader's claim to the file."""

    lock: str
    """Names the lock by which it leads, on every server."""
    instance: str
    hung_owner_seconds: float
    """How long a former leader has to let go by itself."""
    kills: bool


@dataclass(frozen=True, slots=True)
class _Note:
    lock: str
    instance: str
    pid: int
    start_time: int


def leave_note(path: Path, claim: Claim) -> None:
    """Say who owns the file, for as long as it leads."""
    start_time = _start_time(os.getpid())
    if start_time is not None:
        note = _Note(claim.lock, claim.instance, os.getpid(), start_time)
        _note_path(path).write_text(json.dumps(asdict(note)))


def take_note_away(path: Path) -> None:
    """From now on the owner lets go by itself, and takes as long as it needs."""
    _note_path(path).unlink(missing_ok=True)


def hung_owner(path: Path, claim: Claim, refusal: str) -> int | None:
    """The process that holds the file and has lost `claim`'s lock; None if that is not certain.

    `refusal` is what DuckDB said when the file could not be opened.
    """
    found = _PID.search(refusal)
    if found is None:
        return None
    try:
        note = _Note(**json.loads(_note_path(path).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    pid = int(found[1])
    if note.pid != pid or note.lock != claim.lock or note.start_time != _start_time(pid):
        return None
    return pid


def end(pid: int) -> None:
    """Kill it."""
    _log.critical("a former leader hangs and holds the warehouse: killing it", pid=pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".owner")


def _start_time(pid: int) -> int | None:
    """When the process started, in the kernel's ticks: with the pid it is unique."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[_START_TIME_FIELD])
    except (OSError, ValueError, IndexError):
        return None
