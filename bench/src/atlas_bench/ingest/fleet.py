"""Whose telemetry is written, and in which batches: the same ones for whoever is compared."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from atlas_bench.errors import BenchError
from atlas_bench.workload import ATTRIBUTES, Scalar, values_of
from atlas_client import Attribute

PROFILES = 97
"""Different rows of values. Prime, so that an entity meets another one at each of its rounds: the
projection has something to change every time."""
ROUNDS = 2
"""How often the batches of a fleet visit each series, until they are sent again with new times."""


@dataclass(frozen=True)
class Window:
    """A batch: which entities, each with which of the profiles, and which of their attributes."""

    tenant_index: int
    visits: tuple[tuple[int, int], ...]
    """(entity index, profile), in the order of the batch."""
    first_attribute: int
    last_attribute: int
    """Exclusive."""

    @property
    def points(self) -> int:
        """Points in the batch."""
        return len(self.visits) * (self.last_attribute - self.first_attribute)


@dataclass(frozen=True)
class Fleet:
    """Tenants, their entities, and the attributes that each entity has."""

    tenants: int = 20
    entities: int = 500
    """Of each tenant."""
    attribute_sets: int = 5
    """Times the 20 attributes of the workload, a fifth of them hot."""

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        """All attributes of an entity, of mixed types."""
        further = (
            replace(attribute, name=f"unit{number}_{attribute.name}")
            for number in range(1, self.attribute_sets)
            for attribute in ATTRIBUTES
        )
        return (*ATTRIBUTES, *further)

    @property
    def series(self) -> int:
        """Series over all tenants; as many points are written in a round."""
        return self.tenants * self.entities * len(self.attributes)

    @property
    def tenant_keys(self) -> tuple[str, ...]:
        """Keys of the tenants."""
        return tuple(f"bench-{number}" for number in range(1, self.tenants + 1))

    @property
    def entity_keys(self) -> tuple[str, ...]:
        """Keys of the entities, the same in every tenant, all of one length."""
        return tuple(f"pump-{number:05}" for number in range(self.entities))

    def profile(self, number: int) -> list[Scalar]:
        """Return a row of values, one for each attribute: the same at every call."""
        return values_of(self.attributes, number)

    def windows(self, points: int) -> Iterator[Window]:
        """Cut ROUNDS of all series into batches, tenant by tenant in turn.

        Raises BenchError when the points of a batch are neither whole entities nor an equal part
        of one.
        """
        for number in range(self._windows_of_tenant(points)):
            for tenant_index in range(self.tenants):
                yield self.window(tenant_index, number, points)

    def window(self, tenant_index: int, number: int, points: int) -> Window:
        """Return a tenant's n-th batch; beyond the last the first ones come again."""
        number %= self._windows_of_tenant(points)
        width = len(self.attributes)
        if points >= width:
            first, entities = number * (points // width), points // width
            visits = tuple(self._visit(tenant_index, first + each) for each in range(entities))
            return Window(tenant_index, visits, 0, width)
        visit, part = divmod(number, width // points)
        first = part * points
        return Window(tenant_index, (self._visit(tenant_index, visit),), first, first + points)

    def _windows_of_tenant(self, points: int) -> int:
        width = len(self.attributes)
        if points <= 0 or (points % width and width % points):
            raise BenchError(f"a batch of {points} points: want a multiple or a divisor of {width}")
        return max(1, ROUNDS * self.entities * width // points)

    def _visit(self, tenant_index: int, number: int) -> tuple[int, int]:
        return number % self.entities, (number + 7 * tenant_index) % PROFILES
