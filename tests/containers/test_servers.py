"""The platform on servers from a container engine instead of the embedded ones."""

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
import redis

from atlas_client import AtlasClient, Attribute, DataType, Endpoints, Point, strong
from atlas_devstack.pytest_plugin import StartStack
from atlas_devstack.servers import ServerOptions
from atlas_devstack.stack import Stack
from tests.integration.conftest import connector, make_two_tenants
from tests.integration.lane_writer import LaneWriter, RawPoint

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("server_images")]

CONTAINERS = ServerOptions(containers=True)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def servers(start_stack: StartStack) -> Stack:
    """Postgres and Valkey in containers, migrated, without services."""
    return start_stack(services=(), servers=CONTAINERS)


def test_postgres_can_feed_the_warehouse_and_valkey_asks_for_its_password(servers: Stack) -> None:
    with psycopg.connect(servers.database.dsn("atlas_reconciler")) as connection:
        assert connection.execute("SHOW wal_level").fetchone() == ("logical",)
        (version,) = connection.execute("SHOW server_version_num").fetchone() or ("0",)
        assert int(version) // 10_000 == 18
    url = servers.endpoints.valkey
    assert url is not None
    with redis.Redis.from_url(url) as cache:
        assert cache.ping()
    without_password = f"redis://{url.rpartition('@')[2]}"
    with (
        redis.Redis.from_url(without_password) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_points_of_two_tenants_are_flushed_and_each_sees_its_own(servers: Stack) -> None:
    with ExitStack() as cleanup:
        connect = connector(servers.database, cleanup)
        acme, globex = make_two_tenants(connect("admin"))
        lane = LaneWriter(connect("atlas_ingest"))
        lane.stage([RawPoint(acme, 1, 1, NOON, 1.5), RawPoint(globex, 1, 1, NOON, 2.5)])
        flushed = lane.flush()
        assert flushed.point_count == 2
        assert [change[:2] for change in flushed.changed] == [(acme, 1), (globex, 1)]
        reader = connect("atlas_query")
        for tenant, value in ((acme, 1.5), (globex, 2.5)):
            with reader.transaction():
                reader.execute(f"SET LOCAL atlas.tenant_id = {tenant}")
                rows = reader.execute("SELECT value_double FROM entity_values_ts").fetchall()
                assert rows == [(value,)]
                hot = reader.execute("SELECT attrs ->> '1' FROM entity_jsonb").fetchall()
                assert hot == [(str(value),)]


async def test_the_services_run_on_them(start_stack: StartStack, tmp_path: Path) -> None:
    stack = start_stack(servers=CONTAINERS, tenants=("acme", "globex"))
    endpoints = Endpoints.from_json(stack.endpoints.to_json())
    async with AtlasClient.connect(endpoints) as client:
        for tenant, speed in (("acme", 1480), ("globex", 990)):
            own = client.for_tenant(tenant)
            await own.upsert_attributes([Attribute("speed", DataType.INT, hot=True)])
            await own.create_entities(["pump-1"])
            await own.write([Point("pump-1", "speed", speed, datetime.now(UTC))])
        for tenant, speed in (("acme", 1480), ("globex", 990)):
            found = await client.for_tenant(tenant).get_entities(["pump-1"], consistency=strong())
            assert found["pump-1"].values == {"speed": speed}
