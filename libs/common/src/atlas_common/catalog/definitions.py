"""What is known of a tenant's attributes."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from atlas_common.values import DataType


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


class AttributeTable:
    """All attributes of one tenant at one moment, by name and by id."""

    def __init__(self, attributes: Iterable[AttributeDef]) -> None:
        self.by_name = {attribute.name: attribute for attribute in attributes}
        self.by_id = {attribute.attribute_id: attribute for attribute in self.by_name.values()}
