"""The whole platform on one machine: servers, schema, services, tenants, in the order they need."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import psycopg

from atlas_devstack.component import Component
from atlas_devstack.containers import container_servers
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database
from atlas_devstack.endpoints import Endpoints
from atlas_devstack.errors import DevstackError
from atlas_devstack.kafka import Kafka
from atlas_devstack.platform import ROLES, SERVICES, check_names
from atlas_devstack.postgres import PostgresCluster
from atlas_devstack.process import bound_log
from atlas_devstack.servers import ServerOptions, Servers
from atlas_devstack.services import Service, Wiring
from atlas_devstack.state import StateDirectory
from atlas_devstack.supervision import Supervision
from atlas_devstack.tenants import create_tenants
from atlas_devstack.valkey import Valkey
from atlas_devstack.waiting import Patience

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StackOptions:
    """What a stack consists of."""

    services: tuple[str, ...] = tuple(SERVICES)
    servers: ServerOptions = field(default_factory=ServerOptions)
    tenants: tuple[str, ...] = ()
    """Tenants to make; needs ingest."""
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Service name -> further variables for it."""
    heal_services: bool = True
    """Start a service again that died."""
    heal_servers: bool = False
    """The same for Postgres and Valkey. Off, so that tests can keep a server dead.

    Never for Kafka: it has lost its topics then.
    """
    follows_failover: bool = False
    """Services find the server that takes writes after a replica was promoted."""
    spans: bool = False
    """Services write their spans to logs/<service>.spans.jsonl."""
    fresh: bool = False
    """Begin with an empty state directory."""
    ready_seconds_max: float = 60.0
    """How long any one component may take to become ready."""


class Stack:
    """A running platform. Made by start(); a context manager that stops it."""

    def __init__(self, state: StateDirectory, options: StackOptions, patience: Patience) -> None:
        self.state = state
        self._options = options
        self._patience = patience
        self._undo = ExitStack()
        self._servers = Servers(state, options.servers, patience)
        self._wiring = self._make_wiring()
        self.services = self._make_services()
        self._supervision = Supervision(self._healed(), state.supervision_file, state.logs)

    @classmethod
    def start(
        cls,
        state_directory: Path,
        options: StackOptions | None = None,
        cancelled: threading.Event | None = None,
    ) -> "Stack":
        """Start everything and return once all of it is ready.

        `cancelled`, set from elsewhere, interrupts the start. Whatever goes wrong, nothing is left
        running. Raises AlreadyRunningError, CancelledError, or DevstackError with the end of the
        log of the component that failed.
        """
        options = options or StackOptions()
        patience = Patience(options.ready_seconds_max, cancelled or threading.Event())
        check_names(options.services)
        with ExitStack() as undo:
            state = undo.enter_context(StateDirectory.open(state_directory, fresh=options.fresh))
            undo.enter_context(_logged_to(state.logs / "supervisor.log"))
            if options.servers.containers:
                servers = undo.enter_context(_in_containers(state, options.servers, patience))
                options = replace(options, servers=servers)
            stack = cls(state, options, patience)
            undo.callback(stack._stop_processes)
            stack._start()
            stack._undo = undo.pop_all()
        return stack

    @property
    def endpoints(self) -> Endpoints:
        """Where everything is."""
        return Endpoints(
            services={name: service.target for name, service in self.services.items()},
            primary=self.database.admin_dsn,
            replicas=[replica.admin_dsn for replica in self._servers.replicas.values()],
            valkey=self._servers.valkey_url,
            kafka=self._servers.kafka.bootstrap_servers if self._servers.kafka else None,
            topic=self._servers.topic,
            warehouse=str(self.state.warehouse),
            tenants=list(self._options.tenants) if "ingest" in self.services else [],
        )

    @property
    def database(self) -> Database:
        """The platform's database on the primary."""
        return self._servers.database

    @property
    def replicas(self) -> dict[str, Database]:
        """The same database on each replica."""
        return self._servers.replicas

    @property
    def postgres(self) -> PostgresCluster:
        """The embedded servers, to hurt them. There are none when a DSN was given."""
        if self._servers.cluster is None:
            raise LookupError("this stack uses a Postgres that is not its own")
        return self._servers.cluster

    @property
    def valkey(self) -> Valkey:
        """The embedded cache server. There is none when a URL was given."""
        if self._servers.valkey is None:
            raise LookupError("this stack has no Valkey of its own")
        return self._servers.valkey

    @property
    def kafka(self) -> Kafka:
        """The broker, if the stack was to have one."""
        if self._servers.kafka is None:
            raise LookupError("this stack has no Kafka: ask for it with ServerOptions(kafka=True)")
        return self._servers.kafka

    def stop(self) -> None:
        """Stop everything cleanly; the data stay in the state directory."""
        self._undo.close()

    def remove(self) -> None:
        """Stop everything and delete the state directory."""
        self.state.remove_on_close = True
        self._undo.close()

    def __enter__(self) -> "Stack":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        began = time.monotonic()
        components = len(self._servers.components) + len(self.services)
        with ThreadPoolExecutor(components + 1, "atlas-start") as pool:
            # Services need no replica and no cache to start; their imports overlap with both.
            pending = self._start_servers(pool)
            log.info("the primary is ready and migrated (%.1f s)", time.monotonic() - began)
            for service in self.services.values():
                service.launch()
            pending += [pool.submit(service.wait_ready) for service in self.services.values()]
            for future in pending:
                future.result()
        self._supervision.start()
        if self._options.tenants and "ingest" in self.services:
            create_tenants(self.services["ingest"].target, self._options.tenants)
        self.state.write_endpoints(self.endpoints.to_json() + "\n")
        log.info("ready after %.1f s", time.monotonic() - began)

    def _start_servers(self, pool: ThreadPoolExecutor) -> "list[Future[None]]":
        try:
            return self._servers.start(pool)
        except psycopg.Error as error:
            raise DevstackError(f"the database could not be prepared: {error}") from error

    def _stop_processes(self) -> None:
        self._supervision.stop()
        with ExitStack() as undo:
            undo.callback(self._servers.stop)  # Last: services drain into them.
            if self.services:
                with ThreadPoolExecutor(len(self.services), "atlas-stop") as pool:
                    for stopped in [pool.submit(each.stop) for each in self.services.values()]:
                        stopped.result()

    def beside(self, name: str, number: int, environment: Mapping[str, str]) -> Service:
        """One more process of a service, at an address of its own; the caller starts and stops it.

        Nobody else of the stack is told of it.
        """
        directory = self.state.run / f"{name}-{number}"
        directory.mkdir(exist_ok=True)
        port = self.state.ports([directory.name])[directory.name]
        own = replace(
            self._wiring,
            ports={**self._wiring.ports, name: port},
            log_directory=directory,
            run_directory=directory,
        )
        return Service(SERVICES[name], own, environment, self._patience)

    def _make_wiring(self) -> Wiring:
        return Wiring(
            database=self._servers.database,
            replicas=self._servers.replicas,
            valkey_url=self._servers.valkey_url,
            kafka=self._servers.kafka.bootstrap_servers if self._servers.kafka else None,
            topic=self._servers.topic,
            credentials=self._servers.credentials,
            ports=self.state.ports(list(SERVICES)),
            warehouse=self.state.warehouse,
            log_directory=self.state.logs,
            run_directory=self.state.run,
            spans=self._options.spans,
            follows_failover=self._options.follows_failover,
        )

    def _make_services(self) -> dict[str, Service]:
        extra = self._options.environment
        return {
            name: Service(SERVICES[name], self._wiring, extra.get(name, {}), self._patience)
            for name in self._options.services
        }

    def _healed(self) -> list[Component]:
        return [
            *(self.services.values() if self._options.heal_services else ()),
            *(self._servers.healed if self._options.heal_servers else ()),
        ]


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Write what the supervisor does to a log of its own as well."""
    bound_log(path)
    logger = logging.getLogger("atlas_devstack")
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def _in_containers(
    state: StateDirectory, options: ServerOptions, patience: Patience
) -> Iterator[ServerOptions]:
    """Run the servers in containers, and say where they are, as if they had run already."""
    ports = state.ports(["container-postgres", "container-valkey"])
    with container_servers(
        state.path,
        (ports["container-postgres"], ports["container-valkey"]),
        Credentials.load_or_make(state.secrets_file, ROLES),
        patience,
    ) as servers:
        yield replace(
            options,
            pg_dsn=options.pg_dsn or servers.pg_dsn,
            valkey_url=options.valkey_url or servers.valkey_url,
        )
