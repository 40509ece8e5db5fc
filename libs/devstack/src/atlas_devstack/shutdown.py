"""Stopping a stack from outside, whatever state it is in."""

import signal
from pathlib import Path

from atlas_devstack.containers import remove_leftovers
from atlas_devstack.identity import ProcessIdentity
from atlas_devstack.process import end_all
from atlas_devstack.state import StateDirectory, is_state_directory

_STOP_SECONDS_MAX = 60.0


def shut_down(path: Path, *, purge: bool) -> bool:
    """Stop the supervisor of a state directory and end what a crashed one left.

    `purge` deletes the directory afterwards. Returns whether a supervisor was running. Raises
    DevstackError when the directory is something else.
    """
    if not is_state_directory(path):
        return False
    supervisor = ProcessIdentity.read(path / "supervisor.json")
    was_running = supervisor is not None and supervisor.is_alive()
    if supervisor is not None and was_running:
        supervisor.send(signal.SIGTERM)
        end_all([supervisor], grace_seconds=_STOP_SECONDS_MAX)
    with StateDirectory.open(path) as state:  # Opening ends leftovers.
        remove_leftovers(state.path)
        state.remove_on_close = purge
    return was_running
