"""A platform whose log is archived, clusters restored of that, and the platform started on them."""

import asyncio
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atlas_client import Endpoints
from atlas_devstack.account import Account, server_account
from atlas_devstack.credentials import Credentials
from atlas_devstack.database import Database
from atlas_devstack.dsn import make_dsn
from atlas_devstack.identity import ProcessIdentity
from atlas_devstack.platform import DATABASE
from atlas_devstack.ports import free_port
from atlas_devstack.postgres.settings import REPLICATION_USER, SUPERUSER
from atlas_devstack.process import end_all
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack, StackOptions
from atlas_devstack.state import StateDirectory
from tests.chaos.arena import TENANTS, set_up_tenants
from tests.chaos.ledger import Ledger
from tests.integration.waiting import eventually

from .service_manager import ServiceManager
from .site import Site, libpq_environment
from .vault import Vault, vault_below
from .writers import Writers, writers_at

ENVIRONMENT = {
    # So that what is lost is of lanes that the next process takes as well.
    "ingest": {"ATLAS_FLUSH__LANES_MAX": "1"},
    "cdc-reconciler": {"ATLAS_RECONCILE__WINDOW_SECONDS": "5"},
}


_NO_MANAGER = ServiceManager(0)  # None of the scripts here stops or starts a service.


@dataclass(frozen=True)
class Restored:
    """A cluster that restore-to-time makes."""

    directory: Path
    port: int
    credentials: Credentials
    """Of the cluster that it is a copy of."""

    @property
    def database(self) -> Database:
        """The platform's database in it."""
        password = self.credentials.postgres_superuser
        dsn = make_dsn(user=SUPERUSER, password=password, port=self.port, database=DATABASE)
        return Database(dsn, self.credentials.roles)

    def end(self) -> None:
        """Stop its server, if it ever started."""
        with contextlib.suppress(FileNotFoundError):
            pid = int((self.directory / "postmaster.pid").read_text().splitlines()[0])
            found = ProcessIdentity.of(pid)
            if found is not None:
                below = found.descendants()
                found.send(signal.SIGQUIT)  # At once, but it gives its shared memory back.
                end_all([found, *below], grace_seconds=5.0)


class Region(Site):
    """A site whose servers archive into a vault, and whose scripts lie there."""

    vault: Vault
    programs: Path

    def __init__(
        self, stack: Stack, directory: Path, vault: Vault, programs: Path, ledger: Ledger
    ) -> None:
        super().__init__(stack, directory, _NO_MANAGER, ledger)
        self.vault = vault
        self.programs = programs

    def _server_programs(self) -> Path:
        """Not those of a server that may be gone."""
        return self.programs

    def _handed_out(self, account: Account) -> Path:
        return self.vault.scripts

    @property
    def client_endpoints(self) -> Endpoints:
        """For the platform's client."""
        services = self.stack.services
        return Endpoints(
            ingest=services["ingest"].target,
            query=services["query"].target,
            hotcache=services["hotcache"].target,
        )

    @property
    def credentials(self) -> Credentials:
        """Those of its secret store, of which every region has a copy."""
        return Credentials.load_or_make(self.stack.state.secrets_file, ())

    async def atlas(self, *arguments: str) -> None:
        """Run a command of `atlas`. Fails if it did."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("atlas")), *arguments, env=self.environment
        )
        assert await process.wait() == 0, arguments

    @asynccontextmanager
    async def writing(self, name: str) -> AsyncIterator[Writers]:
        """Writers of both tenants, whose first writes are acknowledged when the block begins."""
        began = time.monotonic()
        target = self.stack.services["ingest"].target
        async with writers_at(target, self.ledger, TENANTS, name) as writers:
            await self.acknowledged(began)
            yield writers

    def ask(self, sql: str) -> Any:
        """One value, of the primary, as its administrator."""
        with self.admin() as admin:
            return admin.execute(sql).fetchall()[0][0]

    async def back_up(self) -> None:
        """Take a base backup of the primary, as every night."""
        dsn = make_dsn(
            user=REPLICATION_USER,
            password=self.credentials.postgres_replication,
            port=self.stack.postgres.primary.port,
            database="postgres",
        )
        await self.operate(
            "base-backup",
            *("--to", str(self.vault.backups), "--archive", str(self.vault.archive), "--keep", "1"),
            environment=libpq_environment(dsn),
            account=server_account(),
        )

    async def put_log_away(self) -> None:
        """Archive what is written by now, as operators do of a primary that still runs."""
        name = self.ask("SELECT pg_walfile_name(pg_switch_wal())")
        await eventually(lambda: name in self.vault.segments(), 60)

    async def restore(self, cluster: Restored, *target: str) -> str:
        """Make a cluster with this target; what restore-to-time said."""
        return await self.operate(
            "restore-to-time",
            *("--backups", str(self.vault.backups), "--archive", str(self.vault.archive)),
            *("--pgdata", str(cluster.directory), "--port", str(cluster.port), *target),
            environment=libpq_environment(cluster.database.admin_dsn),
            account=server_account(),
        )

    @asynccontextmanager
    async def restored(self, name: str, *target: str) -> AsyncIterator[Restored]:
        """The cluster, which does not outlive the block."""
        port = free_port(set())
        cluster = Restored(self.vault.directory / name, port, self.credentials)
        try:
            await self.restore(cluster, *target)
            yield cluster
        finally:
            await asyncio.to_thread(cluster.end)

    @contextmanager
    def taken_over(
        self, directory: Path, cluster: Restored, *, keeping_copies: bool
    ) -> "Iterator[Region]":
        """The platform started anew on a cluster, with the same secrets and the same clients.

        `keeping_copies`: with the old cache server and the old warehouse, else with empty ones. It
        is stopped and deleted after the block.
        """
        was = self.stack
        with StateDirectory.open(directory) as state:
            shutil.copy(was.state.secrets_file, state.secrets_file)
            if keeping_copies:
                for path in was.state.warehouse.parent.iterdir():
                    shutil.copy(path, state.warehouse.parent)
        servers = ServerOptions(
            pg_dsn=cluster.database.admin_dsn,
            valkey_url=was.valkey.url if keeping_copies else None,
        )
        stack = Stack.start(
            directory,
            StackOptions(servers=servers, environment=ENVIRONMENT, heal_services=False),
        )
        try:
            yield Region(stack, directory, self.vault, self.programs, self.ledger)
        finally:
            stack.remove()


@contextmanager
def region_below(
    directory: Path, options: ServerOptions, *, replicas: int, archive_seconds: int
) -> Iterator[Region]:
    """A whole platform that archives, embedded whatever the command line says."""
    with vault_below(directory / "vault") as vault:
        embedded = replace(
            options.embedded(),
            postgres=replace(options.postgres, replicas=replicas),
            valkey_url=None,
        )
        servers = vault.archiving(embedded, archive_seconds)
        stack = Stack.start(
            directory / "region",
            StackOptions(servers=servers, environment=ENVIRONMENT, heal_services=False),
        )
        try:
            programs = stack.postgres.binaries.directory
            asyncio.run(set_up_tenants(stack.services["ingest"].target))
            yield Region(stack, directory, vault, programs, Ledger())
        finally:
            stack.remove()
