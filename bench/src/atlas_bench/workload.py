"""The telemetry that every benchmark uses: some tenants with the same entities and attributes."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np

from atlas.ingest.v1 import ingest_service_pb2
from atlas.type.v1 import value_pb2
from atlas_bench.errors import BenchError
from atlas_bench.template import VARINT_MAX, Template
from atlas_client import Attribute, DataType

Scalar = bool | int | float | Decimal | str | datetime

STATES = ("running", "stopped", "faulted", "standby")

ATTRIBUTES: tuple[Attribute, ...] = (
    # A fifth of them hot: the share that the design expects.
    Attribute("state", DataType.TEXT, hot=True, allowed_values=STATES),
    Attribute("level", DataType.INT, hot=True, min_value="0", max_value="100"),
    Attribute("alarm", DataType.BOOL, hot=True),
    Attribute("setpoint", DataType.DOUBLE, hot=True),
    *(Attribute(f"temperature_{number}", DataType.DOUBLE, unit="Cel") for number in range(8)),
    *(Attribute(f"count_{number}", DataType.INT) for number in range(3)),
    Attribute("note", DataType.TEXT),
    Attribute("enabled", DataType.BOOL),
    Attribute("energy", DataType.DECIMAL, unit="kW.h"),
    Attribute("serviced_at", DataType.TIME),
    Attribute("settings", DataType.JSON),
)

_SERVICED = datetime(2026, 1, 1, tzinfo=UTC)
TIME_MARK = b"\x18" + b"\xff" * 7 + b"\x7f"  # Field event_time_us with the greatest 8-byte varint.


@dataclass(frozen=True)
class Shape:
    """How much of everything there is."""

    tenants: int = 3
    entities: int = 200
    """Of each tenant."""
    batch_points: int = 1_000
    """Points in one Write call: whole entities, each with all attributes."""

    def __post_init__(self) -> None:
        if self.batch_points % len(ATTRIBUTES) or self.batch_points <= 0:
            raise BenchError(f"the batch size must be a multiple of {len(ATTRIBUTES)}")
        if self.entities % self.batch_entities:
            raise BenchError(f"entities must be a multiple of {self.batch_entities}")

    @property
    def batch_entities(self) -> int:
        """Entities in one Write call."""
        return self.batch_points // len(ATTRIBUTES)

    @property
    def tenant_keys(self) -> tuple[str, ...]:
        """Keys of the tenants."""
        return tuple(f"bench-{number}" for number in range(1, self.tenants + 1))

    @property
    def entity_keys(self) -> tuple[str, ...]:
        """Keys of the entities: the same in every tenant."""
        return tuple(f"pump-{number:05}" for number in range(self.entities))


def entity_values(tenant_index: int, entity_index: int) -> list[Scalar]:
    """Return one value for each of ATTRIBUTES: the same at every call."""
    return values_of(ATTRIBUTES, tenant_index * 1_000_003 + entity_index)


def values_of(attributes: Iterable[Attribute], seed: int) -> list[Scalar]:
    """Return one value for each attribute: the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - no secret.
    return [_value(attribute, rng) for attribute in attributes]


def write_templates(shape: Shape) -> Iterator[tuple[str, Template]]:
    """Give each tenant's Write calls, which together write every attribute of every entity once.

    Yields (tenant key, WriteRequest without request_id, to be filled with varints).
    """
    keys = shape.entity_keys
    for tenant_index, tenant in enumerate(shape.tenant_keys):
        for first in range(0, shape.entities, shape.batch_entities):
            request = ingest_service_pb2.WriteRequest()
            for entity_index in range(first, first + shape.batch_entities):
                values = entity_values(tenant_index, entity_index)
                for attribute, value in zip(ATTRIBUTES, values, strict=True):
                    point = request.points.add(
                        entity_key=keys[entity_index],
                        attribute=attribute.name,
                        event_time_us=VARINT_MAX,
                    )
                    set_value(point, attribute.data_type, value)
            yield tenant, _template(request.SerializeToString(), shape.batch_points)


def _template(body: bytes, points: int) -> Template:
    offsets = []
    found = body.find(TIME_MARK)
    while found >= 0:
        offsets.append(found + 1)  # Behind the tag.
        found = body.find(TIME_MARK, found + len(TIME_MARK))
    assert len(offsets) == points, "something else looks like a time"
    return Template(body, np.array(offsets, dtype=np.int64))


def _value(attribute: Attribute, rng: random.Random) -> Scalar:  # noqa: PLR0911 - one a type.
    match attribute.data_type:
        case DataType.BOOL:
            return rng.random() < 0.1
        case DataType.INT:
            return rng.randrange(101)
        case DataType.DOUBLE:
            return rng.uniform(-40, 120)
        case DataType.DECIMAL:
            return Decimal(rng.randrange(10_000_000)).scaleb(-3)
        case DataType.TEXT:
            return rng.choice(STATES)
        case DataType.TIME:
            return _SERVICED + timedelta(minutes=rng.randrange(100_000))
        case DataType.JSON:
            return f'{{"gain": {rng.randrange(100)}, "mode": "auto"}}'


def set_value(point: value_pb2.Point, data_type: DataType, value: Scalar) -> None:
    """Give a point its value, in the field of its attribute's type."""
    match value:
        case bool():
            point.bool_value = value
        case int():
            point.int_value = value
        case float():
            point.double_value = value
        case Decimal():
            point.decimal_value = str(value)
        case datetime():
            point.time_value.FromDatetime(value)
        case str() if data_type is DataType.JSON:
            point.json_value = value
        case str():
            point.text_value = value
