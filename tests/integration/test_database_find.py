"""find_entities() finds few by the index and many by walking, and never another tenant's."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import errors

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar
from atlas_devstack.database import Database, another
from atlas_query.filters import AllOf, Equals, Exists, Filter, Match, Not, Operand

from .conftest import Connect, connector, make_two_tenants
from .filter_model import matches
from .filter_rig import add_entities, match_of, page, pages, project
from .plans import Plans, explained

ACME, GLOBEX, INITECH = 1, 2, 3
ENTITIES = range(1001, 9001)
LATE = 6500
"""From here on entities have the attribute `late`."""
ATTRIBUTES = {
    name: AttributeDef(number, name, DataType.INT, is_hot=True)
    for number, name in enumerate(("rare", "half", "all", "late", "twentieth"), 501)
}


def values(entity_id: int) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {
        "rare": entity_id // 10,
        "half": entity_id % 2,
        "all": 1,
        "twentieth": entity_id % 20,
    }
    return found | ({"late": 1} if entity_id >= LATE else {})


def equals(name: str, value: int) -> Equals:
    return Equals(name, (Operand(DataType.INT, value, "filter.value"),), "filter")


def matching(tree: Filter) -> Match:
    return match_of(tree, ATTRIBUTES)


@pytest.fixture(scope="module")
def own(database: Database) -> Iterator[Database]:
    """A database of this module: two tenants have the same projections, a third has none."""
    with another(database) as own, psycopg.connect(own.admin_dsn, autocommit=True) as admin:
        make_two_tenants(admin)
        for tenant_id in (ACME, GLOBEX):
            add_entities(admin, tenant_id, ENTITIES)
            project(admin, tenant_id, {n: values(n) for n in ENTITIES}, ATTRIBUTES)
        admin.execute("INSERT INTO tenants (tenant_id, key) VALUES (3, 'initech')")
        admin.execute("VACUUM ANALYZE entity_jsonb, entities")
        yield own


@pytest.fixture(scope="module")
def connect(own: Database) -> Iterator[Connect]:
    with ExitStack() as cleanup:
        yield connector(own, cleanup)


def find(
    connection: "psycopg.Connection[Any]",
    tree: Filter,
    tenant_id: int = ACME,
    *,
    after: int = 0,
    size: int = 100,
) -> list[int]:
    with connection.transaction():
        connection.execute(f"SET LOCAL atlas.tenant_id = {tenant_id}")
        return page(connection, tenant_id, matching(tree), after=after, size=size)


def planned(
    own: Database, tree: Filter, *, after: int = 0, size: int = 100
) -> tuple[list[int], Plans]:
    with explained(own.admin_dsn, "atlas_query") as (connection, plans):
        found = find(connection, tree, after=after, size=size)
    assert "Seq Scan" not in plans.kinds
    return found, plans


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        (equals("rare", 300), list(range(3000, 3010))),
        (AllOf((equals("rare", 300), equals("half", 1))), [3001, 3003, 3005, 3007, 3009]),
        (AllOf((equals("rare", 300), Not(equals("half", 1)))), [3000, 3002, 3004, 3006, 3008]),
        (equals("rare", 5), []),
    ],
)
def test_few_matches_come_from_the_index(own: Database, tree: Filter, wanted: list[int]) -> None:
    found, plans = planned(own, tree)
    assert found == wanted
    assert plans.indexes >= {"entity_jsonb_attrs"}
    # A short walk; then what the index has of both tenants, whose attributes have one number here.
    assert plans.rows_read("entity_jsonb") <= 2 * 2 * 100 + 2 * 10


@pytest.mark.parametrize(
    ("tree", "step"),
    [
        (equals("all", 1), 1),
        (equals("half", 1), 2),
        (Exists("all", ""), 1),
        (Not(equals("half", 0)), 2),
        (AllOf(()), 1),
    ],
)
def test_many_matches_come_from_walking(own: Database, tree: Filter, step: int) -> None:
    for after in (1000, 8000):
        found, plans = planned(own, tree, after=after)
        first = after + (1 if step == 1 else 1 + after % 2)
        assert found == list(range(first, first + 100 * step, step))
        assert plans.rows_read("entity_jsonb") <= 2 * 2 * 100
        assert "entity_jsonb_attrs" not in plans.indexes


def test_matches_that_begin_late_are_found_by_either_way_in_the_end(own: Database) -> None:
    found, plans = planned(own, equals("late", 1))
    assert found == list(range(LATE, LATE + 100))
    assert plans.indexes >= {"entity_jsonb_attrs", "entity_jsonb_pkey"}


@pytest.mark.parametrize(
    "tree",
    [equals("half", 1), equals("twentieth", 7), equals("late", 1), Not(equals("all", 1))],
)
@pytest.mark.parametrize("size", [1, 99, 1001])
def test_pages_are_the_whole_each_entity_once(connect: Connect, tree: Filter, size: int) -> None:
    connection = connect("atlas_query")
    with connection.transaction():
        connection.execute(f"SET LOCAL atlas.tenant_id = {ACME}")
        found = pages(connection, ACME, matching(AllOf((tree, equals("all", 1)))), max(size, 50))
        # Entities 1 to 3 have no hot values: only what asks for none of them finds those.
        everything = pages(connection, ACME, matching(Not(equals("all", 1))), 2)
    assert found == [n for n in ENTITIES if matches(tree, values(n))]
    assert everything == [1, 2, 3]


ASK = "SELECT find_by_index(%s, '$.\"501\" == 300', '$.\"501\" == 300', NULL, 0, 1000)"


@pytest.mark.parametrize("setting", [None, "", "2", "3"])
@pytest.mark.parametrize("asked", [ACME, None])
def test_the_index_is_asked_for_the_transactions_tenant_only(
    connect: Connect, setting: str | None, asked: int | None
) -> None:
    connection = connect("atlas_query")
    with connection.transaction(force_rollback=True):
        if setting is not None:
            connection.execute(f"SET LOCAL atlas.tenant_id = '{setting}'")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(ASK, [asked])


def test_what_is_no_tenant_is_refused(connect: Connect) -> None:
    connection = connect("atlas_query")
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL atlas.tenant_id = 'acme'")
        with pytest.raises(errors.InvalidTextRepresentation):
            connection.execute(ASK, [ACME])
    with pytest.raises(errors.UndefinedFunction):
        connection.execute(ASK, [[ACME]])
    with pytest.raises(errors.InvalidTextRepresentation):
        connection.execute(ASK, ["1 OR true"])


def test_a_prepared_statement_asks_for_the_tenant_of_each_transaction(connect: Connect) -> None:
    connection = connect("atlas_query")
    tree = equals("rare", 300)
    for _ in range(8):  # Past the fifth, psycopg has prepared it and Postgres may plan generically.
        assert find(connection, tree, ACME) == list(range(3000, 3010))
        assert find(connection, tree, GLOBEX) == list(range(3000, 3010))
        assert find(connection, tree, INITECH) == []
    for setting in (GLOBEX, INITECH):
        with connection.transaction():
            connection.execute(f"SET LOCAL atlas.tenant_id = {setting}")
            assert page(connection, ACME, matching(tree)) == []


def test_walking_shows_the_transactions_tenant_only(connect: Connect) -> None:
    connection = connect("atlas_query")
    for tree in (Exists("all", ""), Not(equals("all", 1)), AllOf(())):
        assert page(connection, ACME, matching(tree)) == [], "no tenant"
        with connection.transaction():
            connection.execute(f"SET LOCAL atlas.tenant_id = {GLOBEX}")
            assert page(connection, ACME, matching(tree)) == []


@pytest.mark.parametrize("role", ["atlas_ingest", "atlas_hotcache", "atlas_reconciler"])
def test_the_other_services_may_not_find(connect: Connect, role: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        find(connect(role), equals("rare", 300))


POINT_COLUMNS = [
    "tenant_id",
    "attribute_id",
    "entity_id",
    "value_int",
    "value_double",
    "value_time",
    "value_bool",
    "value_decimal",
    "value_text",
    "value_json",
]


def test_the_finder_sees_ids_and_values_and_cannot_log_in(connect: Connect) -> None:
    admin = connect("admin")
    flags = admin.execute(
        "SELECT rolcanlogin, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = 'atlas_finder'"
    ).fetchone()
    assert flags == (False, False, False)
    readable = admin.execute(
        "SELECT c.relname, a.attname"
        " FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid"
        " WHERE c.relnamespace IN ('atlas'::regnamespace, 'staging'::regnamespace)"
        " AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v')"
        " AND has_column_privilege('atlas_finder', c.oid, a.attnum, 'SELECT')"
        " ORDER BY c.relname, a.attnum"
    ).fetchall()
    assert readable == [
        ("entity_jsonb", "tenant_id"),
        ("entity_jsonb", "entity_id"),
        ("entity_jsonb", "attrs"),
    ] + [("entity_values_ts", name) for name in POINT_COLUMNS]
    owned = admin.execute(
        "SELECT p.proname FROM pg_proc AS p JOIN pg_roles AS o ON o.oid = p.proowner"
        " WHERE o.rolname = 'atlas_finder' ORDER BY 1"
    ).fetchall()
    assert owned == [("cold_candidates",), ("find_by_index",), ("next_cold_candidates",)]
    with pytest.raises(errors.InsufficientPrivilege):
        connect("atlas_query").execute("SET ROLE atlas_finder")


def test_a_transaction_that_only_reads_can_find(connect: Connect) -> None:
    connection = connect("atlas_query")
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(f"SET LOCAL atlas.tenant_id = {ACME}")
        assert page(connection, ACME, matching(equals("rare", 300))) == list(range(3000, 3010))
