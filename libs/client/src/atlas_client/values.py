"""Values: Python's own types on this side, the contracts' messages on the other.

bool     bool                    int      int (64 bits)
double   float                   decimal  decimal.Decimal
text     str                     time     datetime.datetime, aware; microseconds
json     dict, list, or Json(anything that json can write)
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from atlas.type.v1 import value_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON document that Python's type does not tell: Json("a"), Json(None)."""

    document: Any


Value: TypeAlias = bool | int | float | Decimal | str | datetime | dict[str, Any] | list[Any] | Json
"""What can be written. A dict or list is a JSON document."""

ReadValue: TypeAlias = (
    bool | int | float | Decimal | str | datetime | dict[str, Any] | list[Any] | None
)
"""What is read: of a JSON attribute the document itself, so None is JSON's null."""


class DataType(StrEnum):
    """The type of an attribute's values."""

    BOOL = "bool"
    INT = "int"
    DOUBLE = "double"
    DECIMAL = "decimal"
    TEXT = "text"
    TIME = "time"
    JSON = "json"

    def to_proto(self) -> value_pb2.DataType.ValueType:
        """Return the contract's name of it."""
        return value_pb2.DataType.Value(f"DATA_TYPE_{self.name}")

    @classmethod
    def from_proto(cls, data_type: value_pb2.DataType.ValueType) -> "DataType":
        """Return the type. Raises ValueError for one of a newer contract."""
        return cls(value_pb2.DataType.Name(data_type).removeprefix("DATA_TYPE_").lower())


def data_type_of(value: Value) -> DataType:
    """Return the type a Python value is written as. Raises TypeError for a foreign one."""
    for kind, data_type in _TYPES:  # bool before int: a bool is an int, too.
        if isinstance(value, kind):
            return data_type
    raise TypeError(f"{type(value).__name__} is no type of value: {value!r}")


_TYPES: tuple[tuple[type | tuple[type, ...], DataType], ...] = (
    (bool, DataType.BOOL),
    (int, DataType.INT),
    (float, DataType.DOUBLE),
    (str, DataType.TEXT),
    (Decimal, DataType.DECIMAL),
    (datetime, DataType.TIME),
    ((dict, list, Json), DataType.JSON),
)


def set_value(message: value_pb2.Value | value_pb2.Point, value: Value) -> None:
    """Set the value of a message.

    Raises TypeError for a foreign type; ValueError for an int beyond 64 bits, a datetime without a
    time zone, and a document that JSON cannot hold (NaN, for example).
    """
    # A chain, not a table: this is the innermost loop of every write.
    if isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.int_value = value
    elif isinstance(value, float):
        message.double_value = value
    elif isinstance(value, str):
        message.text_value = value
    elif isinstance(value, Decimal):
        message.decimal_value = str(value)
    elif isinstance(value, datetime):
        message.time_value.CopyFrom(to_timestamp(value))
    elif isinstance(value, Json):
        message.json_value = _json_text(value.document)
    elif isinstance(value, (dict, list)):
        message.json_value = _json_text(value)
    else:
        raise TypeError(f"{type(value).__name__} is no type of value: {value!r}")


def to_proto(value: Value) -> value_pb2.Value:
    """Return the message of a value; raises what set_value() raises."""
    message = value_pb2.Value()
    set_value(message, value)
    return message


def from_proto(message: value_pb2.Value) -> ReadValue:
    """Return the Python value of a message. Raises ValueError for one without a value."""
    field = message.WhichOneof("kind")
    if field == "time_value":
        return from_timestamp(message.time_value)
    if field == "decimal_value":
        return Decimal(message.decimal_value)
    if field == "json_value":
        document: ReadValue = json.loads(message.json_value)
        return document
    if field is None:
        raise ValueError("a value of a type that this client does not know")
    plain: ReadValue = getattr(message, field)
    return plain


def to_us(moment: datetime) -> int:
    """Return microseconds since the epoch. Raises ValueError for a datetime without a time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone: say which, for example datetime.now(UTC)")
    return (moment - _EPOCH) // _MICROSECOND


def from_us(microseconds: int) -> datetime:
    """Return the UTC datetime; OverflowError beyond the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=microseconds)


def to_timestamp(moment: datetime) -> Timestamp:
    """Return the message of an aware datetime."""
    seconds, rest = divmod(to_us(moment), 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def from_timestamp(timestamp: Timestamp) -> datetime:
    """Return the UTC datetime; finer parts than microseconds are cut off."""
    return from_us(timestamp.seconds * 1_000_000 + timestamp.nanos // 1_000)


def _json_text(document: Any) -> str:
    return json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
