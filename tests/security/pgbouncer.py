"""PgBouncer in transaction mode with one session of the server for all of its clients."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from atlas_devstack.account import server_account, write_private
from atlas_devstack.component import Component
from atlas_devstack.database import Database
from atlas_devstack.dsn import dsn_as, make_dsn
from atlas_devstack.ports import LOOPBACK, free_port
from atlas_devstack.process import Launch
from atlas_devstack.waiting import Patience


@dataclass(frozen=True)
class PgBouncerSite:
    """Where it lives, and whose server it stands before."""

    directory: Path
    database: Database
    role: str
    """The one that its clients come as."""
    settings: tuple[str, ...] = ()


def binary() -> str | None:
    """The program, if this machine has it: Debian's package `pgbouncer`."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def version() -> tuple[int, ...]:
    """Of the program, major and minor."""
    program = binary()
    assert program is not None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return tuple(int(part) for part in said.stdout.split()[1].split(".")[:2])


class PgBouncer(Component):
    """A pooler that gives a session to a transaction and to the next one of whoever is next."""

    def __init__(self, site: PgBouncerSite, patience: Patience) -> None:
        super().__init__("pgbouncer", patience)
        self._site = site
        self.port = free_port(set())

    @property
    def dsn(self) -> str:
        """What a service is configured with."""
        password = self._site.database.role_passwords[self._site.role]
        return make_dsn(
            user=self._site.role,
            password=password,
            port=self.port,
            database=self._site.database.name,
        )

    def answers(self) -> bool:
        try:
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _prepare(self) -> Launch:
        directory = self._site.directory
        account = server_account()  # It refuses to run as root.
        if account is not None:
            account.own(directory, 0o700)
        password = self._site.database.role_passwords[self._site.role]
        write_private(directory / "users", f'"{self._site.role}" "{password}"\n', account)
        write_private(directory / "pgbouncer.ini", self._configuration(), account)
        program = binary()
        assert program is not None
        return Launch(
            name=self.name,
            command=[program, str(directory / "pgbouncer.ini")],
            environment={"PATH": os.defpath, "LC_ALL": "C"},
            directory=directory,
            log_path=directory.parent / "pgbouncer.log",
            record_path=directory.parent / "pgbouncer.json",
            account=account,
        )

    def _configuration(self) -> str:
        server = conninfo_to_dict(dsn_as(self._site.database.admin_dsn, user="x", password="x"))
        settings = "".join(f"{line}\n" for line in self._site.settings)
        return f"""\
[databases]
* = host={server["host"]} port={server["port"]}
[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {self._site.directory / "users"}
pool_mode = transaction
default_pool_size = 1
max_client_conn = 64
{settings}"""
