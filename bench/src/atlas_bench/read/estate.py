"""What is stored before anything is read: whose, how much, and which value where.

Every value follows from the numbers of its tenant, entity and attribute, so that an answer can be
checked without keeping what was written.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from atlas_bench.errors import BenchError
from atlas_bench.read.values import RAW_VALUES, STATUSES, TYPES, TextSet, Values, tier_names
from atlas_client import Attribute, DataType

MEASURED, NEIGHBOUR = 0, 1
"""The numbers of the two tenants."""
STATUS, TIER = 0, 1
"""The numbers of the attributes that are filtered by."""
MATCHING = 100
"""Entities of each (status, tier)."""
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
PAST_STEP_US = 9 * HOUR_US
"""From one of the earlier points of status and tier to the next."""
# Primes that divide no number of entities we allow: each walks through all of them once.
STRIDES = (48_271, 69_621)
OFFSETS = (11, 12)

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """Points that are written together: entity, attribute and event time of each."""

    tenant: int
    entities: Numbers
    attributes: Numbers
    event_us: Numbers
    shift: int
    """Added to what the values follow from: points of one series differ."""

    @property
    def points(self) -> int:
        """How many."""
        return len(self.entities)


@dataclass(frozen=True)
class Estate:
    """Two tenants with the same entities; the second one has fewer attributes."""

    entities: int = 100_000
    """A multiple of 2,000."""
    hot: int = 50
    """Hot attributes; every entity has all of them."""
    cold: int = 50
    """Cold attributes; an entity has a fifth of them."""
    past_rounds: int = 8
    """Earlier points of status and tier, nine hours apart."""
    followed: int = 400
    """Entities whose hot attributes were all reported every minute, ..."""
    followed_minutes: int = 120
    """... for so long."""
    neighbour_hot: int = 5

    def __post_init__(self) -> None:
        if self.entities % (MATCHING * len(STATUSES)):
            raise BenchError(f"entities must be a multiple of {MATCHING * len(STATUSES)}")
        if self.cold % 5 or not 1 <= self.followed <= self.entities:
            raise BenchError("cold attributes come in fifths, and who is followed is an entity")

    @property
    def tenant_keys(self) -> tuple[str, str]:
        """Keys of the measured tenant and of its neighbour; they tell what is stored."""
        shape = f"{self.entities}-{self.points}"
        return f"bench-read-{shape}", f"bench-read-{shape}-neighbour"

    @cached_property
    def entity_keys(self) -> list[str]:
        """Keys of the entities, the same in both tenants."""
        return [f"unit-{number:06}" for number in range(self.entities)]

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        """The hot ones first, status and tier the first of all."""
        hot = (
            self._text("status", STATUSES),
            self._text("tier", tier_names(self.tiers)),
            *(
                self._attribute(f"hot_{number:02}", number, hot=True)
                for number in range(2, self.hot)
            ),
        )
        cold = (self._attribute(f"cold_{number:02}", number) for number in range(self.cold))
        return (*hot, *cold)

    @property
    def tiers(self) -> int:
        """Different values of tier."""
        return self.entities // (MATCHING * len(STATUSES))

    def attributes_of(self, tenant: int) -> tuple[Attribute, ...]:
        """What a tenant's catalog has."""
        return self.attributes if tenant == MEASURED else self.attributes[: self.neighbour_hot]

    # Layers, from the oldest to the newest -----------------------------------------------------

    def past(self, number: int, base_us: int) -> Layer:
        """Status and tier of every entity, `number` rounds (1, 2 ...) ago."""
        pair = np.array([STATUS, TIER])
        return self._layer(self._all, pair, base_us - number * PAST_STEP_US, shift=number)

    def followed_minute(self, number: int, base_us: int) -> Layer:
        """All hot attributes of those that are followed; minute 0 is the first."""
        at = self.followed_start_us(base_us) + number * MINUTE_US
        entities = np.arange(self.followed, dtype=np.int64)
        return self._layer(entities, np.arange(self.hot), at, shift=1 + number)

    def followed_start_us(self, base_us: int) -> int:
        """The event time of minute 0; an hour lies between the last minute and the newest."""
        return base_us - HOUR_US - self.followed_minutes * MINUTE_US

    def newest(self, first: int, last: int, base_us: int) -> Layer:
        """The latest values of the entities from `first` to before `last`, hot and cold."""
        entities = np.arange(first, last, dtype=np.int64)
        hot = np.broadcast_to(np.arange(self.hot), (len(entities), self.hot))
        own = np.hstack([hot, self.hot + self.cold_of(entities)])
        return Layer(
            MEASURED,
            np.repeat(entities, own.shape[1]),
            own.reshape(-1).astype(np.int64),
            np.full(own.size, base_us, dtype=np.int64),
            shift=0,
        )

    def neighbours(self, first: int, last: int, base_us: int) -> Layer:
        """The latest values of the neighbour's entities."""
        entities = np.arange(first, last, dtype=np.int64)
        layer = self._layer(entities, np.arange(self.neighbour_hot), base_us, shift=0)
        return Layer(NEIGHBOUR, layer.entities, layer.attributes, layer.event_us, 0)

    @property
    def points_of_an_entity(self) -> int:
        """Points of the newest layer."""
        return self.hot + self.cold // 5

    @property
    def past_points(self) -> int:
        """Points of the measured tenant that are older than the newest of their series."""
        followed = self.followed * self.hot * self.followed_minutes
        return 2 * self.entities * self.past_rounds + followed

    @property
    def points(self) -> int:
        """All points of the measured tenant."""
        return self.entities * self.points_of_an_entity + self.past_points

    @property
    def neighbour_points(self) -> int:
        """All points of the other one."""
        return self.entities * self.neighbour_hot

    # Values ------------------------------------------------------------------------------------

    def cold_of(self, entities: Numbers) -> Numbers:
        """Numbers of the cold attributes that each entity has, a row for each."""
        width = self.cold // 5
        return (entities % 5)[:, None] * width + np.arange(width)

    def raw(self, layer: Layer) -> Numbers:
        """What the values of a layer's points follow from; see Values."""
        walked = self._walked(layer.tenant, layer.entities) + layer.shift
        mixed = (layer.entities * 7_919 + layer.attributes * 104_729 + layer.shift) % RAW_VALUES
        status = walked % len(STATUSES)
        tier = (walked // len(STATUSES)) % self.tiers
        return np.where(
            layer.attributes == STATUS, status, np.where(layer.attributes == TIER, tier, mixed)
        )

    def matching(self, tenant: int, status: int, tier: int) -> list[int]:
        """Numbers of the entities whose latest status and tier are these."""
        walked = self._walked(tenant, self._all)
        is_tier = walked // len(STATUSES) % self.tiers == tier
        found = (walked % len(STATUSES) == status) & is_tier
        return [int(number) for number in np.flatnonzero(found)]

    @cached_property
    def values(self) -> Values:
        """The values of all attributes, by what they follow from."""
        return Values({STATUS: TextSet(STATUSES), TIER: TextSet(tier_names(self.tiers))})

    @cached_property
    def _all(self) -> Numbers:
        return np.arange(self.entities, dtype=np.int64)

    def _walked(self, tenant: int, entities: Numbers) -> Numbers:
        """A permutation of the entities: those that match a filter are no neighbours."""
        return (entities * STRIDES[tenant] + OFFSETS[tenant]) % self.entities

    def _layer(self, entities: Numbers, attributes: Numbers, at_us: int, shift: int) -> Layer:
        """All these attributes of all these entities at one time."""
        count = len(entities) * len(attributes)
        return Layer(
            MEASURED,
            np.repeat(entities, len(attributes)),
            np.tile(attributes, len(entities)).astype(np.int64),
            np.full(count, at_us, dtype=np.int64),
            shift,
        )

    def _text(self, name: str, allowed: tuple[str, ...]) -> Attribute:
        return Attribute(name, DataType.TEXT, hot=True, allowed_values=allowed)

    def _attribute(self, name: str, number: int, *, hot: bool = False) -> Attribute:
        return Attribute(name, TYPES[number % len(TYPES)], hot=hot)
