"""A client of a platform in this process."""

from collections.abc import AsyncIterator

import pytest

from atlas_client import AtlasClient, Endpoints

from .client_rig import Platform, serving


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
async def client(platform: Platform) -> AsyncIterator[AtlasClient]:
    async with serving(platform) as port:
        target = f"127.0.0.1:{port}"
        endpoints = Endpoints(ingest=target, query=target)
        async with AtlasClient.connect(endpoints, tenant="acme") as client:
            yield client
