"""What is read: values of attributes at event times, of entities. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar


class Reading(NamedTuple):
    """One point of an entity; a tuple, because there are many."""

    attribute: str
    data_type: DataType
    value: Scalar
    event_us: int
    quality: int


class EntityReadings(NamedTuple):
    """The readings of an entity, ordered by attribute name."""

    entity_id: int
    key: str
    readings: list[Reading]


@dataclass(frozen=True, slots=True)
class Mask:
    """Which attributes a read shows: those named, or all hot ones, or all."""

    named: tuple[AttributeDef, ...] | None
    is_all: bool = False

    @property
    def is_hot_only(self) -> bool:
        """Whether the projection alone can answer."""
        if self.named is None:
            return not self.is_all
        return all(attribute.is_hot for attribute in self.named)

    @property
    def attribute_ids(self) -> list[int] | None:
        """The ids of the attributes named; None: no choice is made by name."""
        if self.named is None:
            return None
        return [attribute.attribute_id for attribute in self.named]

    @property
    def names(self) -> list[str]:
        """The names of the attributes named; none: no choice is made by name."""
        return [attribute.name for attribute in self.named or ()]


def by_entity(
    entities: Iterable[tuple[int, str]], readings: Mapping[int, Sequence[Reading]]
) -> list[EntityReadings]:
    """Each entity (id, key) with its readings, sorted by name; with none if it has none."""
    return [
        EntityReadings(entity_id, key, sorted(readings.get(entity_id, ())))
        for entity_id, key in entities
    ]
