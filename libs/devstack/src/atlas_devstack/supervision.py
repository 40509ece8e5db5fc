"""Starting again what died, within bounds."""

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from atlas_devstack.component import Component
from atlas_devstack.errors import DevstackError
from atlas_devstack.process import bound_log

log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.1
_LOG_INTERVAL_SECONDS = 10.0
FAST_DEATH_SECONDS = 10.0
"""A component that lived longer than this is taken to have worked: its count starts anew."""
FAST_DEATHS_MAX = 5
_BACKOFF_SECONDS_MIN = 0.1
_BACKOFF_SECONDS_MAX = 5.0


@dataclass
class _Watch:
    component: Component
    started_at: float
    fast_deaths: int = 0
    restarts: int = 0
    restart_at: float | None = None
    gave_up: bool = False


@dataclass(frozen=True)
class SupervisionState:
    """What has happened to a component so far."""

    restarts: int
    gave_up: bool


class Supervision:
    """Watches components from a thread of its own, starts those that died, and bounds their logs.

    The first restart comes at once, later ones after a growing pause. After FAST_DEATHS_MAX deaths
    in a row, each within FAST_DEATH_SECONDS of its start, the component is left dead, with an error
    in the log.
    """

    def __init__(self, components: Sequence[Component], record: Path, logs: Path) -> None:
        self._record = record
        self._logs = logs
        now = time.monotonic()
        self._watches = [_Watch(component, started_at=now) for component in components]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="atlas-supervision", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End watching; what runs goes on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def states(self) -> dict[str, SupervisionState]:
        """Return what has happened to each component."""
        return {
            watch.component.name: SupervisionState(watch.restarts, watch.gave_up)
            for watch in self._watches
        }

    def _run(self) -> None:
        logs_due = 0.0
        while not self._ended.wait(_INTERVAL_SECONDS):
            if time.monotonic() > logs_due:
                logs_due = time.monotonic() + _LOG_INTERVAL_SECONDS
                self._bound_logs()
            for watch in self._watches:
                try:
                    self._look_at(watch, time.monotonic())
                except (DevstackError, OSError):
                    log.exception("%s could not be started again", watch.component.name)

    def _bound_logs(self) -> None:
        for path in (*self._logs.glob("*.log"), *self._logs.glob("*.jsonl")):
            bound_log(path)

    def _look_at(self, watch: _Watch, now: float) -> None:
        component = watch.component
        if not component.is_wanted or component.is_running():
            watch.gave_up = watch.gave_up and not component.is_running()  # Started by hand.
            return
        if watch.gave_up:
            return
        if watch.restart_at is None:
            self._plan_restart(watch, now)
        elif now >= watch.restart_at:
            watch.restart_at = None
            watch.started_at = now
            watch.restarts += 1
            log.warning("starting %s again (restart %d)", component.name, watch.restarts)
            component.relaunch_if_dead()
            self._write()

    def _plan_restart(self, watch: _Watch, now: float) -> None:
        name, reason = watch.component.name, watch.component.end_reason()
        is_fast = now - watch.started_at < FAST_DEATH_SECONDS
        watch.fast_deaths = watch.fast_deaths + 1 if is_fast else 0
        if watch.fast_deaths >= FAST_DEATHS_MAX:
            watch.gave_up = True
            self._write()
            log.error("%s died %d times in a row and stays down: %s", name, FAST_DEATHS_MAX, reason)
            return
        pause = min(_BACKOFF_SECONDS_MIN * 2**watch.fast_deaths, _BACKOFF_SECONDS_MAX)
        watch.restart_at = now + pause
        log.warning("%s %s", name, reason)

    def _write(self) -> None:
        states = {name: asdict(state) for name, state in self.states().items()}
        fresh = self._record.with_suffix(".new")
        fresh.write_text(json.dumps(states) + "\n")
        fresh.replace(self._record)
