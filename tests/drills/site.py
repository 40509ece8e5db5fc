"""A platform with two tenants, its load, and an operator who has nothing but scripts."""

import asyncio
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from atlas_devstack import guard
from atlas_devstack.account import Account
from atlas_devstack.database import Database
from atlas_devstack.platform import DATABASE
from atlas_devstack.postgres import PostgresNode
from atlas_devstack.stack import Stack
from tests.chaos.arena import TENANTS, set_up_tenants
from tests.chaos.audit import audit
from tests.chaos.ledger import Ledger, Level
from tests.chaos.load import door_to
from tests.chaos.traffic import Load, under_load
from tests.integration.waiting import eventually

from .service_manager import ServiceManager, managed

SCRIPTS = Path(__file__).parents[2] / "ops" / "recovery"
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {
    # Hotcache is not part of this: nobody waits for one that is not there.
    "ingest": {"ATLAS_FLUSH__INVALIDATE_TIMEOUT_MS": "1"},
    "cdc-reconciler": {"ATLAS_RECONCILE__WINDOW_SECONDS": "5"},
}
SCRIPT_SECONDS_MAX = 240.0
_ENOUGH = 10
"""Acknowledged batches of each tenant that make sure that the load is on."""


@dataclass
class Site:
    """One platform, and the books of what its clients were told."""

    stack: Stack
    directory: Path
    manager: ServiceManager
    ledger: Ledger = field(default_factory=Ledger)
    _loads: Iterator[int] = field(default_factory=itertools.count)

    @property
    def environment(self) -> dict[str, str]:
        """Of the operator's shell: where the programs are and the platform is."""
        targets = {
            f"ATLAS_{name.rpartition('-')[2].upper()}": service.target
            for name, service in self.stack.services.items()
        }
        programs = (self._server_programs(), Path(sys.executable).parent)
        path = os.pathsep.join([*map(str, programs), os.defpath])
        return {"PATH": path, "HOME": str(self.directory), **targets}

    def _server_programs(self) -> Path:
        """Where psql and the others of Postgres are."""
        return self.stack.postgres.binaries.directory

    async def operate(
        self,
        script: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        account: Account | None = None,
    ) -> str:
        """Run a script of ops/recovery; what it said. Fails if it did.

        `account`: whose shell it is, if it has to touch the server's files.
        """
        path = SCRIPTS / script if account is None else self._handed_out(account) / script
        process = await asyncio.create_subprocess_exec(
            *_as_account(account),
            str(path),
            *arguments,
            env={**self.environment, **(environment or {})},
            cwd=path.parent,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(SCRIPT_SECONDS_MAX):
                said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = said.decode()
        sys.stdout.write(text)
        assert process.returncode == 0, f"{script}: exit code {process.returncode}\n{text}"
        return text

    def _handed_out(self, account: Account) -> Path:
        """The scripts where the server's account can read them."""
        place = self.stack.postgres.primary.data_directory.parent / "recovery"
        if not place.exists():
            shutil.copytree(SCRIPTS, place)
            for path in (place, *place.iterdir()):
                account.own(path, 0o700)
        return place

    @asynccontextmanager
    async def load(self, *, streams: bool = True) -> AsyncIterator[Load]:
        """Clients of both tenants; the block begins when both get acknowledgements.

        `streams`: producers, too, who take a lost tail for a breach of promises, as they may.
        """
        await set_up_tenants(self.stack.services["ingest"].target)
        async with door_to([self.stack.services["ingest"].target], self.ledger) as door:
            began, name = time.monotonic(), f"load-{next(self._loads)}-"
            load = Load(
                door, TENANTS, writers=1, levels=(Level.DURABLE,), streams=streams, name=name
            )
            async with under_load(load):
                await self.acknowledged(began)
                yield load

    async def acknowledged(self, since: float, seconds: float = 60.0) -> None:
        """Wait until writes of both tenants are acknowledged that were not before that moment."""

        def served() -> bool:
            tenants = [batch.tenant for batch in self.ledger.acknowledged_since(since)]
            return all(tenants.count(tenant) >= _ENOUGH for tenant in TENANTS)

        await eventually(served, seconds)

    async def verify(self, database: Database | None = None, *, until: float = float("inf")) -> int:
        """Fails unless all that was acknowledged before then is stored, once; how many rows."""
        chosen = database or self.stack.database
        findings = await audit(chosen, self.ledger, Level.DURABLE, until=until)
        assert not self.ledger.surprises, self.ledger.surprises[:5]
        assert not findings.problems(), f"{findings.problems()}; {self.ledger.summary()}"
        assert findings.stored > 0
        return findings.stored

    async def copied(self, primary: PostgresNode | None = None) -> None:
        """Wait until the warehouse has what is in the log by now."""
        with self.admin(primary) as admin:
            (now,) = admin.execute("SELECT pg_current_wal_lsn()::text").fetchall()

            def is_copied() -> bool:
                found = admin.execute(
                    "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots"
                    " WHERE slot_name = 'atlas_warehouse'",
                    now,
                )
                return found.fetchall() == [(True,)]

            await eventually(is_copied, 60.0)

    @contextmanager
    def admin(self, node: PostgresNode | None = None) -> Iterator["psycopg.Connection[Any]"]:
        """An autocommit connection with all rights."""
        chosen = node or self.stack.postgres.primary
        with psycopg.connect(chosen.superuser_dsn(DATABASE), autocommit=True) as connection:
            connection.execute("SET search_path = atlas")
            yield connection


def _as_account(account: Account | None) -> list[str]:
    """What changes the account, ahead of a command.

    Not `user=`: it makes subprocess fork, and gRPC's threads do not survive that.
    """
    if account is None:
        return []
    death = str(int(signal.SIGKILL))
    ids = f"{account.uid}:{account.gid}"
    return [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), death, ids]


def libpq_environment(dsn: str) -> dict[str, str]:
    """A DSN as libpq's programs read it from the environment."""
    names = {"user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    words = {"host": "PGHOST", "port": "PGPORT", **names}
    found = conninfo_to_dict(dsn)
    return {variable: str(found[word]) for word, variable in words.items() if word in found}


@contextmanager
def site_on(stack: Stack, directory: Path) -> Iterator[Site]:
    """The site of a stack, whose parts scripts can stop and start."""
    parts = {**stack.services, **{node.node_name: node for node in stack.postgres.nodes}}
    with managed(parts) as manager:
        yield Site(stack, directory, manager)
