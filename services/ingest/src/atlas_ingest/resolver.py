"""Names to numbers: entity keys and attribute names of a batch, missing ones made set by set."""

from collections.abc import Iterable, Mapping

from atlas_common.cache import TtlCache
from atlas_common.catalog import AttributeDef, Catalog
from atlas_common.db import Database
from atlas_common.tenant import Tenant
from atlas_common.values import DataType
from atlas_ingest.store import AttributeRow, EntityRow, Store

_POLICY_TTL_SECONDS = 30.0
_POLICIES_MAX = 10_000


class Resolver:
    """The catalog, cached."""

    def __init__(self, primary: Database, store: Store, *, attributes_max: int) -> None:
        self._primary = primary
        self._store = store
        self._attributes_max = attributes_max
        self._catalog = Catalog([primary])
        self._policies: TtlCache[int, bool] = TtlCache(_POLICIES_MAX, _POLICY_TTL_SECONDS)

    def forget_all(self) -> None:
        """Trust nothing remembered: after a failover, what was made last may be gone.

        Its number may even go to another key, so a point stored under it would be another's.
        """
        self._catalog = Catalog([self._primary])
        self._policies.clear()

    def forget_attributes(self, tenant: Tenant) -> None:
        """Read the tenant's attributes anew: they were changed."""
        self._catalog.drop_attributes(tenant)

    async def attributes(self, tenant: Tenant, names: Iterable[str]) -> dict[str, AttributeDef]:
        """Name -> definition of those names that exist."""
        return await self._catalog.find_attributes(tenant, names)

    async def registers_unknown_attributes(self, tenant: Tenant) -> bool:
        """The tenant's policy, at most half a minute old."""
        policy = self._policies.get(tenant.id)
        if policy is None:
            policy = await self._store.registers_unknown_attributes(tenant)
            self._policies.put(tenant.id, policy)
        return policy

    async def register(
        self, tenant: Tenant, types: Mapping[str, DataType]
    ) -> dict[str, AttributeDef]:
        """Name -> definition, missing ones made; fewer if the tenant's catalog is full."""
        rows: list[AttributeRow] = await self._store.register_attributes(
            tenant, dict(types), self._attributes_max
        )
        self._catalog.drop_attributes(tenant)
        return {row.name: row.definition() for row in rows}

    async def entity_ids(self, tenant: Tenant, keys: Iterable[str]) -> dict[str, int]:
        """Key -> id of all these keys, missing ones made."""
        wanted = set(keys)
        catalog = self._catalog  # The same one throughout, whatever is forgotten meanwhile.
        ids = await catalog.entity_ids(tenant, wanted)
        missing = sorted(wanted - ids.keys())
        if missing:
            rows, _ = await self._store.create_entities(tenant, missing)
            made = {row.key: row.entity_id for row in rows}
            catalog.put_entities(tenant, made)
            ids.update(made)
        return ids

    def remember_entities(self, tenant: Tenant, rows: Iterable[EntityRow]) -> None:
        """Take note of entities that a catalog call made or read."""
        self._catalog.put_entities(tenant, {row.key: row.entity_id for row in rows})
