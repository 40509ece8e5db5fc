"""A row of each of two tenants in every table that has tenants: something to attack."""

from typing import Any

import psycopg
from psycopg import sql

from .row_attacks import Relation, relations

TENANTS = (1, 2)
# Where a value of the column's type alone would be refused by a constraint.
_VALUES: dict[str, dict[str, Any]] = {
    "attribute_indexes": {"data_type": "text", "state": "ready"},
    "attributes": {"data_type": "text"},
    "audit_log": {"actor_kind": "user", "event": "begun"},
    "entity_values_ts": {"value_double": 1.0},
    "projected_attributes": {"phase": "promoting"},
    "projection_jobs": {"kind": "verify"},
    "promotion_decisions": {"actor": "policy", "action": "promote", "outcome": "would"},
}
_OF_TYPE: dict[str, Any] = {
    "boolean": False,
    "bytea": b"raw",
    "date": "2026-01-01",
    "jsonb": "{}",
    "text": "of-tenant-{}",
    "timestamp with time zone": "2026-01-01T00:00:00Z",
    "uuid": "00000000-0000-0000-0000-00000000000a",
}
_NEEDED = """
SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute AS a
WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
  AND NOT a.atthasdef AND a.attidentity = ''
"""
_LOWER_BOUND = """
SELECT coalesce(
    substring(pg_get_expr(relpartbound, oid) FROM $$FROM \\('([^']*)'\\)$$), '2001-01-01')
FROM pg_class WHERE oid = %s::regclass
"""
_KEY_OF_ROOT = {"entity_values_ts": "ingested_at", "write_requests": "bucket"}


def fill(admin: psycopg.Connection[Any]) -> None:
    """Write them, past all rights. A new table needs a line above if its constraints are narrow."""
    with admin.transaction():
        # Rows that are only to be stolen need not fit each other.
        admin.execute("SET LOCAL session_replication_role = replica")
        for relation in relations(admin):
            if relation.is_root:
                continue
            for tenant_id in TENANTS:
                _insert(admin, relation, tenant_id)


def _insert(admin: psycopg.Connection[Any], relation: Relation, tenant_id: int) -> None:
    needed = admin.execute(_NEEDED, [relation.full_name]).fetchall()
    row = {name: _value(kind, tenant_id) for name, kind in needed}
    root = next((r for r in _KEY_OF_ROOT if relation.name.startswith(r)), relation.name)
    row |= _VALUES.get(root, {})
    if relation.is_partition:
        bound = admin.execute(_LOWER_BOUND, [relation.full_name]).fetchone()
        assert bound is not None
        row[_KEY_OF_ROOT[root]] = bound[0]
    row["tenant_id"] = tenant_id
    admin.execute(
        sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
            relation.quoted,
            sql.SQL(", ").join(map(sql.Identifier, row)),
            sql.SQL(", ").join(map(sql.Literal, row.values())),
        )
    )


def _value(kind: str, tenant_id: int) -> Any:
    value = _OF_TYPE.get(kind, 1)
    return value.format(tenant_id) if isinstance(value, str) else value
