"""Typed values: what every service means by one, and its forms on the wire and in the projection.

In the domain a value is a `Scalar`: bool, int, float, Decimal or str. A TIME is its microseconds
since the Unix epoch, as int, so that it is exact and cheap; a JSON value is its text.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from atlas.type.v1 import value_pb2

Scalar: TypeAlias = bool | int | float | Decimal | str

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class DataType(StrEnum):
    """The type of an attribute's values; the members' values are the database's names."""

    BOOL = "bool"
    INT = "int"
    DOUBLE = "double"
    DECIMAL = "decimal"
    TEXT = "text"
    TIME = "time"
    JSON = "json"


VALUE_COLUMNS = {data_type: f"value_{data_type}" for data_type in DataType}
"""The column of entity_values_ts that holds values of a type."""

_FIELDS = {f"{data_type}_value": data_type for data_type in DataType}
_PROTO_TYPES = {
    DataType.BOOL: value_pb2.DATA_TYPE_BOOL,
    DataType.INT: value_pb2.DATA_TYPE_INT,
    DataType.DOUBLE: value_pb2.DATA_TYPE_DOUBLE,
    DataType.DECIMAL: value_pb2.DATA_TYPE_DECIMAL,
    DataType.TEXT: value_pb2.DATA_TYPE_TEXT,
    DataType.TIME: value_pb2.DATA_TYPE_TIME,
    DataType.JSON: value_pb2.DATA_TYPE_JSON,
}
_TYPES = {proto_type: data_type for data_type, proto_type in _PROTO_TYPES.items()}


def from_proto(message: value_pb2.Value) -> tuple[DataType, Scalar] | None:
    """The type and value a message carries; None when it carries no value.

    Raises decimal.InvalidOperation for a decimal that does not parse.
    """
    field = message.WhichOneof("kind")
    if field is None:
        return None
    data_type = _FIELDS[field]
    if data_type is DataType.TIME:
        return data_type, timestamp_to_us(message.time_value)
    if data_type is DataType.DECIMAL:
        return data_type, Decimal(message.decimal_value)
    return data_type, getattr(message, field)


def to_proto(data_type: DataType, value: Scalar) -> value_pb2.Value:
    """The message of a value, which must be of the type (TypeError or AssertionError if not)."""
    if data_type is DataType.TIME:
        assert isinstance(value, int)
        return value_pb2.Value(time_value=us_to_timestamp(value))
    if data_type is DataType.DECIMAL:
        assert isinstance(value, Decimal)
        return value_pb2.Value(decimal_value=decimal_text(value))
    return value_pb2.Value(**{f"{data_type}_value": value})  # type: ignore[arg-type]


def data_type_from_proto(data_type: value_pb2.DataType.ValueType) -> DataType | None:
    """The type of a message field; None when it is unset or of a newer contract."""
    return _TYPES.get(data_type)


def data_type_to_proto(data_type: DataType) -> value_pb2.DataType.ValueType:
    """The message's name of the type."""
    return _PROTO_TYPES[data_type]


def from_hot_text(data_type: DataType, text: str) -> Scalar:
    """A value of the projection (see hot_value() in db) from its text; only JSON has quotes."""
    if data_type is DataType.BOOL:
        return text == "true"
    if data_type in {DataType.INT, DataType.TIME}:
        return int(text)
    if data_type is DataType.DOUBLE:
        return float(text)  # Reads "NaN" and "Infinity" too, the strings hot_value() writes.
    if data_type is DataType.DECIMAL:
        return Decimal(text)
    return text


def decimal_text(value: Decimal) -> str:
    """Plain notation without trailing zeros: "12.5", never "1.25E+1" or "12.500"."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"", "-0"} else text


def timestamp_to_us(timestamp: Timestamp) -> int:
    """Microseconds since the epoch; finer parts are cut off towards the past."""
    return timestamp.seconds * 1_000_000 + timestamp.nanos // 1_000


def us_to_timestamp(us: int) -> Timestamp:
    """The message of a moment given in microseconds since the epoch."""
    seconds, rest = divmod(us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def datetime_to_us(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly."""
    return (moment - _EPOCH) // _MICROSECOND


def us_to_datetime(us: int) -> datetime:
    """The UTC datetime of microseconds since the epoch; OverflowError beyond years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=us)
