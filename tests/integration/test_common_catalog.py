"""The cached catalog: right per tenant, soon right after a change, there while a server is away."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack

import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from atlas_common.catalog import Catalog
from atlas_common.config import DatabaseConfig
from atlas_common.db import Database
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_common.testing import FakeClock
from atlas_common.values import DataType
from atlas_devstack.database import Database as Devstack
from atlas_devstack.database import another

from .conftest import Connect, connector, make_two_tenants

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")


@pytest.fixture
def own_database(database: Devstack) -> Iterator[Devstack]:
    with another(database) as own:
        yield own


@pytest.fixture
def connect(own_database: Devstack) -> Iterator[Connect]:
    with ExitStack() as cleanup:
        connect_as = connector(own_database, cleanup)
        make_two_tenants(connect_as("admin"))
        yield connect_as


@pytest.fixture
async def databases(own_database: Devstack, connect: Connect) -> AsyncIterator[list[Database]]:
    """One that cannot be reached, then the real one."""
    dsn = own_database.dsn("atlas_query")
    async with AsyncExitStack() as stack:
        opened = []
        for name, where in (("away", make_conninfo(dsn, port=1)), ("primary", dsn)):
            config = DatabaseConfig(dsn=SecretStr(where), acquire_timeout_seconds=1.0)
            opened.append(await stack.enter_async_context(Database.open(config, name=name)))
        yield opened


async def test_tenants_have_their_own_names_and_keys(
    databases: list[Database], connect: Connect
) -> None:
    admin = connect("admin")
    admin.execute("INSERT INTO entities (tenant_id, entity_id, key) VALUES (2, 77, 'only-globex')")
    admin.execute(
        "INSERT INTO attributes (tenant_id, attribute_id, name, data_type)"
        " VALUES (2, 9, 'x', 'int')"
    )
    catalog = Catalog(databases[1:])
    for _ in range(2):  # The second time from the cache.
        assert await catalog.entity_ids(GLOBEX, ["only-globex", "pump-1"]) == {
            "only-globex": 77,
            "pump-1": 1,
        }
        assert await catalog.entity_ids(ACME, ["only-globex", "pump-1"]) == {"pump-1": 1}
        assert await catalog.entity_keys(ACME, [1, 77]) == {1: "pump-1"}
        assert await catalog.entity_keys(GLOBEX, [77]) == {77: "only-globex"}
        assert (await catalog.find_attributes(GLOBEX, ["x"]))["x"].data_type is DataType.INT
        assert await catalog.find_attributes(ACME, ["x"]) == {}


async def test_a_new_attribute_is_found_within_a_second(
    databases: list[Database], connect: Connect
) -> None:
    clock = FakeClock()
    catalog = Catalog(databases[1:], clock)
    assert await catalog.find_attributes(ACME, ["rpm"]) == {}
    connect("admin").execute(
        "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, min_value,"
        " allowed_values) VALUES (1, 9, 'rpm', 'decimal', 0.5, '{a,b}')"
    )
    # A misspelt name in every call must not read the table in every call.
    assert await catalog.find_attributes(ACME, ["rpm"]) == {}
    clock.advance(1.0)
    rpm = (await catalog.find_attributes(ACME, ["rpm"]))["rpm"]
    assert (rpm.data_type, str(rpm.min_value), rpm.max_value) == (DataType.DECIMAL, "0.5", None)
    assert (rpm.allowed_values, rpm.is_hot) == (("a", "b"), False)


async def test_the_next_database_answers_for_one_that_is_away(databases: list[Database]) -> None:
    catalog = Catalog(databases)
    assert await catalog.entity_ids(ACME, ["pump-2"]) == {"pump-2": 2}


async def test_old_definitions_are_better_than_none(databases: list[Database]) -> None:
    clock = FakeClock()
    away, primary = databases
    catalog = Catalog([primary], clock)
    known = await catalog.attributes(ACME)
    catalog._databases = (away,)
    clock.advance(60.0)
    assert await catalog.attributes(ACME) is known
    with pytest.raises(ServiceError, match=r"UNAVAILABLE|RESOURCE_EXHAUSTED"):
        await catalog.attributes(GLOBEX)


async def test_after_a_failover_numbers_are_looked_up_again(
    connect: Connect, databases: list[Database]
) -> None:
    """A number that was given in a lost tail may be given to another key."""
    catalog = Catalog(databases)
    assert await catalog.entity_ids(ACME, ["pump-1"]) == {"pump-1": 1}
    assert await catalog.entity_keys(ACME, [2]) == {2: "pump-2"}
    admin = connect("admin")
    admin.execute("UPDATE entities SET key = 'other-' || entity_id WHERE tenant_id = 1")
    assert await catalog.entity_ids(ACME, ["pump-1"]) == {"pump-1": 1}
    catalog.forget_all()
    assert await catalog.entity_ids(ACME, ["pump-1", "other-1"]) == {"other-1": 1}
    assert await catalog.entity_keys(ACME, [2]) == {2: "other-2"}
    assert await catalog.entity_ids(GLOBEX, ["pump-1"]) == {"pump-1": 1}


async def test_a_catalog_follows_the_databases_that_there_are(databases: list[Database]) -> None:
    now: list[Database] = []
    catalog = Catalog(now)
    with pytest.raises(ServiceError, match="no database can be read"):
        await catalog.entity_ids(ACME, ["pump-1"])
    now.append(databases[-1])
    assert await catalog.entity_ids(ACME, ["pump-1"]) == {"pump-1": 1}
