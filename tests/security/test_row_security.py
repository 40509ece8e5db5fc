"""No role of the database gets at rows of a tenant that is not its transaction's, on any table."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from atlas_devstack.database import Database, another

from . import row_attacks, rows

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def admin(database: Database) -> Iterator[Connection]:
    with (
        another(database) as own,
        psycopg.connect(own.dsn("atlas_ingest"), autocommit=True) as ingest,
        psycopg.connect(own.admin_dsn, autocommit=True) as admin,
    ):
        ingest.execute("SELECT prepare_lane(0::smallint)")
        ingest.execute("SELECT maintain_partitions()")
        rows.fill(admin)
        (retired,) = admin.execute(
            "SELECT max(name) FROM partitions_of('entity_values_ts'::regclass) WHERE NOT is_default"
        ).fetchall()
        admin.execute("SELECT detach_partition(%s)", retired)
        yield admin


@pytest.fixture(scope="module")
def targets(admin: Connection) -> list[row_attacks.Loot]:
    return [row_attacks.loot(admin, relation) for relation in row_attacks.relations(admin)]


READ = {"select", "copy to"}
STAGED = {"insert", "copy from"}
ALL = READ | STAGED | {"update", "delete", "truncate"}
# What works on all tenants by design, and may do no more than this. Of those that can log in:
# services know who the tenants are, ingest adds to staging, maintenance archives, the monitor sees
# columns without values.
CROSSINGS: dict[str, dict[str, set[str]]] = {
    "atlas_ingest": {"atlas.tenants": READ | {"insert", "update"}, "staging.*": STAGED},
    "atlas_hotcache": {"atlas.tenants": READ},
    "atlas_query": {"atlas.tenants": READ},
    "atlas_reconciler": {"atlas.tenants": READ},
    "atlas_maintenance": {"atlas.entity_values_ts": READ, "retired.*": READ},
    "atlas_monitor": dict.fromkeys(
        (
            "atlas.attribute_indexes",
            "atlas.audit_log",
            "atlas.ingest_dead_letters",
            "atlas.producer_positions",
            "atlas.projection_jobs",
            "atlas.tenants",
        ),
        READ,
    ),
    # Nobody can log in as one of these: functions run as them.
    "atlas_finder": {"atlas.entity_jsonb": READ, "atlas.entity_values_ts": READ},
    "atlas_flusher": {
        "atlas.attributes": READ,
        "atlas.entity_jsonb": READ | {"insert", "update"},
        "atlas.entity_values_ts": {"insert"},
        "atlas.ingest_dead_letters": {"insert"},
        "atlas.producer_positions": READ | {"insert", "update"},
        "atlas.projected_attributes": READ,
        "atlas.write_requests": READ | {"insert"},
        "staging.*": ALL,
    },
    "atlas_keeper": {
        "atlas.entity_values_ts": READ | {"insert", "delete"},
        "atlas.entity_values_ts_default": READ,
        "atlas.tenants": READ,
        "retired.*": READ,
    },
    "atlas_meter": {
        "atlas.attribute_access": READ | {"insert", "update", "delete"},
        "atlas.attribute_indexes": READ,
        "atlas.attribute_promotion": READ | {"insert", "update"},
        "atlas.attributes": READ,
        "atlas.entity_values_ts": READ,
        "atlas.promotion_decisions": READ | {"delete"},
    },
    "atlas_indexer": {},
    "atlas_replication": {},
    "atlas_projector": {"atlas.attribute_indexes": READ, "atlas.projection_jobs": READ},
}
# Columns that hold no value of a tenant, and are all of the table that this role may read.
COLUMNS = {
    ("atlas_monitor", "audit_log"): {
        "tenant_id", "entry_id", "recorded_at", "act", "event", "actor", "actor_kind",
        "actor_tenant", "method", "request_id", "outcome",
    },
    ("atlas_monitor", "ingest_dead_letters"): {
        "tenant_id", "source", "topic", "partition", "reason", "stored_at",
    },
    ("atlas_monitor", "producer_positions"): {"tenant_id", "producer_id", "sequence", "stored_at"},
    ("atlas_monitor", "tenants"): {"tenant_id", "key", "retention_class"},
    ("atlas_meter", "entity_values_ts"): {"tenant_id", "attribute_id", "ingested_at"},
    ("atlas_meter", "attributes"): {"tenant_id", "attribute_id", "name", "is_hot"},
    ("atlas_meter", "promotion_decisions"): {"decided_at"},
    ("atlas_finder", "entity_jsonb"): {"tenant_id", "entity_id", "attrs"},
}  # fmt: skip
# No row-level security, since COPY does not work with it, or no tenant may come near; so: rights.
UNGUARDED = {
    "staging": {("atlas_ingest", "INSERT")},
    "retired": {("atlas_keeper", "SELECT"), ("atlas_maintenance", "SELECT")},
}
# Of many tenants at once, told by numbers alone; and the tenant that an actor comes from.
OTHER_NAMES = {
    "partition_archives", "recent_flushes", "retired_partitions", "audit_log",
    "maintenance_policies",
}  # fmt: skip


def open_doors(admin: Connection) -> list[str]:
    """Tables of tenants without forced row-level security that more can be done to than is said."""
    return [
        relation.full_name
        for relation in row_attacks.relations(admin)
        if not relation.is_guarded
        and row_attacks.grants(admin, relation) != UNGUARDED.get(relation.schema)
    ]


def test_every_table_of_tenants_is_guarded(admin: Connection) -> None:
    assert open_doors(admin) == []
    kinds = {(r.schema, r.is_partition, r.is_root) for r in row_attacks.relations(admin)}
    assert kinds >= {
        ("atlas", False, False), ("atlas", True, False), ("atlas", False, True),
        ("staging", False, False), ("retired", False, False),
    }  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE atlas.forgotten (tenant_id integer)",
        "CREATE TABLE atlas.forgotten (tenant_id integer);"
        " ALTER TABLE atlas.forgotten ENABLE ROW LEVEL SECURITY",
        "CREATE TABLE public.forgotten (tenant_id integer)",
        "CREATE VIEW atlas.forgotten AS SELECT * FROM atlas.entities",
        "CREATE TABLE staging.forgotten (tenant_id integer);"
        " GRANT SELECT ON staging.forgotten TO PUBLIC",
    ],
)
def test_a_table_that_somebody_forgot_to_guard_is_found(admin: Connection, statement: str) -> None:
    with admin.transaction(force_rollback=True):
        admin.execute(statement)
        assert [name.split(".")[1] for name in open_doors(admin)] == ["forgotten"]


def test_tenants_are_named_by_one_column(admin: Connection) -> None:
    found = admin.execute(
        "SELECT DISTINCT table_name FROM information_schema.columns"
        " WHERE column_name LIKE '%tenant%' AND column_name <> 'tenant_id'"
        " AND table_schema NOT IN ('pg_catalog', 'information_schema')"
    )
    assert {name for (name,) in found} == OTHER_NAMES


def test_every_role_is_tried(admin: Connection) -> None:
    assert {*CROSSINGS, "atlas_owner"} == set(row_attacks.roles(admin))


@pytest.mark.parametrize("role", CROSSINGS)
def test_no_role_gets_at_another_tenants_rows(
    admin: Connection, targets: list[row_attacks.Loot], role: str
) -> None:
    found: dict[str, set[str]] = {}
    for target in targets:
        relation = target.relation
        name = f"{relation.schema}.*" if relation.schema in UNGUARDED else relation.full_name
        reached = row_attacks.reached(admin, role, target)
        if reached:
            found[name] = found.get(name, set()) | reached
    assert found == CROSSINGS[role]


def test_the_owner_of_the_tables_gets_at_no_row_either(admin: Connection) -> None:
    for relation in row_attacks.relations(admin):
        if not relation.is_guarded:
            continue
        reached = row_attacks.reached(admin, "atlas_owner", row_attacks.loot(admin, relation))
        looks = READ if relation.name == "attribute_indexes" else set()
        assert reached == looks | {"truncate"}, relation.full_name


def test_who_sees_all_tenants_sees_no_more_columns_than_it_needs(admin: Connection) -> None:
    for (role, table), columns in COLUMNS.items():
        assert row_attacks.readable(admin, role, f"atlas.{table}") == columns, (role, table)


def test_who_can_log_in_becomes_nobody_else(admin: Connection) -> None:
    became = admin.execute(
        "SELECT r.rolname, o.rolname FROM pg_roles AS r, pg_roles AS o"
        r" WHERE r.rolname LIKE 'atlas\_%' AND o.rolname LIKE 'atlas\_%'"
        " AND r.rolcanlogin AND r.oid <> o.oid AND pg_has_role(r.oid, o.oid, 'MEMBER')"
    ).fetchall()
    assert became == [("atlas_indexer", "atlas_owner")], "which builds indexes as the owner"
    powers = admin.execute(
        r"SELECT rolname FROM pg_roles WHERE rolname LIKE 'atlas\_%'"
        " AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb)"
    ).fetchall()
    assert powers == []
