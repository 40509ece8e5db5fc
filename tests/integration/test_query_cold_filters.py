"""Filters over indexed cold attributes find what plain Python finds in the latest points."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar
from atlas_devstack.database import Database, another
from atlas_query.filters import Equals, Filter, Not, Operand

from .cold_rig import Point, add_attributes, cold_match_of, cold_pages, histories, latest, store
from .conftest import make_two_tenants
from .filter_model import ATTRIBUTES, POOLS, filters, matches
from .filter_rig import add_entities, as_query, project

ACME, GLOBEX = 1, 2
OURS, THEIRS = range(101, 113), range(201, 205)
MIXED = {
    name: replace(one, is_hot=name.endswith("_1"), is_indexed=name.endswith("_2"))
    for name, one in ATTRIBUTES.items()
}
"""Of each type one attribute that is hot and one that is cold."""
COLD = {name: one for name, one in MIXED.items() if not one.is_hot}
History = list[tuple[int, Scalar]]


@pytest.fixture(scope="module")
def admin(database: Database) -> Iterator["psycopg.Connection[Any]"]:
    """A database of this module, where both tenants have indexed the same attributes."""
    with another(database) as own, psycopg.connect(own.admin_dsn, autocommit=True) as connection:
        make_two_tenants(connection)
        connection.execute("DELETE FROM entities")
        for tenant_id in (ACME, GLOBEX):
            add_attributes(connection, tenant_id, MIXED)
        add_entities(connection, ACME, OURS)
        add_entities(connection, GLOBEX, [*OURS, *THEIRS])
        yield connection


def points_of(entity_id: int, attribute: AttributeDef, history: History) -> list[Point]:
    return [
        Point(entity_id, attribute, value, second, place)
        for place, (second, value) in enumerate(history)
    ]


def write(
    admin: "psycopg.Connection[Any]",
    hot: dict[int, dict[str, Scalar]],
    cold: dict[int, dict[str, History]],
) -> None:
    """Acme's entities; and globex', of the same ids, with every value there is."""
    project(admin, ACME, hot, MIXED)
    theirs = {
        entity_id: {
            name: POOLS[one.data_type][number % len(POOLS[one.data_type])]
            for name, one in MIXED.items()
        }
        for number, entity_id in enumerate([*OURS, *THEIRS])
    }
    project(admin, GLOBEX, theirs, MIXED)
    store(
        admin,
        GLOBEX,
        [Point(e, MIXED[name], v, 9, 9) for e, all_ in theirs.items() for name, v in all_.items()],
    )
    store(
        admin,
        ACME,
        [
            point
            for entity_id, attributes in cold.items()
            for name, history in attributes.items()
            for point in points_of(entity_id, MIXED[name], history)
        ],
    )


ENTITY = st.tuples(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.sampled_from(POOLS[one.data_type]) for name, one in MIXED.items() if one.is_hot
        },
    ),
    st.fixed_dictionaries({}, optional={name: histories(one) for name, one in COLD.items()}),
)


@pytest.mark.timeout(600)  # Making a failing example smaller takes longer than finding it.
@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ours=st.lists(ENTITY, min_size=1, max_size=8),
    asked=st.lists(filters(), min_size=1, max_size=4),
    size=st.integers(1, 9),
)
def test_filters_mean_of_the_latest_points_what_they_mean_of_hot_values(
    admin: "psycopg.Connection[Any]",
    ours: list[tuple[dict[str, Scalar], dict[str, History]]],
    asked: list[Filter],
    size: int,
) -> None:
    hot = {id_: values for id_, (values, _) in zip(OURS, ours, strict=False)}
    cold = {id_: found for id_, (_, found) in zip(OURS, ours, strict=False)}
    whole = {
        id_: {
            **{name: value for name, value in hot[id_].items() if MIXED[name].is_hot},
            **{name: latest(history) for name, history in cold[id_].items()},
        }
        for id_ in hot
    }
    with admin.transaction(force_rollback=True):
        write(admin, hot, cold)
        with as_query(admin, ACME):
            for tree in asked:
                wanted = [id_ for id_ in OURS if matches(tree, whole.get(id_, {}))]
                assert cold_pages(admin, ACME, cold_match_of(tree, MIXED), size) == wanted


@pytest.mark.parametrize("data_type", DataType)
def test_every_value_is_found_by_its_equals_until_a_newer_point_comes(
    admin: "psycopg.Connection[Any]", data_type: DataType
) -> None:
    name, pool = f"{data_type}_2", POOLS[data_type]
    cold: dict[int, dict[str, History]] = {
        # The next value was before, the one before came late.
        entity_id: {name: [(1, pool[(n + 1) % len(pool)]), (2, pool[n]), (0, pool[n - 1])]}
        for n, entity_id in enumerate(OURS[: len(pool)])
    }
    whole = {id_: {name: latest(one[name])} for id_, one in cold.items()}
    # As a demotion leaves it, until it is removed: nobody may take it for a value.
    leftovers: dict[int, dict[str, Scalar]] = {id_: {name: pool[0]} for id_ in OURS}
    with admin.transaction(force_rollback=True):
        write(admin, leftovers, cold)
        with as_query(admin, ACME):
            for value in pool[: len(OURS)]:
                tree = Equals(name, (Operand(data_type, value, "filter.equals.value"),), "filter")
                wanted = [id_ for id_ in whole if matches(tree, whole[id_])]
                assert wanted
                assert cold_pages(admin, ACME, cold_match_of(tree, MIXED), 100) == wanted
                unlike = [id_ for id_ in OURS if id_ not in wanted]
                assert cold_pages(admin, ACME, cold_match_of(Not(tree), MIXED), 5) == unlike
