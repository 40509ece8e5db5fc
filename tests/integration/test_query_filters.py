"""Filters find the entities that plain Python finds, whatever the values, and only the tenant's."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas_common.values import Scalar
from atlas_devstack.database import Database, another
from atlas_query.filters import Filter

from .conftest import make_two_tenants
from .filter_model import ATTRIBUTES, POOLS, filters, matches, values
from .filter_rig import add_entities, as_query, match_of, page, pages, project

ACME, GLOBEX = 1, 2
OURS, THEIRS = range(101, 109), range(201, 209)


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


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ours=st.lists(values(), min_size=1, max_size=len(OURS)),
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
                # The same, walking: what narrows must not leave anything out.
                walked = dataclasses.replace(
                    match, condition=match.condition or match.narrowing, narrowing=None
                )
                assert page(admin, ACME, walked) == wanted
