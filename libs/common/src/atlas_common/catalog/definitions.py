"""What is known of a tenant's attributes."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from atlas_common.values import DataType

_ATTRIBUTE_BYTES = 1_100  # Without its texts, in both tables, with its rule in ingest. Measured.


@dataclass(frozen=True, slots=True)
class AttributeDef:
    """One attribute: its name, its type for life, and what its values must satisfy."""

    attribute_id: int
    name: str
    data_type: DataType
    is_hot: bool
    unit: str = ""
    validation_regex: str = ""
    min_value: Decimal | None = None
    max_value: Decimal | None = None
    allowed_values: tuple[str, ...] = ()
    is_indexed: bool = False
    """Its index is ready: filters may be over it though it is cold."""


class AttributeTable:
    """All attributes of one tenant at one moment, by name and by id. Never changed."""

    def __init__(self, attributes: Iterable[AttributeDef]) -> None:
        self.by_name: Mapping[str, AttributeDef] = {
            attribute.name: attribute for attribute in attributes
        }
        self.by_id: Mapping[int, AttributeDef] = {
            attribute.attribute_id: attribute for attribute in self.by_name.values()
        }

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory, with what is made of each definition once it is used."""
        return sum(map(_size_bytes, self.by_name.values()))

    def with_attributes(self, attributes: Iterable[AttributeDef]) -> "AttributeTable":
        """This table and these attributes, which replace those of their names."""
        added = {attribute.name: attribute for attribute in attributes}
        return AttributeTable({**self.by_name, **added}.values())


def _size_bytes(definition: AttributeDef) -> int:
    texts = (definition.name, definition.unit, definition.validation_regex)
    allowed = definition.allowed_values
    return _ATTRIBUTE_BYTES + sum(map(sys.getsizeof, texts + allowed))
