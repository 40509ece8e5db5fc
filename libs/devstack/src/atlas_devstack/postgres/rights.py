"""What each role of the platform may, as a table; `python -m atlas_devstack.postgres.rights`."""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg

_ROLES = """
    SELECT r.rolname,
        concat_ws(', ',
            CASE WHEN r.rolcanlogin THEN 'login' ELSE 'no login' END,
            CASE WHEN NOT r.rolinherit THEN 'no inheritance' END,
            CASE WHEN r.rolsuper THEN 'SUPERUSER' END,
            CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END,
            CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
            CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
            CASE WHEN r.rolreplication THEN 'REPLICATION' END),
        coalesce((SELECT string_agg(g.rolname, ', ' ORDER BY g.rolname) FROM pg_auth_members AS m
            JOIN pg_roles AS g ON g.oid = m.roleid WHERE m.member = r.oid), '')
    FROM pg_roles AS r WHERE r.rolname LIKE 'atlas\\_%' ORDER BY r.rolname
"""
# But the owner's, which are all there are.
_RIGHTS = """
    WITH acl AS (
        SELECT c.relowner AS owner, c.relnamespace, c.relname::text AS name, NULL::text AS part, x.*
        FROM pg_class AS c, aclexplode(c.relacl) AS x WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S')
        UNION ALL
        SELECT c.relowner, c.relnamespace, c.relname, a.attname, x.*
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid, aclexplode(a.attacl) AS x
        UNION ALL
        SELECT p.proowner, p.pronamespace, p.proname || '()', NULL, x.*
        FROM pg_proc AS p, aclexplode(p.proacl) AS x
        UNION ALL
        SELECT n.nspowner, n.oid, n.nspname || ' (schema)', NULL, x.*
        FROM pg_namespace AS n, aclexplode(n.nspacl) AS x
    )
    SELECT coalesce(g.rolname, 'PUBLIC'),
        a.privilege_type || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
        a.name || coalesce(' (' || string_agg(DISTINCT a.part, ', ' ORDER BY a.part) || ')', '')
    FROM acl AS a JOIN pg_namespace AS n ON n.oid = a.relnamespace
    LEFT JOIN pg_roles AS g ON g.oid = a.grantee
    WHERE n.nspname IN ('atlas', 'staging', 'retired') AND a.grantee <> a.owner
    GROUP BY 1, 2, a.name, a.part IS NULL ORDER BY 1, 2, 3
"""
_HEAD = """# What each database role may

Everything that was granted, and no more: `tests/security/test_roles.py` compares these tables with
the catalog. Made by `python -m atlas_devstack.postgres.rights > db/RIGHTS.md`. What the roles are
for, `README.md` says. Beside rights, row-level security decides which rows there are.

"""


def rights_of(dsn: str) -> str:
    """The tables as Markdown, of the database that this DSN, an administrator's, reaches."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        roles: list[Any] = connection.execute(_ROLES.encode()).fetchall()
        granted: list[Any] = connection.execute(_RIGHTS.encode()).fetchall()
    rights: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for role, privilege, name in granted:
        rights[role, privilege].append(f"`{name}`")
    lines = ["| role | attributes | member of |", "|---|---|---|"]
    lines += [f"| `{role}` | {attributes} | {groups} |" for role, attributes, groups in roles]
    lines += ["", "| role | right | on |", "|---|---|---|"]
    lines += [
        f"| `{role}` | {privilege} | {', '.join(sorted(names))} |"
        for (role, privilege), names in sorted(rights.items())
    ]
    return _HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Print what the migrations grant on a new server."""
    from atlas_devstack.servers import ServerOptions  # noqa: PLC0415 - it imports this package.
    from atlas_devstack.stack import Stack, StackOptions  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        stack = Stack.start(
            Path(folder) / "state", StackOptions(services=(), servers=ServerOptions(valkey=False))
        )
        try:
            sys.stdout.write(rights_of(stack.database.admin_dsn))
        finally:
            stack.remove()


if __name__ == "__main__":
    main()
