"""One server process: started so that it cannot outlive its supervisor, logged, stopped, killed."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from atlas_devstack.account import Account
from atlas_devstack.errors import DevstackError
from atlas_devstack.identity import ProcessIdentity
from atlas_devstack.waiting import Patience, wait_until

LOG_BYTES_MAX = 64 * 1024 * 1024
_GUARD = Path(__file__).with_name("guard.py")

# PR_SET_PDEATHSIG fires when the *thread* that forked ends. Every child is therefore forked by this
# one thread, which lives as long as the interpreter, never by the short-lived threads of a start.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="atlas-spawner")


@dataclass(frozen=True)
class Launch:
    """How to start a process."""

    name: str
    command: Sequence[str]
    """The program's absolute path, then its arguments. Never a secret: everyone can read them."""
    environment: Mapping[str, str]
    """The whole environment of the process."""
    directory: Path
    log_path: Path
    record_path: Path
    """Where the pid is recorded, so that the next start can end what a crash left."""
    account: Account | None = None
    death_signal: signal.Signals = signal.SIGKILL
    """What the process gets when the supervisor dies without stopping it."""


class ServerProcess:
    """A started process. Its creator is its parent and waits for it."""

    def __init__(self, launch: Launch, popen: "subprocess.Popen[bytes]") -> None:
        self._launch = launch
        self._popen = popen
        self._stopped_by_us = False

    @classmethod
    def start(cls, launch: Launch) -> "ServerProcess":
        """Start it; returns as soon as the process exists."""
        bound_log(launch.log_path)
        popen = _SPAWNER.submit(_spawn, launch).result()
        process = cls(launch, popen)
        identity = ProcessIdentity.of(popen.pid)
        if identity is not None:
            identity.write(launch.record_path)
        return process

    @property
    def name(self) -> str:
        """Its name in logs and messages."""
        return self._launch.name

    @property
    def pid(self) -> int:
        """Its process id, also after its end."""
        return self._popen.pid

    @property
    def log_path(self) -> Path:
        """Where its output goes."""
        return self._launch.log_path

    def is_running(self) -> bool:
        """Say whether it has not ended yet (a SIGSTOPped process runs)."""
        return self._popen.poll() is None

    def end_reason(self) -> str | None:
        """Say how it ended, with the tail of its log; None while it runs."""
        code = self._popen.poll()
        if code is None:
            return None
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        return f"{how}; {self.log_excerpt()}"

    def log_excerpt(self) -> str:
        """Return the end of its log, with a heading."""
        return f"the end of {self.log_path}:\n{tail(self.log_path)}"

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._popen.send_signal(number)

    def send_to_tree(self, number: signal.Signals) -> None:
        """Send a signal to the process and to everything below it (Postgres' backends)."""
        identity = ProcessIdentity.of(self.pid)
        if identity is None:
            return
        for member in (identity, *identity.descendants()):
            member.send(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_seconds: float) -> None:
        """Ask it to end and wait; kill it at the deadline. Fine when it has ended already."""
        if self.is_running():
            self.send(number)
            try:
                self._popen.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        self._forget()

    def kill(self) -> None:
        """SIGKILL it, and wait until it and everything below it is gone."""
        identity = ProcessIdentity.of(self.pid)
        below = identity.descendants() if identity else []
        self._popen.kill()
        self._popen.wait()
        self._forget()
        end_all(below, grace_seconds=1.0)

    def _forget(self) -> None:
        self._launch.record_path.unlink(missing_ok=True)


def _spawn(launch: Launch) -> "subprocess.Popen[bytes]":
    account = f"{launch.account.uid}:{launch.account.gid}" if launch.account else "-"
    guard = [sys.executable, "-I", "-S", str(_GUARD)]
    ties = [str(os.getpid()), str(int(launch.death_signal)), account]
    with launch.log_path.open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own commands.
            [*guard, *ties, *launch.command],
            env=dict(launch.environment),
            cwd=launch.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for the supervisor alone.
        )


def run_to_end(launch: Launch, patience: Patience) -> None:
    """Run a short command (initdb, pg_basebackup); raise DevstackError unless it exits with 0."""
    process = ServerProcess.start(launch)
    try:
        wait_until(lambda: not process.is_running(), launch.name, patience=patience)
    finally:
        process.stop(timeout_seconds=0.5)
    if process._popen.returncode != 0:
        raise DevstackError(f"{launch.name} {process.end_reason()}")


def end_all(processes: list[ProcessIdentity], *, grace_seconds: float) -> None:
    """Give processes that are ending by themselves a moment, SIGKILL the others, wait for all."""
    deadline = time.monotonic() + grace_seconds
    killed = False
    while alive := [process for process in processes if process.is_alive()]:
        if time.monotonic() > deadline:
            if killed:
                pids = ", ".join(str(process.pid) for process in alive)
                raise DevstackError(f"processes {pids} survive SIGKILL")
            for process in alive:
                process.send(signal.SIGKILL)
            killed = True
            deadline = time.monotonic() + 5.0
        time.sleep(0.01)


def tail(path: Path, lines_max: int = 25) -> str:
    """Return the last lines of a log, indented."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 16_384))
            text = log.read().decode(errors="replace")
    except OSError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines_max:]) or "    (empty)"


def bound_log(path: Path) -> None:
    """Keep a log bounded: one that has grown too large becomes `<name>.1`, also while in use.

    Copied and emptied, not renamed: the process goes on writing into the same open file, at its end
    since it is open for appending. Lines written in between are lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
