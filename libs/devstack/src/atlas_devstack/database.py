"""The platform's database on a server: created, migrated, reachable as each role."""

import importlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from atlas_devstack.dsn import dsn_as, with_database
from atlas_devstack.platform import DATABASE


@dataclass(frozen=True)
class Database:
    """A migrated database."""

    admin_dsn: str
    """All rights: for migrations, for tests that arrange or inspect. No service gets it."""
    role_passwords: Mapping[str, str]

    def dsn(self, role: str) -> str:
        """Return the DSN of a role such as "atlas_query"."""
        return dsn_as(self.admin_dsn, user=role, password=self.role_passwords[role])

    @property
    def name(self) -> str:
        """The database's name on its server."""
        return str(conninfo_to_dict(self.admin_dsn)["dbname"])


def migrations() -> ModuleType:
    """Return atlas_db. Importing it takes a second (alembic): a start does so while initdb runs."""
    return importlib.import_module("atlas_db")


def migrate(
    admin_dsn: str,
    role_passwords: Mapping[str, str],
    upgrade: Callable[[str], object] | None = None,
) -> Database:
    """Create the database of this DSN if it is missing, migrate it, and set the roles' passwords.

    `upgrade` migrates the database of an administrator's DSN; by default this release's job does.
    Raises psycopg.Error when the server refuses.
    """
    atlas_db = migrations()
    _create_if_missing(admin_dsn)
    (upgrade or atlas_db.upgrade)(admin_dsn)
    atlas_db.set_role_passwords(admin_dsn, dict(role_passwords))
    return Database(admin_dsn, role_passwords)


@contextmanager
def another(database: Database) -> Iterator[Database]:
    """Give a private, empty, migrated database on the same server, and drop it afterwards.

    Migrated, not copied from a template: CREATE DATABASE leaves settings and grants of the database
    itself behind, and takes as long.
    """
    name = f"{DATABASE}_{secrets.token_hex(4)}"
    own = Database(with_database(database.admin_dsn, name), database.role_passwords)
    _create_if_missing(own.admin_dsn)
    try:
        migrations().upgrade(own.admin_dsn)
        yield own
    finally:
        drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
        dsn = with_database(database.admin_dsn, "postgres")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(drop)


def _create_if_missing(admin_dsn: str) -> None:
    name = str(conninfo_to_dict(admin_dsn)["dbname"])
    with psycopg.connect(with_database(admin_dsn, "postgres"), autocommit=True) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name])
        if known.fetchone() is None:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
