"""Samples what a service's main thread does; the interpreter imports this by its name.

On for a process whose environment has ATLAS_BENCH_SAMPLES, the file to write. A timer of processor
time interrupts every few milliseconds; the time since the last sample is charged to the innermost
function of the service on the stack, and to the library it was in. SIGUSR2 writes the sums so far.
Of the standard library alone: the service's process pays for it.
"""

import json
import os
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

EVERY_SECONDS = 0.004
_OURS = ("atlas_ingest", "atlas_query", "atlas_hotcache", "atlas_common")

_sums: defaultdict[tuple[str, str], float] = defaultdict(float)
_state = {"at": 0.0, "written": 0}


def _sample(_signal: int, frame: FrameType | None) -> None:
    now = time.thread_time()
    spent, _state["at"] = now - _state["at"], now
    _sums[_place(frame)] += spent


def _place(frame: FrameType | None) -> tuple[str, str]:
    """The innermost function of ours, and the library below it; of neither, "-"."""
    library = _module(frame)
    while frame is not None:
        module = _module(frame)
        if module.startswith(_OURS):
            name = f"{module.removeprefix('atlas_')}.{frame.f_code.co_qualname}"
            return name, "-" if library == module else library.partition(".")[0]
        frame = frame.f_back
    return "-", library.partition(".")[0]


def _module(frame: FrameType | None) -> str:
    return str(frame.f_globals.get("__name__", "-")) if frame is not None else "-"


def _write(_signal: int, _frame: FrameType | None) -> None:
    _state["written"] += 1
    path = Path(os.environ["ATLAS_BENCH_SAMPLES"])
    sums = list(_sums.items())  # In one step: a sample in between would change the dict.
    told = {
        "written": _state["written"],
        "process_seconds": time.process_time(),
        "main_seconds": time.thread_time(),
        "steps": [[step, library, seconds] for (step, library), seconds in sums],
    }
    half = path.with_suffix(".half")
    half.write_text(json.dumps(told))
    half.replace(path)


if "ATLAS_BENCH_SAMPLES" in os.environ and sys.platform == "linux":
    _state["at"] = time.thread_time()
    signal.signal(signal.SIGPROF, _sample)
    signal.signal(signal.SIGUSR2, _write)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)
