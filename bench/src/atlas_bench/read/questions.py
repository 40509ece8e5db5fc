"""The reads that are measured, as calls of the query service."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import numpy as np

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.read.estate import HOUR_US, MINUTE_US, Estate
from atlas_bench.read.values import STATUSES, tier_names
from atlas_client import eventual, strong

CACHE, PRIMARY = "cache", "primary"
PAGE_SIZE = 100
HOT_ENTITY = 4_711
"""The number of the entity that everybody asks for."""
HISTORY_ATTRIBUTE = 2
"""A double."""
FILTER_ATTRIBUTES = ("status", "tier")
_SERVICE = "/atlas.query.v1.QueryService"
GET_ENTITIES, FIND_ENTITIES, GET_HISTORY = (
    f"{_SERVICE}/{name}" for name in ("GetEntities", "FindEntities", "GetHistory")
)
_TIMEOUT_SECONDS = 60.0
_WIDE_PAGES = 10
"""Different pages of `filter_all`: each is the work of a hundred calls."""

Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
Streaming: TypeAlias = "grpc.UnaryStreamMultiCallable[bytes, bytes]"


@dataclass(frozen=True)
class Question:
    """One kind of read."""

    name: str
    describes: str
    method: str
    requests: tuple[bytes, ...]
    """Sent in turn."""
    source: str
    """Which tier is to answer, as x-data-source has it."""
    entities: int = 1
    """Of one call."""

    @property
    def is_stream(self) -> bool:
        """Whether the answer is one."""
        return self.method == GET_HISTORY

    def answer(self, target: str, tenant: str, number: int = 0) -> list[bytes]:
        """Ask once; return the answer's messages as they were on the wire."""
        body, metadata = self.requests[number], (("x-atlas-tenant", tenant),)
        with grpc.insecure_channel(target, CHANNEL_OPTIONS) as channel:
            if self.is_stream:
                stream: Streaming = channel.unary_stream(self.method, None, None)
                return list(stream(body, timeout=_TIMEOUT_SECONDS, metadata=metadata))
            unary: Unary = channel.unary_unary(self.method, None, None)
            return [unary(body, timeout=_TIMEOUT_SECONDS, metadata=metadata)]


class Questions:
    """All of them, about one estate. `copies` is the tier that answers EVENTUAL from Postgres."""

    def __init__(self, estate: Estate, base_us: int, copies: str, variants: int) -> None:
        self._estate = estate
        self._base_us = base_us
        self._copies = copies
        self._variants = variants

    def hot(self) -> Question:
        """One entity, always the same: all its hot attributes, as a call that says nothing gets."""
        return Question(
            "hot",
            f"GetEntities, the {self._estate.hot} hot attributes of one entity, EVENTUAL",
            GET_ENTITIES,
            (_entities([self._estate.entity_keys[HOT_ENTITY]]),),
            CACHE,
        )

    def hot_named(self) -> Question:
        """One attribute of the same entity: what a call costs that carries next to nothing."""
        return Question(
            "hot_named",
            "GetEntities, one hot attribute of one entity, EVENTUAL",
            GET_ENTITIES,
            (_entities([self._estate.entity_keys[HOT_ENTITY]], ["status"]),),
            CACHE,
        )

    def batch(self, entities: int) -> Question:
        """Many entities in one call."""
        return Question(
            "batch",
            f"GetEntities, the hot attributes of {entities} entities, EVENTUAL",
            GET_ENTITIES,
            (_entities(self._batch_keys(entities)),),
            CACHE,
            entities,
        )

    def single(self, entities: int) -> Question:
        """The same entities, a call for each."""
        return Question(
            "single",
            f"GetEntities, the hot attributes of one of {entities} entities, EVENTUAL",
            GET_ENTITIES,
            tuple(_entities([key]) for key in self._batch_keys(entities)),
            CACHE,
        )

    def jsonb(self) -> Question:
        """One entity's hot attributes from the projection, whatever is cached."""
        return Question(
            "jsonb",
            f"GetEntities, the {self._estate.hot} hot attributes of one entity, STRONG",
            GET_ENTITIES,
            self._spread(lambda rng: _entities([self._any(rng)], consistency=strong().to_proto())),
            PRIMARY,
        )

    def cold(self) -> Question:
        """One cold attribute of one entity: the newest of its points."""

        def make(rng: random.Random) -> bytes:
            number = rng.randrange(self._estate.entities)
            return _entities([self._estate.entity_keys[number]], [self.cold_name(number)])

        return Question(
            "cold",
            "GetEntities, one cold attribute of one entity, EVENTUAL",
            GET_ENTITIES,
            self._spread(make),
            self._copies,
        )

    def cold_name(self, entity: int) -> str:
        """A cold attribute that an entity has."""
        own = self._estate.cold_of(np.array([entity]))[0]
        return self._estate.attributes[self._estate.hot + int(own[0])].name

    def filter(self) -> Question:
        """The entities of a status and a tier: a full page, which is all of them."""
        return Question(
            "filter",
            f"FindEntities, status = x and tier = y, a page of {PAGE_SIZE} with both, EVENTUAL",
            FIND_ENTITIES,
            tuple(self._find(status, tier) for status, tier in self.pairs()),
            self._copies,
            PAGE_SIZE,
        )

    def filter_all(self) -> Question:
        """The same with all hot attributes of each, as a call that names none gets."""
        return Question(
            "filter_all",
            f"FindEntities, the same page with all {self._estate.hot} hot attributes, EVENTUAL",
            FIND_ENTITIES,
            tuple(self._find(status, tier, ()) for status, tier in self.pairs()[:_WIDE_PAGES]),
            self._copies,
            PAGE_SIZE,
        )

    def history(self) -> Question:
        """An hour of one attribute of one entity, a point a minute."""
        start = self._estate.followed_start_us(self._base_us)
        latest = self._estate.followed_minutes - 60

        def make(rng: random.Random) -> bytes:
            first = start + rng.randint(0, latest) * MINUTE_US
            request = pb.GetHistoryRequest(
                entity_key=self._estate.entity_keys[rng.randrange(self._estate.followed)],
                attributes=[self._estate.attributes[HISTORY_ATTRIBUTE].name],
                consistency=eventual().to_proto(),
            )
            request.start_time.FromMicroseconds(first)
            request.end_time.FromMicroseconds(first + HOUR_US)
            return request.SerializeToString()

        return Question(
            "history",
            "GetHistory, one hour of one attribute of one entity, EVENTUAL: the first message",
            GET_HISTORY,
            self._spread(make),
            self._copies,
        )

    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of status and tier that are asked for, by their numbers."""
        count = min(self._variants, self._estate.tiers * len(STATUSES))
        return [(number % len(STATUSES), number // len(STATUSES)) for number in range(count)]

    def _find(self, status: int, tier: int, attributes: Sequence[str] = FILTER_ATTRIBUTES) -> bytes:
        names = (STATUSES[status], tier_names(self._estate.tiers)[tier])
        conditions = [
            pb.Filter(equals=pb.Equals(attribute=name, value=value_pb2.Value(text_value=value)))
            for name, value in zip(FILTER_ATTRIBUTES, names, strict=True)
        ]
        return pb.FindEntitiesRequest(
            filter=pb.Filter(all_of=pb.AllOf(filters=conditions)),
            attributes=attributes,
            page_size=PAGE_SIZE,
            consistency=eventual().to_proto(),
        ).SerializeToString()

    def _batch_keys(self, entities: int) -> list[str]:
        numbers = random.Random(3).sample(range(self._estate.entities), entities)  # noqa: S311
        return [self._estate.entity_keys[number] for number in numbers]

    def _any(self, rng: random.Random) -> str:
        return rng.choice(self._estate.entity_keys)

    def _spread(self, make: Callable[[random.Random], bytes]) -> tuple[bytes, ...]:
        rng = random.Random(7)  # noqa: S311 - no secret.
        return tuple(make(rng) for _ in range(self._variants))


def _entities(
    keys: Sequence[str],
    attributes: Sequence[str] = (),
    consistency: consistency_pb2.Consistency | None = None,
) -> bytes:
    return pb.GetEntitiesRequest(
        entity_keys=keys,
        attributes=attributes,
        consistency=eventual().to_proto() if consistency is None else consistency,
    ).SerializeToString()
