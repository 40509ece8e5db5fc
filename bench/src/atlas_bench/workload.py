"""The telemetry that is written: attributes of all types, and values of them."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from atlas.type.v1 import value_pb2
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


def values_of(attributes: Iterable[Attribute], seed: int) -> list[Scalar]:
    """Return one value for each attribute: the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - no secret.
    return [_value(attribute, rng) for attribute in attributes]


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
