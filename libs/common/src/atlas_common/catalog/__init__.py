"""The catalog as readers see it: attribute definitions and entity keys, cached."""

from atlas_common.catalog.definitions import AttributeDef, AttributeTable
from atlas_common.catalog.entities import EntityIds
from atlas_common.catalog.hot_size import HOT_BYTES_MAX, hot_bytes
from atlas_common.catalog.reader import Catalog

__all__ = [
    "HOT_BYTES_MAX",
    "AttributeDef",
    "AttributeTable",
    "Catalog",
    "EntityIds",
    "hot_bytes",
]
