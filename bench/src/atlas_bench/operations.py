"""The reads that are measured."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import grpc

from atlas.query.v1 import query_service_pb2 as query_pb2
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_bench.channels import CHANNEL_OPTIONS
from atlas_bench.job import Request
from atlas_bench.workload import STATES, Shape
from atlas_client import eventual, strong

_VARIANTS = 48
"""Different requests of each operation, sent in turn."""
_KEYS = 20
_PAGE_SIZE = 20
HISTORY_READINGS = 250
HISTORY_ATTRIBUTES = tuple(f"temperature_{number}" for number in range(5))
COLD_ATTRIBUTES = ("temperature_0", "count_0")

Unary: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
Streaming: TypeAlias = "grpc.UnaryStreamMultiCallable[bytes, bytes]"
_Message = (
    query_pb2.GetEntitiesRequest | query_pb2.FindEntitiesRequest | query_pb2.GetHistoryRequest
)


@dataclass(frozen=True)
class Operation:
    """One kind of read."""

    name: str
    describes: str
    method: str
    requests: tuple[Request, ...]
    streaming: bool = False

    def first_answer(self, query_target: str) -> list[bytes]:
        """Ask once; return the answer's messages as they were on the wire."""
        request = self.requests[0]
        metadata = (("x-atlas-tenant", request.tenant),)
        with grpc.insecure_channel(query_target, CHANNEL_OPTIONS) as channel:
            if self.streaming:
                stream: Streaming = channel.unary_stream(self.method, None, None)
                return list(stream(request.template.body, timeout=30, metadata=metadata))
            unary: Unary = channel.unary_unary(self.method, None, None)
            return [unary(request.template.body, timeout=30, metadata=metadata)]


def operations(shape: Shape) -> tuple[Operation, ...]:
    """Return every operation, with requests spread over tenants and entities."""
    entities, find, history = (
        f"/atlas.query.v1.QueryService/{name}"
        for name in ("GetEntities", "FindEntities", "GetHistory")
    )
    return (
        Operation(
            "cache",
            f"GetEntities, hot attributes of {_KEYS} entities, EVENTUAL",
            entities,
            _spread(shape, lambda rng: _entities(shape, rng, eventual().to_proto())),
        ),
        Operation(
            "strong",
            f"GetEntities, hot attributes of {_KEYS} entities, STRONG",
            entities,
            _spread(shape, lambda rng: _entities(shape, rng, strong().to_proto())),
        ),
        Operation(
            "replica",
            f"GetEntities, {len(COLD_ATTRIBUTES)} cold attributes of {_KEYS} entities, EVENTUAL",
            entities,
            _spread(
                shape, lambda rng: _entities(shape, rng, eventual().to_proto(), COLD_ATTRIBUTES)
            ),
        ),
        Operation(
            "find",
            f"FindEntities by one hot attribute, a page of {_PAGE_SIZE}, EVENTUAL",
            find,
            _spread(shape, _find),
        ),
        Operation(
            "history",
            f"GetHistory, {HISTORY_READINGS} readings of {len(HISTORY_ATTRIBUTES)} cold attributes"
            " of one entity, EVENTUAL",
            history,
            _spread(shape, lambda rng: _history(shape, rng)),
            streaming=True,
        ),
    )


def _spread(shape: Shape, make: Callable[[random.Random], _Message]) -> tuple[Request, ...]:
    return tuple(_requests(shape, make))


def _requests(shape: Shape, make: Callable[[random.Random], _Message]) -> Iterator[Request]:
    rng = random.Random(7)  # noqa: S311 - no secret.
    for number in range(_VARIANTS):
        tenant = shape.tenant_keys[number % shape.tenants]
        yield Request.fixed(tenant, make(rng).SerializeToString())


def _entities(
    shape: Shape,
    rng: random.Random,
    consistency: consistency_pb2.Consistency,
    attributes: tuple[str, ...] = (),
) -> query_pb2.GetEntitiesRequest:
    keys = rng.sample(shape.entity_keys, min(_KEYS, shape.entities))
    return query_pb2.GetEntitiesRequest(
        entity_keys=keys, attributes=attributes, consistency=consistency
    )


def _find(rng: random.Random) -> query_pb2.FindEntitiesRequest:
    value = value_pb2.Value(text_value=rng.choice(STATES))
    return query_pb2.FindEntitiesRequest(
        filter=query_pb2.Filter(equals=query_pb2.Equals(attribute="state", value=value)),
        page_size=_PAGE_SIZE,
        consistency=eventual().to_proto(),
    )


def _history(shape: Shape, rng: random.Random) -> query_pb2.GetHistoryRequest:
    return query_pb2.GetHistoryRequest(
        entity_key=rng.choice(shape.entity_keys),
        attributes=HISTORY_ATTRIBUTES,
        limit=HISTORY_READINGS,
        consistency=eventual().to_proto(),
    )
