"""Names to numbers: entity keys and attribute names of a batch, missing ones made set by set."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence, Set
from weakref import WeakKeyDictionary

from atlas_common.cache import ReadThrough, TtlCache
from atlas_common.catalog import AttributeDef, AttributeTable, Catalog, EntityIds
from atlas_common.db import Database
from atlas_common.metering import QuotaMeters, exceeded_count
from atlas_common.tenant import Tenant
from atlas_common.values import DataType
from atlas_ingest.catalog.merging import MergedCalls
from atlas_ingest.catalog.tenants import TenantSettings
from atlas_ingest.rules import Rule, rule_of
from atlas_ingest.store import AttributeRow, EntityColumns, Store

# Changes are told (see watch.py): the time is for when that fails without a word.
_TTL_SECONDS = 60.0
_SETTINGS_MAX = 10_000
_ENTITIES_BYTES_MAX = 64 * 2**20
_ENTITIES_AT_ONCE_MAX = 5_000
_ATTRIBUTES_AT_ONCE_MAX = 10_000
_QUESTIONS_AT_ONCE_MAX = 3  # Of the pool's connections: the others are for everything else.


class Resolver:
    """The catalog, cached."""

    def __init__(
        self,
        primary: Database,
        store: Store,
        *,
        meters: QuotaMeters,
        entities_bytes_max: int = _ENTITIES_BYTES_MAX,
    ) -> None:
        self._primary = primary
        self._store = store
        self._meters = meters
        self._entities_bytes_max = entities_bytes_max
        self._at_once = asyncio.Semaphore(_QUESTIONS_AT_ONCE_MAX)
        self._known = self._nothing()

    def _nothing(self) -> "_Known":
        return _Known(
            self._primary,
            self._store,
            meters=self._meters,
            entities_bytes_max=self._entities_bytes_max,
            at_once=self._at_once,
        )

    def forget_all(self) -> None:
        """Trust nothing remembered: after a failover, what was made last may be gone.

        Its number may even go to another key, so a point stored under it would be another's. What
        is being asked just now is not joined by later calls either.
        """
        self._known = self._nothing()

    def forget_tenant(self, tenant_id: int) -> None:
        """Read the tenant's attributes and settings anew: they were changed."""
        self._known.catalog.drop_attributes(tenant_id)
        self._known.settings.drop(tenant_id)

    async def settings(self, tenant: Tenant) -> TenantSettings:
        """What of the tenant decides about its writes."""
        return await self._known.settings.get(tenant.id)

    async def attributes(self, tenant: Tenant, names: Iterable[str]) -> dict[str, AttributeDef]:
        """Name -> definition of those names that exist."""
        return await self._known.catalog.find_attributes(tenant, names)

    async def rules(self, tenant: Tenant, names: Set[str]) -> dict[str, Rule]:
        """Name -> rule of those names that exist; made once per definition."""
        known = self._known
        table = await known.catalog.attributes_with(tenant, names)
        rules = known.rules.setdefault(table, {})
        missing = [name for name in names if name not in rules and name in table.by_name]
        rules.update({name: rule_of(table.by_name[name]) for name in missing})
        return {name: rules[name] for name in names if name in rules}

    async def registers_unknown_attributes(self, tenant: Tenant) -> bool:
        """The tenant's policy."""
        return (await self.settings(tenant)).registers_unknown_attributes

    async def register(
        self, tenant: Tenant, types: Mapping[str, DataType]
    ) -> dict[str, AttributeDef]:
        """Name -> definition, missing ones made; fewer if the tenant's catalog is full."""
        made = await self._known.registering.get(tenant, types.items())
        return {name: definition for (name, _), definition in made.items() if definition}

    async def entity_ids(self, tenant: Tenant, keys: Iterable[str]) -> dict[str, int]:
        """Key -> id of all these keys, missing ones made.

        Raises ServiceError RESOURCE_EXHAUSTED / QUOTA_EXCEEDED.
        """
        known = self._known  # The same throughout, whatever is forgotten meanwhile.
        ids, missing = known.entities.find(tenant.id, keys if isinstance(keys, Set) else set(keys))
        if missing:
            for key, entity_id in (await known.making.get(tenant, missing)).items():
                if entity_id is None:
                    raise exceeded_count(tenant, "entities", self._meters.entities(tenant))
                ids[key] = entity_id
        return ids

    def remember_entities(self, tenant: Tenant, entities: EntityColumns) -> None:
        """Take note of entities that a catalog call made or read."""
        self._known.entities.put(tenant.id, _ids(entities))

    def remember_attributes(self, tenant: Tenant, rows: Sequence[AttributeRow]) -> None:
        """Take note of attributes that a catalog call made or changed."""
        self._known.catalog.put_attributes(tenant, [row.definition() for row in rows])


class _Known:
    """What is known of the catalog since everything was forgotten, and what is being asked."""

    def __init__(
        self,
        primary: Database,
        store: Store,
        *,
        meters: QuotaMeters,
        entities_bytes_max: int,
        at_once: asyncio.Semaphore,
    ) -> None:
        self._store = store
        self._meters = meters
        self.catalog = Catalog([primary], attributes_ttl_seconds=_TTL_SECONDS)
        self.rules: WeakKeyDictionary[AttributeTable, dict[str, Rule]] = WeakKeyDictionary()
        self.settings: ReadThrough[int, TenantSettings] = ReadThrough(
            store.tenant_settings, TtlCache(_SETTINGS_MAX, _TTL_SECONDS)
        )
        self.entities = EntityIds(entities_bytes_max)
        self.making: MergedCalls[str, int | None] = MergedCalls(
            self._make, items_max=_ENTITIES_AT_ONCE_MAX, at_once=at_once
        )
        self.registering: MergedCalls[tuple[str, DataType], AttributeDef | None] = MergedCalls(
            self._register, items_max=_ATTRIBUTES_AT_ONCE_MAX, at_once=at_once
        )

    async def _make(self, tenant: Tenant, keys: list[str]) -> dict[str, int | None]:
        entities_max = self._meters.entities(tenant)
        ids = _ids(await self._store.create_entities(tenant, keys, entities_max))
        self.entities.put(tenant.id, ids)
        return {key: ids.get(key) for key in keys}

    async def _register(
        self, tenant: Tenant, wanted: list[tuple[str, DataType]]
    ) -> dict[tuple[str, DataType], AttributeDef | None]:
        # Two calls may bring one name with two types: one of them is made, the other's points are
        # refused by it.
        attributes_max = self._meters.attributes(tenant)
        rows = await self._store.register_attributes(tenant, dict(wanted), attributes_max)
        definitions = {row.name: row.definition() for row in rows}
        self.catalog.put_attributes(tenant, definitions.values())
        return {item: definitions.get(item[0]) for item in wanted}


def _ids(entities: EntityColumns) -> dict[str, int]:
    return dict(zip(entities.keys, entities.entity_ids, strict=True))
