"""The state directory: one stack's data, logs, secrets and pids, and the lock on all of it."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from types import TracebackType

from atlas_devstack.account import server_account, write_private
from atlas_devstack.errors import AlreadyRunningError, DevstackError
from atlas_devstack.identity import ProcessIdentity
from atlas_devstack.ports import free_port, is_free
from atlas_devstack.process import end_all
from atlas_devstack.reach import remove_server_directory, server_directory

_MARK = "devstack"
_LEFTOVER_GRACE_SECONDS = 6.0


class StateDirectory:
    """An opened (locked) state directory. One supervisor holds it at a time."""

    def __init__(self, path: Path, lock_descriptor: int) -> None:
        self.path = path
        self.remove_on_close = False
        self._lock_descriptor = lock_descriptor

    @classmethod
    def open(cls, path: Path, *, fresh: bool = False) -> "StateDirectory":
        """Make or take over a state directory, ending what a crashed supervisor left behind.

        `fresh` removes what is in it. Raises AlreadyRunningError when another supervisor has it,
        DevstackError when the directory holds something else.
        """
        path = path.absolute()
        _make(path)
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            holder = ProcessIdentity.read(path / "supervisor.json")
            who = f" (pid {holder.pid})" if holder else ""
            raise AlreadyRunningError(
                f"a stack is already running on {path}{who};"
                f" stop it with: atlas down --state {path}"
            ) from None
        state = cls(path, descriptor)
        state.end_leftovers()
        if fresh:
            state._clear()
        state._lay_out()
        return state

    def __enter__(self) -> "StateDirectory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; with `remove_on_close`, delete it first, and server data elsewhere."""
        if self.remove_on_close:
            self._clear()
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            for name in ("supervisor.json", "endpoints.json"):
                (self.path / name).unlink(missing_ok=True)
        os.close(self._lock_descriptor)

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Pid records and address files."""
        return self.path / "run"

    @property
    def secrets_file(self) -> Path:
        """Passwords and keys, mode 0600."""
        return self.path / "secrets.json"

    @property
    def endpoints_file(self) -> Path:
        """What `atlas up --json` printed, while the stack is ready. Mode 0600: DSNs are secrets."""
        return self.path / "endpoints.json"

    @property
    def supervision_file(self) -> Path:
        """How often each component was started again."""
        return self.path / "supervision.json"

    @property
    def warehouse(self) -> Path:
        """The DuckDB file."""
        return self.path / "warehouse" / "warehouse.duckdb"

    def server_directory(self) -> Path:
        """Where Postgres keeps its data: reachable for its account, perhaps outside (see reach)."""
        return server_directory(self.path, server_account())

    def write_endpoints(self, text: str) -> None:
        """Publish the endpoints, atomically."""
        fresh = self.endpoints_file.with_suffix(".new")
        write_private(fresh, text, None)
        fresh.replace(self.endpoints_file)

    def ports(self, names: list[str]) -> dict[str, int]:
        """Return a port for each name: that of the last time where it is free, else a new one."""
        record = self.path / "ports.json"
        try:
            known = {str(key): int(value) for key, value in json.loads(record.read_text()).items()}
        except (OSError, ValueError, AttributeError, TypeError):
            known = {}
        taken = set(known.values())
        for name in names:
            if name not in known or not is_free(known[name]):
                known[name] = free_port(taken)
        record.write_text(json.dumps(known, indent=2) + "\n")
        return {name: known[name] for name in names}

    def end_leftovers(self) -> None:
        """Wait for, and at last kill, processes whose supervisor died before it stopped them."""
        records = sorted((self.path / "run").glob("*.json"))
        left = [found for record in records if (found := ProcessIdentity.read(record))]
        below = [child for process in left for child in process.descendants() if process.is_alive()]
        end_all([*left, *below], grace_seconds=_LEFTOVER_GRACE_SECONDS)
        for record in records:
            record.unlink(missing_ok=True)

    def _clear(self) -> None:
        remove_server_directory(self.path)
        for entry in self.path.iterdir():
            if entry.name in ("lock", _MARK):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _lay_out(self) -> None:
        for directory in (self.logs, self.run, self.warehouse.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        for name in ("endpoints.json", "supervision.json"):
            (self.path / name).unlink(missing_ok=True)
        identity = ProcessIdentity.of(os.getpid())
        assert identity is not None
        identity.write(self.path / "supervisor.json")


def is_state_directory(path: Path) -> bool:
    """Say whether a devstack made this directory."""
    return (path / _MARK).is_file()


def _make(path: Path) -> None:
    # As root the server account has to pass through it to its data; nothing in it is readable.
    mode = 0o700 if server_account() is None else 0o711
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        mark = path / _MARK
        if not mark.exists():
            if any(path.iterdir()):
                raise DevstackError(f"{path} is not empty and not a devstack's state: not touched")
            path.chmod(mode)
            mark.write_text("State of an AtlasCo devstack; `atlas down --purge` removes it.\n")
    except OSError as error:
        raise DevstackError(f"{path}: {error.strerror}") from error
