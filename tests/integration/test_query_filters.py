"""Filters find the entities that plain Python finds, whatever the values, and only the tenant's."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_common.values import DataType, Scalar
from atlas_devstack.database import Database, another
from atlas_query.filters import Equals, Filter, Not, Operand

from .conftest import make_two_tenants
from .filter_model import ATTRIBUTES, POOLS, filters, matches, values
from .filter_rig import add_entities, as_query, indexed, match_of, page, pages, project

ACME, GLOBEX = 1, 2
OURS, THEIRS = range(101, 121), range(201, 209)


@pytest.fixture(scope="module")
def admin(database: Database) -> Iterator["psycopg.Connection[Any]"]:
    """A database of this module with two tenants, whose projections each example writes anew."""
    with another(database) as own, psycopg.connect(own.admin_dsn, autocommit=True) as connection:
        make_two_tenants(connection)
        connection.execute("DELETE FROM entities")
        add_entities(connection, ACME, OURS)
        # The other tenant has the same entities, and more; its attributes are of the same numbers.
        add_entities(connection, GLOBEX, [*OURS, *THEIRS])
        yield connection


def their_entities() -> dict[int, dict[str, Scalar]]:
    """Entities of the other tenant that hold every value there is."""
    return {
        entity_id: {
            name: POOLS[attribute.data_type][number % len(POOLS[attribute.data_type])]
            for name, attribute in ATTRIBUTES.items()
        }
        for number, entity_id in enumerate([*OURS, *THEIRS])
    }


@pytest.mark.timeout(600)  # Making a failing example smaller takes longer than finding it.
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ours=st.lists(values(), min_size=1, max_size=8),
    asked=st.lists(filters(), min_size=1, max_size=4),
    size=st.integers(1, 9),
)
def test_filters_mean_what_the_contract_says(
    admin: "psycopg.Connection[Any]",
    ours: list[dict[str, Scalar]],
    asked: list[Filter],
    size: int,
) -> None:
    entities = dict(zip(OURS, ours, strict=False))
    with admin.transaction(force_rollback=True):
        project(admin, ACME, entities, ATTRIBUTES)
        project(admin, GLOBEX, their_entities(), ATTRIBUTES)
        with as_query(admin, ACME):
            for tree in asked:
                wanted = [id_ for id_ in OURS if matches(tree, entities.get(id_, {}))]
                match = match_of(tree, ATTRIBUTES)
                assert pages(admin, ACME, match, size) == wanted
                # So few are found walking. What narrows must not leave anything out, either.
                if match.narrowing is not None:
                    assert indexed(admin, ACME, match) == wanted


@pytest.mark.parametrize("data_type", DataType)
def test_every_value_is_found_by_its_equals_and_by_no_other(
    admin: "psycopg.Connection[Any]", data_type: DataType
) -> None:
    name, pool = f"{data_type}_1", POOLS[data_type]
    entities: dict[int, dict[str, Scalar]] = {
        entity_id: {name: value} for entity_id, value in zip(OURS, pool, strict=False)
    }
    with admin.transaction(force_rollback=True):
        project(admin, ACME, entities, ATTRIBUTES)
        project(admin, GLOBEX, their_entities(), ATTRIBUTES)
        with as_query(admin, ACME):
            for value in pool:
                tree = Equals(name, (Operand(data_type, value, "filter.equals.value"),), "filter")
                wanted = [id_ for id_ in entities if matches(tree, entities[id_])]
                assert wanted
                match = match_of(tree, ATTRIBUTES)
                assert page(admin, ACME, match) == wanted
                if match.narrowing is not None:
                    assert indexed(admin, ACME, match) == wanted
                unlike = [id_ for id_ in OURS if id_ not in wanted]
                assert page(admin, ACME, match_of(Not(tree), ATTRIBUTES)) == unlike
