"""The tenants of a benchmark, their attributes and their entities, made through the platform."""

import asyncio
from collections.abc import Mapping, Sequence

from atlas_bench.errors import BenchError
from atlas_client import AtlasClient, AtlasError, Attribute
from atlas_client import Endpoints as ClientEndpoints
from atlas_devstack.endpoints import Endpoints

_ENTITIES_AT_A_TIME = 10_000
_TIMEOUT_SECONDS = 60.0


def make_catalog(
    endpoints: Endpoints,
    tenants: Mapping[str, Sequence[Attribute]],
    entity_keys: Sequence[str],
) -> list[int]:
    """Make each tenant (by its key) with its attributes and these entities; return their ids.

    Raises BenchError.
    """
    try:
        return asyncio.run(_make(endpoints, tenants, entity_keys))
    except AtlasError as error:
        raise BenchError(f"the catalog could not be made: {error}") from error


async def _make(
    endpoints: Endpoints, tenants: Mapping[str, Sequence[Attribute]], entity_keys: Sequence[str]
) -> list[int]:
    tenant_ids = []
    addresses = ClientEndpoints.from_json(endpoints.to_json())
    async with AtlasClient.connect(addresses, timeout=_TIMEOUT_SECONDS) as client:
        for key, attributes in tenants.items():
            tenant_ids.append((await client.create_tenant(key)).tenant_id)
            own = client.for_tenant(key)
            await own.upsert_attributes(attributes)
            for first in range(0, len(entity_keys), _ENTITIES_AT_A_TIME):
                await own.create_entities(entity_keys[first : first + _ENTITIES_AT_A_TIME])
    return tenant_ids
