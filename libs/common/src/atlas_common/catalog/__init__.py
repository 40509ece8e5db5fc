"""The catalog as readers see it: attribute definitions and entity keys, cached."""

from atlas_common.catalog.definitions import AttributeDef, AttributeTable
from atlas_common.catalog.entities import EntityIds
from atlas_common.catalog.reader import Catalog

__all__ = ["AttributeDef", "AttributeTable", "Catalog", "EntityIds"]
