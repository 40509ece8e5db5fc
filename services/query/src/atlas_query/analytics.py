"""Aggregates by names: to ids, to the warehouse, and back."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from atlas_common import errors
from atlas_common.catalog import AttributeDef, Catalog
from atlas_common.tenant import Tenant
from atlas_query import metrics
from atlas_query.aggregates import AggregateQuery, AggregateRow, WarehouseProof, check_types
from atlas_query.consistency import WarehouseConsistency
from atlas_query.filters import unknown_attribute
from atlas_query.warehouse import Warehouse

NamedRow = tuple[AggregateRow, str, str]


@dataclass(frozen=True, slots=True)
class NamedPart:
    """Rows, each with its entity's key ("" for all together) and its attribute's name."""

    rows: Sequence[NamedRow]
    proof: WarehouseProof | None


class Aggregates:
    """Answers aggregates of one tenant at a time. `warehouse` None: this process has none."""

    def __init__(self, warehouse: Warehouse | None, catalog: Catalog) -> None:
        self._warehouse = warehouse
        self._catalog = catalog

    async def rows(
        self,
        tenant: Tenant,
        query: AggregateQuery,
        keys: Sequence[str],
        names: Iterable[str],
        consistency: WarehouseConsistency,
    ) -> AsyncGenerator[NamedPart, None]:
        """The rows, as the warehouse gives them; no keys: all entities.

        Raises ServiceError: ATTRIBUTE_UNKNOWN, TYPE_MISMATCH, NOT_FOUND / ENTITY_UNKNOWN (an entity
        left out in silence would be a wrong sum), DEPENDENCY_UNAVAILABLE, FRESHNESS_UNMET.
        """
        attributes = await self._attributes(tenant, list(dict.fromkeys(names)))
        check_types(query, attributes.values())
        entity_ids = await self._entity_ids(tenant, keys)
        if self._warehouse is None:
            raise errors.unavailable(
                "DEPENDENCY_UNAVAILABLE", "no warehouse is configured for this service"
            )
        parts = self._warehouse.aggregate(query, entity_ids, list(attributes), consistency)
        async with aclosing(parts):
            async for part in parts:
                found = {row.entity_id for row in part.rows if row.entity_id}
                by_id = await self._catalog.entity_keys(tenant, found) if found else {}
                if part.proof is not None:
                    metrics.served(part.proof.proof)
                yield NamedPart(
                    [
                        (row, by_id.get(row.entity_id, ""), attributes[row.attribute_id].name)
                        for row in part.rows
                    ],
                    part.proof,
                )

    async def _attributes(self, tenant: Tenant, names: Sequence[str]) -> dict[int, AttributeDef]:
        found = await self._catalog.find_attributes(tenant, names)
        for name in names:
            if name not in found:
                raise unknown_attribute(name, "attributes")
        return {found[name].attribute_id: found[name] for name in names}

    async def _entity_ids(self, tenant: Tenant, keys: Sequence[str]) -> list[int]:
        ids = await self._catalog.entity_ids(tenant, keys)
        unknown = [key for key in keys if key not in ids]
        if unknown:
            raise errors.not_found(
                "ENTITY_UNKNOWN",
                f"there is no entity {unknown[0]!r}",
                field="entity_keys",
                entity_key=unknown[0],
                unknown_count=len(unknown),
            )
        return list(dict.fromkeys(ids.values()))
