"""What each role of the database tries with rows that are another tenant's, on every table."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

Connection = psycopg.Connection[Any]
Attack = Callable[[psycopg.Cursor[Any]], bool]
ATTACKER = "3"
"""A tenant without a row in any table: whatever it reaches is another's."""
VICTIM = 2
_REFUSALS = (errors.InsufficientPrivilege, errors.FeatureNotSupported)
_RELATIONS = """
SELECT n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relispartition,
    c.relkind = 'p'
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
      AND NOT a.attisdropped AND a.attname = 'tenant_id')
ORDER BY 1, 2
"""
_ROLES = r"SELECT rolname FROM pg_roles WHERE rolname LIKE 'atlas\_%' ORDER BY 1"
_GRANTS = """
SELECT r.rolname, g.privilege_type
FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS g LEFT JOIN pg_roles AS r ON r.oid = g.grantee
WHERE c.oid = %s::regclass AND g.grantee <> c.relowner
"""
_COLUMNS = """
SELECT a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
WHERE c.oid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
  AND has_schema_privilege(%(role)s, c.relnamespace, 'USAGE')
  AND has_column_privilege(%(role)s, a.attrelid, a.attname, %(privilege)s)
ORDER BY a.attnum
"""


@dataclass(frozen=True)
class Relation:
    """Something that rows of tenants can be read from: a table, a partition, a view."""

    schema: str
    name: str
    is_guarded: bool
    """Row-level security is enabled, and forced on its owner."""
    is_partition: bool
    is_root: bool
    """Of partitions."""

    @property
    def full_name(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Loot:
    """A relation, and the victim's row in it, to be written anew."""

    relation: Relation
    row: str
    copied: bytes


def relations(admin: Connection) -> list[Relation]:
    """All with a tenant_id, as the catalog has them."""
    return [
        Relation(schema, name, enabled and forced, is_partition, is_root)
        for schema, name, enabled, forced, is_partition, is_root in admin.execute(_RELATIONS)
    ]


def roles(admin: Connection) -> list[str]:
    """All of the platform's."""
    return [name for (name,) in admin.execute(_ROLES)]


def grants(admin: Connection, relation: Relation) -> set[tuple[str, str]]:
    """(role, privilege) of all but the owner; PUBLIC is one too."""
    found = admin.execute(_GRANTS, [relation.full_name])
    return {(role or "PUBLIC", privilege) for role, privilege in found}


def loot(admin: Connection, relation: Relation) -> Loot:
    """What the victim has there; AssertionError if it has nothing that could be taken."""
    select = sql.SQL("SELECT * FROM {} WHERE tenant_id = {} LIMIT 1").format(
        relation.quoted, sql.Literal(VICTIM)
    )
    row = admin.execute(sql.SQL("SELECT to_jsonb(r) FROM ({}) AS r").format(select)).fetchone()
    assert row is not None, f"there is no row in {relation.full_name} that could be attacked"
    copy = sql.SQL("COPY ({}) TO STDOUT").format(select)
    with admin.cursor() as cursor, cursor.copy(copy) as copied:
        return Loot(relation, json.dumps(row[0]), b"".join(bytes(part) for part in copied))


def reached(admin: Connection, role: str, target: Loot) -> set[str]:
    """What of the attacks gets at the victim's rows, as `role`: with a tenant, and without any."""
    name = target.relation.full_name
    attacks = _attacks(
        target, _columns(admin, role, name, "SELECT"), _columns(admin, role, name, "UPDATE")
    )
    found = set()
    for tenant in (None, "", ATTACKER):
        for kind, attack in attacks.items():
            with _as(admin, role, tenant), admin.cursor() as cursor:
                if _succeeds(attack, cursor):
                    found.add(kind)
    return found


def readable(admin: Connection, role: str, table: str) -> set[str]:
    """The columns that the role may read."""
    return set(_columns(admin, role, table, "SELECT"))


def _columns(admin: Connection, role: str, table: str, privilege: str) -> list[str]:
    asked = {"table": table, "role": role, "privilege": privilege}
    return [name for (name,) in admin.execute(_COLUMNS, asked)]


def _attacks(target: Loot, seen_columns: list[str], writable: list[str]) -> dict[str, Attack]:
    table = target.relation.quoted
    seen = _list(seen_columns)
    changed = sql.Identifier(writable[0] if writable else "tenant_id")
    copy_out = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT").format(seen, table)
    insert = sql.SQL(
        "INSERT INTO {0} OVERRIDING SYSTEM VALUE"
        " SELECT * FROM jsonb_populate_record(NULL::{0}, {1})"
    ).format(table, sql.Literal(target.row))

    def select(cursor: psycopg.Cursor[Any]) -> bool:
        rows = cursor.execute(sql.SQL("SELECT {} FROM {}").format(seen, table)).fetchall()
        return rows != []

    def copy_to(cursor: psycopg.Cursor[Any]) -> bool:
        with cursor.copy(copy_out) as rows:
            return b"".join(bytes(row) for row in rows) != b""

    def copy_from(cursor: psycopg.Cursor[Any]) -> bool:
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(table)) as rows:
            rows.write(target.copied)
        return True

    def changes(statement: sql.Composed) -> Attack:
        return lambda cursor: cursor.execute(statement).rowcount != 0

    return {
        "select": select,
        "copy to": copy_to,
        "insert": changes(insert),
        "copy from": copy_from,
        "update": changes(sql.SQL("UPDATE {} SET {} = NULL").format(table, changed)),
        "delete": changes(sql.SQL("DELETE FROM {}").format(table)),
        "truncate": changes(sql.SQL("TRUNCATE {}").format(table)),
    }


def _list(columns: list[str]) -> sql.Composable:
    if not columns:
        return sql.SQL("*")
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _succeeds(attack: Attack, cursor: psycopg.Cursor[Any]) -> bool:
    try:
        return attack(cursor)
    except _REFUSALS:
        return False
    except errors.IntegrityError:
        return True  # Only the row itself was in the way, and not who asked.


@contextmanager
def _as(admin: Connection, role: str, tenant: str | None) -> Iterator[None]:
    """A transaction as this role, of which nothing stays."""
    admin.execute("RESET atlas.tenant_id")
    with admin.transaction(force_rollback=True):
        admin.execute(sql.SQL("SET LOCAL SESSION AUTHORIZATION {}").format(sql.Identifier(role)))
        if tenant is not None:
            admin.execute(sql.SQL("SET LOCAL atlas.tenant_id = {}").format(sql.Literal(tenant)))
        yield
