"""How much memory a process has used."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlas_devstack.component import Component

_EVERY_SECONDS = 0.05
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class ResidentMemory:
    """The resident set of a component's process, looked at twenty times a second."""

    def __init__(self, component: Component) -> None:
        self._component = component
        self._most_kb = 0
        self._stop = threading.Event()

    @classmethod
    @contextmanager
    def watched(cls, component: Component) -> Iterator["ResidentMemory"]:
        """Watch it until the block ends."""
        memory = cls(component)
        thread = threading.Thread(target=memory._watch, name="atlas-memory", daemon=True)
        thread.start()
        try:
            yield memory
        finally:
            memory._stop.set()
            thread.join()

    @property
    def peak_mb(self) -> float:
        """The most that the process ever had, by the kernel's own books."""
        return _read(self._component.pid, _PEAK) / 1024

    @property
    def now_mb(self) -> float:
        """What the process has now."""
        return _read(self._component.pid, _RESIDENT) / 1024

    def restart(self) -> None:
        """Begin a new phase."""
        self._most_kb = 0

    @property
    def most_mb(self) -> float:
        """The most that was seen since restart()."""
        return self._most_kb / 1024

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_SECONDS):
            self._most_kb = max(self._most_kb, _read(self._component.pid, _RESIDENT))


def _read(pid: int, what: "re.Pattern[str]") -> int:
    try:
        found = what.search(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0  # It has ended.
    return int(found[1]) if found else 0
