"""Tenants, entities and attributes for tests that work on the database itself."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from atlas_devstack.database import Database
from atlas_devstack.valkey_cluster import ValkeyCluster
from atlas_devstack.waiting import Patience

Connect = Callable[[str], "psycopg.Connection[Any]"]


@pytest.fixture
def connect(fresh_database: Database) -> Iterator[Connect]:
    """connect("atlas_query"): an autocommit connection to this test's own database.

    "admin" has all rights.
    """
    with ExitStack() as cleanup:
        yield connector(fresh_database, cleanup)


def connector(database: Database, cleanup: ExitStack) -> Connect:
    """What makes connections to a database by role, and closes them with `cleanup`."""

    def connect_as(role: str) -> psycopg.Connection[Any]:
        dsn = database.admin_dsn if role == "admin" else database.dsn(role)
        return cleanup.enter_context(psycopg.connect(dsn, autocommit=True))

    return connect_as


@pytest.fixture(scope="session")
def valkey_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """A Valkey cluster. Shared: leave it whole."""
    cluster = ValkeyCluster(tmp_path_factory.mktemp("valkey-cluster"), Patience())
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def two_tenants(connect: Connect) -> tuple[int, int]:
    """Tenants 1 and 2, as `make_two_tenants` makes them, in this test's own database."""
    return make_two_tenants(connect("admin"))


def make_two_tenants(admin: "psycopg.Connection[Any]") -> tuple[int, int]:
    """Tenants 1 (acme) and 2 (globex) with the same entities 1..3 and the same attributes.

    Attributes 1 (pressure, double) and 2 (state, text) are hot, 3 (serial, text) is cold.
    """
    admin.execute("INSERT INTO tenants (tenant_id, key) VALUES (1, 'acme'), (2, 'globex')")
    for tenant_id in (1, 2):
        admin.execute(
            "INSERT INTO entities (tenant_id, entity_id, key)"
            " SELECT %s, n, 'pump-' || n FROM generate_series(1, 3) AS n",
            [tenant_id],
        )
        admin.execute(
            "INSERT INTO attributes (tenant_id, attribute_id, name, data_type, is_hot)"
            " VALUES (%(t)s, 1, 'pressure', 'double', true), (%(t)s, 2, 'state', 'text', true),"
            " (%(t)s, 3, 'serial', 'text', false)",
            {"t": tenant_id},
        )
    return 1, 2
