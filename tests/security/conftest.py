"""One fortress for all attacks."""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from atlas_client import Attribute, DataType
from atlas_devstack.servers import ServerOptions
from atlas_devstack.waiting import Patience

from .fortress import Fortress, fortress
from .keepers import AwsKeeper, FileKeeper, Keeper, Keepers, VaultKeeper
from .openbao import OpenBao
from .siege import Siege, siege

TENANTS = ("acme", "globex")


@pytest.fixture(scope="session")
def held(
    tmp_path_factory: pytest.TempPathFactory, server_options: ServerOptions
) -> Iterator[Fortress]:
    """The platform, with a topic, and two tenants that have an attribute each."""
    postgres = replace(server_options.postgres, replicas=0)
    servers = replace(server_options, postgres=postgres, replica_dsns=(), kafka=True)
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


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A Vault. Shared: use paths of your own."""
    bao = OpenBao(tmp_path_factory.mktemp("openbao"), Patience(60.0))
    bao.start()
    try:
        yield bao
    finally:
        bao.stop()


@pytest.fixture
def keepers(request: pytest.FixtureRequest, tmp_path: Path) -> Keepers:
    """Keepers of a secret each, by kind; only what is asked for is started."""

    def keeper(kind: str) -> Keeper:
        name = f"secret-{secrets.token_hex(4)}"
        match kind:
            case "vault":
                return VaultKeeper(request.getfixturevalue("bao"), tmp_path, name)
            case "aws":
                request.getfixturevalue("aws_credentials")
                return AwsKeeper(request.getfixturevalue("aws"), name)
            case _:
                return FileKeeper(tmp_path / name)

    return keeper
