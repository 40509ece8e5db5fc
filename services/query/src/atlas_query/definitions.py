"""What is read by id gets its name and type."""

from collections.abc import Mapping, Set

from atlas_common import errors
from atlas_common.catalog import AttributeDef, Catalog
from atlas_common.tenant import Tenant


async def definitions(
    catalog: Catalog, tenant: Tenant, ids: Set[int]
) -> Mapping[int, AttributeDef]:
    """Definitions by id, at least of these: one made a moment ago is looked up."""
    table = await catalog.attributes(tenant)
    if not ids <= table.by_id.keys():
        catalog.drop_attributes(tenant)
        table = await catalog.attributes(tenant)
    if not ids <= table.by_id.keys():
        raise errors.unavailable(
            "DEPENDENCY_UNAVAILABLE",
            "the catalog does not know yet what the data name: ask again",
            retry_after=0.5,
        )
    return table.by_id
