"""One fortress for all attacks."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from atlas_client import Attribute, DataType
from atlas_devstack.servers import ServerOptions

from .fortress import Fortress, fortress
from .siege import Siege, siege

TENANTS = ("acme", "globex")


@pytest.fixture(scope="session")
def held(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Fortress]:
    """The platform, with two tenants that have an attribute each."""
    postgres = replace(server_options.postgres, replicas=0)
    servers = replace(server_options, postgres=postgres, replica_dsns=())
    with fortress(tmp_path_factory.mktemp("fortress"), servers) as held:
        asyncio.run(_set_up(held))
        yield held


async def _set_up(held: Fortress) -> None:
    async with held.client(held.token(scopes=["platform.admin"])) as operator:
        for tenant in TENANTS:
            await operator.create_tenant(tenant)
    for tenant in TENANTS:
        async with held.client(held.token(tenant, ["catalog.admin"])) as admin:
            await admin.upsert_attributes([Attribute("rpm", DataType.INT, hot=True)])


@pytest.fixture(scope="session")
def besieged(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Siege]:
    """A platform that believes everybody, with an attacker and another tenant."""
    with siege(tmp_path_factory.mktemp("siege"), server_options) as besieged:
        yield besieged
