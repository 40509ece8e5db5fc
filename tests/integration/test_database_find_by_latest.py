"""find_by_latest() goes through the partial indexes, is bounded, and never shows another tenant."""

from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import errors

from atlas_common.catalog import AttributeDef
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database as Pool
from atlas_common.db import tenant_snapshot
from atlas_common.errors import ServiceError
from atlas_common.values import DataType, Scalar
from atlas_devstack.database import Database, another
from atlas_query import store
from atlas_query.filters import AllOf, AnyOf, Bound, Equals, Exists, Filter, Not, Operand, Range

from .cold_rig import Point, add_attributes, cold_match_of, cold_page, cold_pages
from .cold_rig import store as store_points
from .conftest import Connect, connector, make_two_tenants
from .filter_model import matches
from .filter_rig import add_entities, project
from .partition_rig import make_day
from .plans import Plans, explained

ACME, GLOBEX = 1, 2
ENTITIES = range(1001, 3001)
ROUNDS = 5
ATTRIBUTES = {
    "code": AttributeDef(601, "code", DataType.TEXT, is_hot=False, is_indexed=True),
    "mode": AttributeDef(602, "mode", DataType.INT, is_hot=False, is_indexed=True),
    "level": AttributeDef(603, "level", DataType.INT, is_hot=False, is_indexed=True),
    "rare": AttributeDef(604, "rare", DataType.INT, is_hot=True),
    "half": AttributeDef(605, "half", DataType.INT, is_hot=True),
}
FORMER = 1_000_000
"""What all levels were above once."""


def hot_values(entity_id: int) -> dict[str, Scalar]:
    return {"rare": entity_id // 10, "half": entity_id % 2}


def values(entity_id: int) -> dict[str, Scalar]:
    cold: dict[str, Scalar] = {
        "code": f"s-{entity_id // 10}",
        "mode": entity_id % 2,
        "level": entity_id,
    }
    return hot_values(entity_id) | cold


def points() -> Iterator[Point]:
    """Five rounds of the same; but levels have fallen in the last one."""
    for entity_id in ENTITIES:
        for place in range(ROUNDS):
            for name in ("code", "mode", "level"):
                value = values(entity_id)[name]
                if name == "level" and place < ROUNDS - 1:
                    value = FORMER + entity_id
                yield Point(entity_id, ATTRIBUTES[name], value, place, place)


@pytest.fixture(scope="module")
def own(database: Database) -> Iterator[Database]:
    """A database of this module; globex has the same, but has indexed nothing."""
    with another(database) as own, psycopg.connect(own.admin_dsn, autocommit=True) as admin:
        make_two_tenants(admin)
        add_attributes(admin, ACME, ATTRIBUTES)
        make_day(admin, 20)  # A partition that was made after the indexes.
        for tenant_id in (ACME, GLOBEX):
            add_entities(admin, tenant_id, ENTITIES)
            project(admin, tenant_id, {n: hot_values(n) for n in ENTITIES}, ATTRIBUTES)
            store_points(admin, tenant_id, points())
        # As after a first day: nothing is known of how often values occur in the indexes.
        admin.execute("VACUUM ANALYZE entity_jsonb, entities")
        yield own


@pytest.fixture(scope="module")
def connect(own: Database) -> Iterator[Connect]:
    with ExitStack() as cleanup:
        yield connector(own, cleanup)


def equals(name: str, *wanted: Scalar) -> Equals:
    data_type = ATTRIBUTES[name].data_type
    operands = tuple(Operand(data_type, value, "filter.value") for value in wanted)
    return Equals(name, operands, "filter")


def at_least(name: str, value: int) -> Range:
    return Range(name, Bound(Operand(DataType.INT, value, "filter.min"), True), None, "filter")


def planned(own: Database, tree: Filter, **where: int) -> tuple[list[int], Plans]:
    with (
        explained(own.admin_dsn, "atlas_query") as (connection, plans),
        connection.transaction(),
    ):
        connection.execute(f"SET LOCAL atlas.tenant_id = {ACME}")
        found = cold_page(connection, ACME, cold_match_of(tree, ATTRIBUTES), **where)
    assert "Seq Scan" not in plans.kinds
    return found, plans


def points_read(plans: Plans) -> int:
    names = {node.get("Relation Name", "") for node in plans.nodes}
    return sum(plans.rows_read(name) for name in names if name.startswith("entity_values_ts_"))


def all_parts(plans: Plans, attribute_id: int) -> set[str]:
    """The partitions whose index of an attribute was asked."""
    prefix = f"cold_{ACME}_{attribute_id}_"
    return {name.removeprefix(prefix) for name in plans.indexes if name.startswith(prefix)}


@pytest.mark.parametrize(
    "tree",
    [
        equals("code", "s-150"),
        AllOf((equals("half", 1), equals("code", "s-150"))),
        AllOf((equals("mode", 1), equals("code", "s-150", "s-151", "none"))),
        AllOf((at_least("level", 0), equals("code", "s-150"), Not(equals("mode", 1)))),
        AnyOf((equals("code", "s-150"), equals("rare", 200))),
        AllOf((Not(equals("mode", 1)), equals("rare", 150))),
        equals("code", "none"),
    ],
)
def test_few_candidates_come_from_the_indexes(
    own: Database, connect: Connect, tree: Filter
) -> None:
    found, plans = planned(own, tree)
    assert found == [n for n in ENTITIES if matches(tree, values(n))]
    # Where the cold values narrow, each partition's index is asked, the new one's too.
    partitions = connect("admin").execute("SELECT name FROM partitions_of('entity_values_ts')")
    parts = {name.removeprefix("entity_values_ts_") for (name,) in partitions}
    assert all_parts(plans, 601) in ({*parts}, set())
    assert all_parts(plans, 601) or "entity_jsonb_attrs" in plans.indexes
    assert points_read(plans) <= 5_000  # Of 60,000; a way that finds too many is given up.
    assert plans.rows_read("entities") <= 200, "nobody walks"


def test_of_a_common_value_the_candidates_are_gone_through_one_by_one(own: Database) -> None:
    for after in (1000, 2500):
        found, plans = planned(own, equals("mode", 1), after=after)
        assert found == [n for n in ENTITIES if n > after and n % 2][:100]
        assert "Recursive Union" in plans.kinds  # 5,000 points: too many candidates at once.
        assert all_parts(plans, 602)
        # The bound on candidates, and a few look-ups of each on the page.
        assert points_read(plans) <= 4001 + 200 * 10


def test_of_a_common_range_the_page_is_filled_walking(own: Database) -> None:
    found, plans = planned(own, at_least("level", 0))
    assert found == list(ENTITIES[:100])
    assert points_read(plans) <= 4001 + 202 * 10


def test_what_many_were_and_few_are_is_found_in_the_end(own: Database) -> None:
    found, _ = planned(own, at_least("level", 2990))
    assert found == list(range(2990, 3001))
    assert planned(own, at_least("level", FORMER))[0] == []


@pytest.mark.parametrize(
    "tree",
    [
        equals("mode", 1),
        at_least("level", 0),
        Exists("code", ""),
        Not(equals("code", "s-150")),
        AllOf((Exists("mode", ""), equals("half", 1))),
    ],
)
def test_pages_are_the_whole_each_entity_once(connect: Connect, tree: Filter) -> None:
    connection = connect("atlas_query")
    with connection.transaction():
        connection.execute(f"SET LOCAL atlas.tenant_id = {ACME}")
        found = cold_pages(connection, ACME, cold_match_of(tree, ATTRIBUTES), 999)
    # Entities 1 to 3 have no values at all.
    empty = [n for n in (1, 2, 3) if matches(tree, {})]
    assert found == empty + [n for n in ENTITIES if matches(tree, values(n))]


def test_a_text_longer_than_an_index_takes_is_stored_and_found(connect: Connect) -> None:
    admin = connect("admin")
    texts = [f"{'a' * 200}{chr(97 + n % 23)}{n}" + "b" * 20_000 for n in (1, 2)]
    with admin.transaction(force_rollback=True):
        late = [Point(n, ATTRIBUTES["code"], texts[n - 1], 9, 9) for n in (1, 2)]
        store_points(admin, ACME, late)
        admin.execute("SET LOCAL ROLE atlas_query")
        admin.execute(f"SET LOCAL atlas.tenant_id = {ACME}")
        for n in (1, 2):
            match = cold_match_of(equals("code", texts[n - 1]), ATTRIBUTES)
            assert cold_page(admin, ACME, match) == [n]


ASKS = [
    'SELECT cold_candidates(%s, \'[{"attribute": 601, "type": "text", "in": ["s-150"]}]\', 0, 9)',
    'SELECT next_cold_candidates(%s, \'[{"attribute": 601, "type": "text", "in": ["s-150"]}]\', 0,'
    " 9)",
]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("setting", [None, "", "2", "3"])
def test_indexes_are_asked_for_the_transactions_tenant_only(
    connect: Connect, ask: str, setting: str | None
) -> None:
    connection = connect("atlas_query")
    with connection.transaction(force_rollback=True):
        if setting is not None:
            connection.execute(f"SET LOCAL atlas.tenant_id = '{setting}'")
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(ask, [ACME])


@pytest.mark.parametrize("role", ["atlas_ingest", "atlas_hotcache", "atlas_reconciler"])
def test_the_other_services_may_not_ask(connect: Connect, role: str) -> None:
    for ask in ASKS:
        with pytest.raises(errors.InsufficientPrivilege):
            connect(role).execute(ask, [ACME])


@pytest.mark.parametrize(
    "alternative",
    [
        '{"attribute": "601 OR true", "type": "text"}',
        '{"attribute": 601, "type": "int) OR true --", "in": ["1"]}',
        '{"attribute": 601, "type": "int", "in": ["1) OR true --"]}',
        '{"attribute": 601, "type": "time", "from": "\' OR true --"}',
        '{"attribute": 601, "type": "json", "to": "}"}',
    ],
)
def test_what_is_no_value_does_not_become_sql(connect: Connect, alternative: str) -> None:
    connection = connect("atlas_query")
    with connection.transaction(force_rollback=True):
        connection.execute(f"SET LOCAL atlas.tenant_id = {ACME}")
        with pytest.raises((errors.DataError, errors.CaseNotFound)):
            connection.execute("SELECT cold_candidates(1, %s::jsonb, 0, 9)", [f"[{alternative}]"])


def test_quotes_and_backslashes_stay_values(connect: Connect) -> None:
    connection = connect("atlas_query")
    with connection.transaction():
        connection.execute(f"SET LOCAL atlas.tenant_id = {ACME}")
        for text in ("'", "\\", "\\' OR true --", '"', "$$"):
            match = cold_match_of(equals("code", text), ATTRIBUTES)
            assert cold_page(connection, ACME, match) == []


def test_another_tenants_entities_are_never_candidates(connect: Connect) -> None:
    connection = connect("atlas_query")
    match = cold_match_of(equals("code", "s-150"), ATTRIBUTES)
    with connection.transaction():
        connection.execute(f"SET LOCAL atlas.tenant_id = {GLOBEX}")
        rows = connection.execute(
            store.Q["find_by_latest"],
            {
                "tenant_id": GLOBEX,
                "attribute_ids": [601],
                "after": 0,
                "page_size": 100,
                **store.match_arguments(match),
            },
        ).fetchall()
    assert rows == [(None, "601")], "not indexed: named, and nothing is looked for"


async def test_what_takes_too_long_ends_with_a_way_out(own: Database) -> None:
    config = DatabaseConfig.model_validate({"dsn": own.dsn("atlas_query")})
    match = cold_match_of(Not(Exists("code", "")), ATTRIBUTES)
    async with Pool.open(config, name="primary") as pool:
        for _ in range(2):  # The connection is as good as before.
            with pytest.raises(ServiceError) as caught:
                async with tenant_snapshot(pool, ACME) as snapshot:
                    await store.find_entities(
                        snapshot.connection,
                        ACME,
                        match,
                        [601],
                        after=3,
                        page_size=100,
                        cold_seconds_max=0.005,
                    )
            assert (caught.value.code.name, caught.value.field) == ("DEADLINE_EXCEEDED", "filter")
            assert "promote" in caught.value.message
