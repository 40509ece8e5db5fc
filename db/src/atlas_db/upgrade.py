"""Bring a database to this release: roles, revisions, functions, owners, grants, partitions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

HERE = Path(__file__).parent
SERVICE_ROLES = ("atlas_ingest", "atlas_hotcache", "atlas_query", "atlas_reconciler")
LOGIN_ROLES = (*SERVICE_ROLES, "atlas_maintenance", "atlas_monitor", "atlas_indexer")
_MIGRATION_LOCK = 7_310_579_682  # Any number that nothing else in this database locks.


def upgrade(admin_dsn: str) -> bool:
    """Bring the database to the schema of this release; safe to repeat and to race.

    `admin_dsn` must reach the server itself, not a pooler, as a superuser or as a role that may
    create roles. Revisions run once each; functions and grants are applied anew every time. The
    mark that services wait for comes last.

    False: a later release was here, whose schema serves this one too, and nothing was changed.
    Raises psycopg.Error when the server refuses.
    """
    with psycopg.connect(admin_dsn, autocommit=True) as connection, _lock(connection):
        # A change that waited longer for its lock would queue every query behind it.
        connection.execute("SET lock_timeout = '5s'")
        connection.execute("SET statement_timeout = '15min'")
        if _is_later(connection):
            return False
        _apply(connection, HERE / "access" / "roles.sql")
        _run_revisions(connection)
        for function_file in sorted((HERE / "functions").glob("*.sql")):
            _apply(connection, function_file)
        _apply(connection, HERE / "access" / "owners.sql")
        _apply(connection, HERE / "access" / "grants.sql")
        _apply(connection, HERE / "access" / "extensions.sql")
        connection.execute("SELECT atlas.maintain_partitions()")
        _mark(connection)
    return True


def set_role_passwords(admin_dsn: str, passwords: dict[str, str]) -> None:
    """Give login roles their passwords, role -> password; the server's log shows none."""
    with psycopg.connect(admin_dsn, autocommit=True) as connection:
        connection.execute("SET log_statement = 'none'")
        connection.execute("SET log_min_error_statement = 'panic'")
        for role, password in passwords.items():
            # The server stores only what libpq derives from the password, and never sees it.
            verifier = connection.pgconn.encrypt_password(
                password.encode(), role.encode(), b"scram-sha-256"
            ).decode()
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(verifier)
                )
            )


@contextmanager
def _lock(connection: psycopg.Connection) -> Iterator[None]:
    connection.execute("SELECT pg_advisory_lock(%s)", [_MIGRATION_LOCK])
    try:
        yield
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", [_MIGRATION_LOCK])


def _apply(connection: psycopg.Connection, file: Path) -> None:
    with connection.transaction():
        connection.execute("SET LOCAL search_path = atlas, public")
        connection.execute(file.read_bytes())


def _scripts() -> Config:
    config = Config()
    config.set_main_option("script_location", str(HERE / "migrations"))
    return config


def _is_later(connection: psycopg.Connection) -> bool:
    """Whether the database is at a revision that this release does not have."""
    (table,) = _row(connection, "SELECT to_regclass('public.atlas_revision')")
    if table is None:
        return False
    (current,) = _row(connection, "SELECT max(version_num) FROM public.atlas_revision")
    known = {script.revision for script in ScriptDirectory.from_config(_scripts()).walk_revisions()}
    return current is not None and current not in known


def _mark(connection: psycopg.Connection) -> None:
    """Say on the schema itself what it is, for every role to read without a right."""
    (revision,) = _row(connection, "SELECT version_num FROM public.atlas_revision")
    comment = sql.SQL("COMMENT ON SCHEMA atlas IS {}").format(sql.Literal(f"revision {revision}"))
    with connection.transaction():
        connection.execute("SET LOCAL ROLE atlas_owner")
        connection.execute(comment)


def _row(connection: psycopg.Connection, query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def _run_revisions(connection: psycopg.Connection) -> None:
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool
    )
    connection.autocommit = False  # SQLAlchemy manages transactions from here on.
    try:
        with engine.connect() as bound:
            config = _scripts()
            config.attributes["connection"] = bound
            command.upgrade(config, "head")
            bound.commit()
    finally:
        connection.rollback()
        connection.autocommit = True
