"""Where the data servers come from: embedded, already running, or both mixed."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import psycopg
from psycopg.conninfo import conninfo_to_dict

from atlas_devstack.component import Component
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database, migrate, migrations
from atlas_devstack.errors import DevstackError
from atlas_devstack.kafka import Kafka, KafkaSite
from atlas_devstack.platform import DATABASE, ROLES
from atlas_devstack.postgres import PostgresCluster, PostgresOptions, PostgresSite, node_names
from atlas_devstack.state import StateDirectory
from atlas_devstack.valkey import Valkey, ValkeySite
from atlas_devstack.waiting import Patience

_TOPIC_PARTITIONS = 4


@dataclass(frozen=True)
class ServerOptions:
    """Which servers a stack has, and whose."""

    postgres: PostgresOptions = field(default_factory=PostgresOptions)
    valkey: bool = True
    """Whether there is a Valkey at all."""
    pg_dsn: str | None = None
    """An administrator's DSN of a primary that runs already; no Postgres is started then."""
    replica_dsns: tuple[str, ...] = ()
    """Its replicas."""
    valkey_url: str | None = None
    """A Valkey or Redis that runs already."""
    kafka: bool = False
    """Whether there is a broker, with a topic that ingest reads."""
    containers: bool = False
    """Take what is not given by DSN or URL from a Docker engine (see containers)."""
    upgrade: Callable[[str], object] | None = None
    """Migrates the database of an administrator's DSN, in place of this release's job."""

    def __post_init__(self) -> None:
        if self.replica_dsns and self.pg_dsn is None:
            raise DevstackError("replica DSNs need the DSN of their primary")
        for dsn in (self.pg_dsn, *self.replica_dsns):
            _check_dsn(dsn)

    def embedded(self) -> "ServerOptions":
        """The same with a Postgres of our own, whatever was asked for: for those who hurt it."""
        return replace(self, pg_dsn=None, replica_dsns=(), containers=False)


class Servers:
    """The data servers of a stack."""

    def __init__(self, state: StateDirectory, options: ServerOptions, patience: Patience) -> None:
        self._options = options
        self.credentials = Credentials.load_or_make(state.secrets_file, ROLES)
        self.cluster = (
            None if options.pg_dsn else _cluster(state, self.credentials, options, patience)
        )
        embeds_valkey = options.valkey and options.valkey_url is None
        self.valkey = _valkey(state, self.credentials, patience) if embeds_valkey else None
        self.kafka = _kafka(state, patience) if options.kafka else None
        # Of this start alone: the broker forgets its topics when it ends, the database never does
        # their offsets, and would take what comes under an old name for known.
        self.topic = f"writes-{time.time_ns() // 1_000_000}" if options.kafka else None

    @property
    def components(self) -> list[Component]:
        """The servers that are ours, in the order in which they start."""
        nodes: list[Component] = list(self.cluster.nodes) if self.cluster else []
        return [
            *([self.valkey] if self.valkey else []),
            *([self.kafka] if self.kafka else []),
            *nodes,
        ]

    @property
    def healed(self) -> list[Component]:
        """Those that are started again when they die: a broker has lost its topics then."""
        return [each for each in self.components if each is not self.kafka]

    @property
    def database(self) -> Database:
        """The platform's database on the primary, migrated once migrate() has returned."""
        return Database(self._admin_dsn(), self.credentials.roles)

    @property
    def replicas(self) -> dict[str, Database]:
        """The same database on each replica, by the replica's name."""
        if self.cluster:
            dsns = [node.superuser_dsn(DATABASE) for node in self.cluster.replicas]
        else:
            dsns = list(self._options.replica_dsns)
        roles = self.credentials.roles
        return {f"replica-{number}": Database(dsn, roles) for number, dsn in enumerate(dsns, 1)}

    @property
    def valkey_url(self) -> str | None:
        """The cache, if there is one."""
        return self.valkey.url if self.valkey else self._options.valkey_url

    def start(self, pool: ThreadPoolExecutor) -> "list[Future[None]]":
        """Start the primary and migrate it; return what still comes up: replicas, cache, broker."""
        pool.submit(migrations)
        later: list[Future[None]] = []
        if self.valkey:
            later.append(pool.submit(self.valkey.start))
        if self.kafka:
            later.append(pool.submit(self._start_kafka))
        if self.cluster:
            self.cluster.start_primary()
            later += [
                pool.submit(self.cluster.start_replica, node) for node in self.cluster.replicas
            ]
        migrate(self.database.admin_dsn, self.credentials.roles, self._options.upgrade)
        return later

    def stop(self) -> None:
        """Stop what is ours."""
        if self.cluster:
            self.cluster.stop()
        if self.valkey:
            self.valkey.stop()
        if self.kafka:
            self.kafka.stop()

    def _start_kafka(self) -> None:
        assert self.kafka is not None
        assert self.topic is not None
        self.kafka.start()
        self.kafka.create_topic(self.topic, partitions=_TOPIC_PARTITIONS)

    def _admin_dsn(self) -> str:
        if self._options.pg_dsn:
            return self._options.pg_dsn
        assert self.cluster is not None
        return self.cluster.primary.superuser_dsn(DATABASE)


def _check_dsn(dsn: str | None) -> None:
    if dsn is None:
        return
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise DevstackError(f"not a DSN: {str(error).strip()}") from None
    if not parts.get("dbname"):
        raise DevstackError("a DSN names no database")


def _cluster(
    state: StateDirectory, credentials: Credentials, options: ServerOptions, patience: Patience
) -> PostgresCluster:
    site = PostgresSite(
        data_directory=state.server_directory(),
        log_directory=state.logs,
        record_directory=state.run,
        superuser_password=credentials.postgres_superuser,
        replication_password=credentials.postgres_replication,
        ports=state.ports(node_names(options.postgres)),
    )
    return PostgresCluster(site, options.postgres, patience)


def _valkey(state: StateDirectory, credentials: Credentials, patience: Patience) -> Valkey:
    site = ValkeySite(
        directory=state.run,
        log_directory=state.logs,
        record_directory=state.run,
        port=state.ports(["valkey"])["valkey"],
        password=credentials.valkey,
    )
    return Valkey(site, patience)


def _kafka(state: StateDirectory, patience: Patience) -> Kafka:
    site = KafkaSite(
        directory=state.run,
        log_directory=state.logs,
        record_directory=state.run,
        port=state.ports(["kafka"])["kafka"],
    )
    return Kafka(site, patience)
