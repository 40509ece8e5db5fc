"""The migration job: extensions, schema, and the roles' passwords. Any part of it may run again.

ATLAS_ADMIN_DSN: of a role that may create roles and extensions; its password: PGPASSWORD.
ROLE_PASSWORD_<role>: what the role logs in with, from now on.
"""

import os
import sys

import psycopg
from psycopg import sql

from atlas_db.__main__ import main as upgrade

_PREFIX = "ROLE_PASSWORD_"
_EXTENSIONS = {"pg_stat_statements": "public", "pg_cron": "pg_catalog", "pg_partman": "partman"}


def create_extensions(connection: psycopg.Connection) -> None:
    """Create what the server has of them; the schema's upgrade then uses what is there."""
    rows = connection.execute("SELECT name FROM pg_available_extensions").fetchall()
    available = {name for (name,) in rows}
    for name, schema in _EXTENSIONS.items():
        if name in available:
            make = sql.SQL("CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA {}")
            if schema == "partman":
                connection.execute("CREATE SCHEMA IF NOT EXISTS partman")
            connection.execute(make.format(sql.Identifier(name), sql.Identifier(schema)))


def set_passwords(connection: psycopg.Connection) -> None:
    """Give each role named in the environment its password."""
    for variable, password in sorted(os.environ.items()):
        if not variable.startswith(_PREFIX):
            continue
        role = variable.removeprefix(_PREFIX)
        # What is sent is not the password, since servers log statements.
        verifier = connection.pgconn.encrypt_password(
            password.encode(), role.encode(), b"scram-sha-256"
        ).decode()
        change = sql.SQL("ALTER ROLE {} PASSWORD {}")
        connection.execute(change.format(sql.Identifier(role), sql.Literal(verifier)))
        sys.stdout.write(f"{role} has its password\n")


def main() -> int:
    """Do all of it; the exit code is the upgrade's."""
    dsn = os.environ["ATLAS_ADMIN_DSN"]
    with psycopg.connect(dsn, autocommit=True) as connection:
        create_extensions(connection)
    sys.argv[1:] = []
    status = upgrade()
    if status == 0:
        with psycopg.connect(dsn, autocommit=True) as connection:
            set_passwords(connection)
    return status


if __name__ == "__main__":
    sys.exit(main())
