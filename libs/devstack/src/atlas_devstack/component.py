"""What all parts of a stack have in common: a process that starts, answers, stops, can be hurt."""

import signal
import threading
from abc import ABC, abstractmethod

from atlas_devstack.errors import DevstackError
from atlas_devstack.process import Launch, ServerProcess
from atlas_devstack.waiting import Patience, wait_until


class Component(ABC):
    """A server that is started, stopped and, in tests, killed and paused.

    Safe for use by several threads: the supervision restarts a component while a test handles it.
    """

    stop_signal = signal.SIGTERM
    stop_seconds_max = 15.0
    """How long a clean stop may take before the process is killed."""

    def __init__(self, name: str, patience: Patience) -> None:
        self.name = name
        self._patience = patience
        self._process: ServerProcess | None = None
        self._lock = threading.RLock()
        self._is_wanted = False

    @abstractmethod
    def answers(self) -> bool:
        """Say whether it serves now. May raise DevstackError when it never will."""

    @abstractmethod
    def _prepare(self) -> Launch:
        """Write what the process needs to start, and say how to start it."""

    @property
    def pid(self) -> int:
        """Its pid, also after its end. Raises DevstackError when it was never started."""
        return self._started().pid

    @property
    def is_wanted(self) -> bool:
        """Say whether it was started and not stopped: if it does not run now, it has died."""
        return self._is_wanted

    def is_running(self) -> bool:
        """Say whether the process runs, paused or not."""
        process = self._process
        return process is not None and process.is_running()

    def end_reason(self) -> str | None:
        """Say how it ended, with the tail of its log; None while it runs."""
        process = self._process
        return process.end_reason() if process else "was never started"

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the process only."""
        with self._lock:
            if self.is_running():
                raise DevstackError(f"{self.name} runs already")
            self._process = ServerProcess.start(self._prepare())
            self._is_wanted = True

    def relaunch_if_dead(self) -> None:
        """Start it again if it died: not if somebody stopped or restarted it in the meantime."""
        with self._lock:
            if self._is_wanted and not self.is_running():
                self.launch()

    def wait_ready(self) -> None:
        """Wait until it serves. Raises DevstackError with its log when it does not."""
        process = self._started()
        try:
            wait_until(self.answers, self.name, patience=self._patience, failure=process.end_reason)
        except DevstackError as error:
            if process.end_reason() is not None:
                raise
            raise DevstackError(f"{error}; {process.log_excerpt()}") from error

    def stop(self) -> None:
        """Stop it cleanly; kill it at the deadline."""
        with self._lock:
            self._is_wanted = False
            if self._process is not None:
                if self._process.is_running():
                    self.resume()  # A paused process would not see the request.
                self._process.stop(self.stop_signal, timeout_seconds=self.stop_seconds_max)

    def restart(self) -> None:
        """Stop it cleanly and start it again, at the same address."""
        with self._lock:
            self.stop()
            self.launch()
        self.wait_ready()

    def kill(self) -> None:
        """SIGKILL it: a crash. Returns when everything below it is gone too.

        Supervision, where it is on, starts it again.
        """
        self._started().kill()

    def pause(self) -> None:
        """SIGSTOP it and everything below it: clients hang, nobody gets an error."""
        self._started().send_to_tree(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        self._started().send_to_tree(signal.SIGCONT)

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise DevstackError(f"{self.name} was never started")
        return self._process
