"""Reads the catalog through bounded caches."""

import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from typing import Any, TypeVar

import psycopg

from atlas_common import errors
from atlas_common.cache import ReadThrough, TtlCache
from atlas_common.catalog.definitions import AttributeDef, AttributeTable
from atlas_common.db import Database, load_queries, tenant_transaction
from atlas_common.db.connection import ReadConnection
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant
from atlas_common.values import DataType

T = TypeVar("T")
Q = load_queries("atlas_common.catalog")

_TENANTS_MAX = 1_000
_TABLES_BYTES_MAX = 64 * 2**20
_ATTRIBUTES_TTL_SECONDS = 10.0
_MISSING_NAME_REFRESH_SECONDS = 1.0  # Misspelt names must not turn every call into a table read.
_ENTITIES_MAX = 200_000
_ENTITIES_TTL_SECONDS = 3_600.0  # A key never moves to another id; the time only bounds memory.


class _Entities:
    """Keys and ids of entities, remembered both ways."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.ids = TtlCache[tuple[int, str], int](_ENTITIES_MAX, _ENTITIES_TTL_SECONDS, clock)
        self.keys = TtlCache[tuple[int, int], str](_ENTITIES_MAX, _ENTITIES_TTL_SECONDS, clock)

    def put(self, tenant: Tenant, entities: Mapping[str, int]) -> None:
        for key, entity_id in entities.items():
            self.ids.put((tenant.id, key), entity_id)
            self.keys.put((tenant.id, entity_id), key)


class Catalog:
    """Attribute definitions and entity keys, read from the first database that answers.

    What is found is cached: attributes for ten seconds or `attributes_ttl_seconds`, entities for an
    hour. What is not found is asked for again, because a write may have made it a moment ago. While
    no database answers, attributes are believed for longer, but not beyond
    `attributes_age_max_seconds`. `databases` is looked at anew for each question: it may change.
    """

    def __init__(
        self,
        databases: Sequence[Database],
        clock: Callable[[], float] = time.monotonic,
        *,
        attributes_ttl_seconds: float = _ATTRIBUTES_TTL_SECONDS,
        attributes_age_max_seconds: float = math.inf,
    ) -> None:
        self._databases = databases
        self._clock = clock
        self._age_max_seconds = attributes_age_max_seconds
        kept = TtlCache[int, AttributeTable](
            _TENANTS_MAX,
            attributes_ttl_seconds,
            clock,
            weigh=lambda table: table.size_bytes,
            max_weight=_TABLES_BYTES_MAX,
        )
        self._tables = ReadThrough(self._read_attributes, kept)
        # When the last reading began, and when it had ended.
        self._read_times = TtlCache[int, tuple[float, float]](
            _TENANTS_MAX, attributes_ttl_seconds, clock
        )
        self._entities = _Entities(clock)

    async def attributes(self, tenant: Tenant) -> AttributeTable:
        """The tenant's attributes, as old as the time to live; older while no database answers."""
        try:
            table = await self._tables.get(tenant.id)
        except (ServiceError, psycopg.OperationalError):
            known = self._tables.peek(tenant.id)
            if known is None or self._age_seconds(tenant.id) > self._age_max_seconds:
                raise
            return known
        if self._age_seconds(tenant.id) > self._age_max_seconds:  # It was long on its way.
            return await self._tables.read(tenant.id)
        return table

    async def attributes_with(self, tenant: Tenant, names: Set[str]) -> AttributeTable:
        """The tenant's attributes, with a new one of these names within a second."""
        table = await self.attributes(tenant)
        if not names <= table.by_name.keys() and self._may_refresh(tenant):
            table = await self._tables.read(tenant.id)
        return table

    async def find_attributes(
        self, tenant: Tenant, names: Iterable[str]
    ) -> dict[str, AttributeDef]:
        """Name -> definition of those names that exist; a new one is found within a second."""
        wanted = set(names)
        table = await self.attributes_with(tenant, wanted)
        return {name: table.by_name[name] for name in wanted if name in table.by_name}

    async def entity_ids(self, tenant: Tenant, keys: Iterable[str]) -> dict[str, int]:
        """Key -> entity id of those keys that exist."""
        found: dict[str, int] = {}
        missing: list[str] = []
        for key in dict.fromkeys(keys):
            entity_id = self._entities.ids.get((tenant.id, key))
            if entity_id is None:
                missing.append(key)
            else:
                found[key] = entity_id
        if missing:
            kept = self._entities  # Of now: what is found is of this history.
            rows = await self._read(tenant.id, Q["find_entity_ids"], {"keys": missing})
            read = dict(rows)
            kept.put(tenant, read)
            found.update(read)
        return found

    async def entity_keys(self, tenant: Tenant, entity_ids: Iterable[int]) -> dict[int, str]:
        """Entity id -> key of those ids that exist."""
        found: dict[int, str] = {}
        missing: list[int] = []
        for entity_id in dict.fromkeys(entity_ids):
            key = self._entities.keys.get((tenant.id, entity_id))
            if key is None:
                missing.append(entity_id)
            else:
                found[entity_id] = key
        if missing:
            kept = self._entities
            rows = await self._read(tenant.id, Q["find_entity_keys"], {"entity_ids": missing})
            read = dict(rows)
            kept.put(tenant, {key: entity_id for entity_id, key in read.items()})
            found.update(read)
        return found

    def put_entities(self, tenant: Tenant, entities: Mapping[str, int]) -> None:
        """Remember entities that the caller has just made or read, as key -> id."""
        self._entities.put(tenant, entities)

    def seconds_since_read(self, tenant: Tenant) -> float:
        """How long ago the tenant's attributes were read last; 0 if they are not remembered.

        Data whose snapshot was taken since then know every change that the attributes show.
        """
        read_times = self._read_times.peek(tenant.id)
        return 0.0 if read_times is None else max(0.0, self._clock() - read_times[1])

    def drop_attributes(self, tenant: Tenant | int) -> None:
        """Forget the tenant's attributes: they were changed."""
        tenant_id = tenant.id if isinstance(tenant, Tenant) else tenant
        self._tables.drop(tenant_id)
        self._read_times.drop(tenant_id)

    def drop_all_attributes(self) -> None:
        """Forget the attributes of all tenants: the database has another history by now."""
        self._tables.clear()
        self._read_times.clear()

    def forget_all(self) -> None:
        """Forget entities, too: after a failover a number may be given to another key.

        What is being read just now is remembered by nobody.
        """
        self.drop_all_attributes()
        self._entities = _Entities(self._clock)

    def put_attributes(self, tenant: Tenant, attributes: Iterable[AttributeDef]) -> None:
        """Add what the caller has just made, or read after it was made, to what is remembered."""
        table = self._tables.peek(tenant.id)
        if table is None:
            self._tables.drop(tenant.id)  # If it is being read just now, then once more.
        else:
            self._tables.put(tenant.id, table.with_attributes(attributes))

    def _may_refresh(self, tenant: Tenant) -> bool:
        return self._age_seconds(tenant.id) >= _MISSING_NAME_REFRESH_SECONDS

    def _age_seconds(self, tenant_id: int) -> float:
        read_times = self._read_times.peek(tenant_id)
        return math.inf if read_times is None else self._clock() - read_times[0]

    async def _read_attributes(self, tenant_id: int) -> AttributeTable:
        started = self._clock()
        rows = await self._read(tenant_id, Q["list_attributes"], {})
        self._read_times.put(tenant_id, (started, self._clock()))
        return AttributeTable(_attribute(*row) for row in rows)

    async def _read(
        self, tenant_id: int, query: bytes, parameters: dict[str, object]
    ) -> list[tuple[Any, ...]]:
        async def fetch(connection: ReadConnection) -> list[tuple[Any, ...]]:
            cursor = await connection.execute(query, {"tenant_id": tenant_id, **parameters})
            return await cursor.fetchall()

        return await self._first_answer(tenant_id, fetch)

    async def _first_answer(
        self, tenant_id: int, fetch: Callable[[ReadConnection], Awaitable[T]]
    ) -> T:
        *others, last = tuple(self._databases) or (None,)
        for database in others:
            assert database is not None
            try:
                async with tenant_transaction(database, tenant_id, read_only=True) as connection:
                    return await fetch(connection)
            except (ServiceError, psycopg.OperationalError):
                continue  # The next one may answer; the last one's error is the caller's.
        if last is None:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", "no database can be read now", retry_after=0.5
            )
        async with tenant_transaction(last, tenant_id, read_only=True) as connection:
            return await fetch(connection)


def _attribute(
    attribute_id: int, name: str, data_type: str, is_hot: bool, *rules: Any
) -> AttributeDef:
    unit, validation_regex, min_value, max_value, allowed_values, is_indexed = rules
    return AttributeDef(
        attribute_id=attribute_id,
        name=name,
        data_type=DataType(data_type),
        is_hot=is_hot,
        unit=unit,
        validation_regex=validation_regex,
        min_value=min_value,
        max_value=max_value,
        allowed_values=tuple(allowed_values),
        is_indexed=is_indexed,
    )
