"""One Postgres server: its data directory, its process, and what tests do to it."""

import contextlib
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import psycopg

from atlas_devstack.account import Account, write_private
from atlas_devstack.component import Component
from atlas_devstack.dsn import make_dsn
from atlas_devstack.errors import DevstackError
from atlas_devstack.identity import ProcessIdentity
from atlas_devstack.postgres.binaries import Binaries
from atlas_devstack.postgres.settings import HBA, SUPERUSER, render
from atlas_devstack.process import Launch, run_to_end
from atlas_devstack.waiting import Patience, wait_until

_SYNCS_SLOTS_SINCE = 17


@dataclass(frozen=True)
class NodeConfig:
    """What stays the same over the restarts of a node."""

    name: str
    data_directory: Path
    log_directory: Path
    record_directory: Path
    port: int
    superuser_password: str
    binaries: Binaries
    account: Account | None = None
    fsync: bool = True
    shared_buffers_mb: int = 64
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class PostgresNode(Component):
    """A server. Whoever starts it is its parent and waits for its end."""

    stop_signal = signal.SIGINT  # Fast shutdown: disconnects clients, writes a checkpoint.
    stop_seconds_max = 20.0

    def __init__(self, config: NodeConfig, patience: Patience) -> None:
        super().__init__(f"postgres-{config.name}", patience)
        self._config = config
        self._follows: str | None = None

    @property
    def node_name(self) -> str:
        """Its cluster_name and application_name: "primary", "replica-1", ..."""
        return self._config.name

    @property
    def port(self) -> int:
        """Its port on loopback."""
        return self._config.port

    @property
    def data_directory(self) -> Path:
        """PGDATA."""
        return self._config.data_directory

    def is_made(self) -> bool:
        """Say whether the data directory exists (it appears complete or not at all)."""
        return self.data_directory.exists()

    def is_standby(self) -> bool:
        """Say whether it starts as a replica (a promoted one does not)."""
        return (self.data_directory / "standby.signal").exists()

    def superuser_dsn(self, database: str) -> str:
        """Return a DSN with all rights: for migrations, tests and looking at the data."""
        return make_dsn(
            user=SUPERUSER,
            password=self._config.superuser_password,
            port=self.port,
            database=database,
        )

    def run_tool(self, program: str, *arguments: str, environment: Mapping[str, str]) -> None:
        """Run one of Postgres' programs as the server's account. Raises DevstackError."""
        name = f"{self.name}-{program}"
        launch = self._launch(name, program, *arguments, environment=environment)
        run_to_end(launch, self._patience)

    def follow(self, conninfo: str | None) -> None:
        """Set whom it streams from: takes effect at the next start. None for a primary."""
        self._follows = conninfo

    def answers(self) -> bool:
        """Say whether it accepts a connection and a query now.

        Raises DevstackError when it refuses our password: waiting would not help.
        """
        dsn = self.superuser_dsn("postgres")
        try:
            with psycopg.connect(dsn, connect_timeout=2, autocommit=True) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise DevstackError(
                    f"{self.name} knows another password than the state's secrets.json:"
                    " start with --fresh, or bring that file back"
                ) from error
            return False
        return True

    def promote(self) -> None:
        """Make a replica a primary, and wait until it is. What it streamed from is not touched."""
        with psycopg.connect(self.superuser_dsn("postgres"), autocommit=True) as connection:
            row = connection.execute("SELECT pg_promote(true, 30)").fetchone()
        if row != (True,):
            raise DevstackError(f"{self.name} was not promoted within 30 s")
        self._follows = None

    def cut_off(self) -> None:
        """Let a replica receive nothing more: what is written from now on, it will never have."""
        with psycopg.connect(self.superuser_dsn("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET primary_conninfo = ''")
            connection.execute("SELECT pg_reload_conf()")

            def is_cut_off() -> bool:
                row = connection.execute("SELECT count(*) FROM pg_stat_wal_receiver").fetchone()
                return row == (0,)

            wait_until(is_cut_off, f"{self.name} is cut off", patience=self._patience)

    def kill_backend(self, pid: int) -> None:
        """SIGKILL one of its processes, as the kernel does when memory runs out.

        The server then ends all sessions and recovers by itself. Raises DevstackError when the
        process is none of this server's.
        """
        self.signal_backend(pid, signal.SIGKILL)

    def signal_backend(self, pid: int, signal_number: signal.Signals) -> None:
        """Signal one of its processes: SIGSTOP holds up what it does, the others go on.

        Raises DevstackError when the process is none of this server's.
        """
        server = ProcessIdentity.of(self.pid)
        below = server.descendants() if server else []
        found = next((process for process in below if process.pid == pid), None)
        if found is None:
            raise DevstackError(f"{pid} is no process of {self.name}")
        found.send(signal_number)

    def remove(self) -> None:
        """Delete the data of a server that does not run."""
        if self.is_running():
            raise DevstackError(f"{self.name} runs")
        shutil.rmtree(self.data_directory, ignore_errors=True)

    def _prepare(self) -> Launch:
        self._write_configuration()
        self._clear_stale_lock()
        launch = self._launch(self.name, "postgres", "-D", str(self.data_directory))
        # Set by a program, and no sooner: LD_PRELOAD would act on what starts the server, too, and
        # that still has another account.
        own = [f"{key}={value}" for key, value in self._config.environment.items()]
        return replace(launch, command=["/usr/bin/env", *own, *launch.command]) if own else launch

    def _launch(
        self, name: str, program: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Launch:
        config = self._config
        return Launch(
            name=name,
            command=[str(config.binaries / program), *arguments],
            # Nothing of the caller's: PGHOST, PGSERVICE or an unknown locale would act.
            environment={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **(environment or {})},
            directory=config.data_directory.parent,
            log_path=config.log_directory / f"{name}.log",
            record_path=config.record_directory / f"{name}.json",
            account=config.account,
            # An immediate shutdown: no checkpoint to wait for, but shared memory is given back.
            death_signal=signal.SIGQUIT,
        )

    def _write_configuration(self) -> None:
        config = self._config
        text = render(
            name=config.name,
            port=config.port,
            fsync=config.fsync,
            shared_buffers_mb=config.shared_buffers_mb,
            follows=self._follows,
            syncs_slots=config.binaries.major_version >= _SYNCS_SLOTS_SINCE,
            extra=config.settings,
        )
        # primary_conninfo holds a password.
        write_private(self.data_directory / "postgresql.conf", text, config.account)
        write_private(self.data_directory / "pg_hba.conf", HBA, config.account)

    def _clear_stale_lock(self) -> None:
        """Remove postmaster.pid if the pid in it is no server of this directory.

        Postgres does so itself, unless the pid has since been given to another process of the same
        user: after a reboot that is likely to be another of our own servers, and it would refuse.
        """
        lock = self.data_directory / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(lock.read_text().splitlines()[0])
            if not _works_in(pid, self.data_directory):
                lock.unlink()


def _works_in(pid: int, directory: Path) -> bool:
    try:
        return Path(psutil.Process(pid).cwd()) == directory.resolve()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True  # Better to be refused by Postgres than to start a second server.
