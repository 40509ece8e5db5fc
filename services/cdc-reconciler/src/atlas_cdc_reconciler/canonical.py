"""The canonical text of a row in Python: what the engines' SQL is held against. See `digest`."""

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from atlas_cdc_reconciler.digest import LIMB_BITS, Digest
from atlas_common.values import DataType, Scalar, datetime_to_us, us_to_datetime

_EPOCH_2000_US = datetime_to_us(datetime(2000, 1, 1, tzinfo=UTC))
_64_BITS = 2**64 - 1
_SCALE = 18
_HASH_BITS = 128
_SHOWN_CHARS_MAX = 1_000
_TAGS = {
    DataType.BOOL: "b",
    DataType.INT: "i",
    DataType.DOUBLE: "d",
    DataType.DECIMAL: "n",
    DataType.TEXT: "s",
    DataType.TIME: "t",
    DataType.JSON: "j",
}
_TYPES = {tag: data_type for data_type, tag in _TAGS.items()}


@dataclass(frozen=True, order=True, slots=True)
class StoredRow:
    """A row of a tenant's history. Times in microseconds since 1970."""

    ingested_us: int
    entity_id: int
    attribute_id: int
    event_us: int
    quality: int
    value: str
    """As `tagged` makes it."""

    @classmethod
    def of(  # noqa: PLR0917 - the columns of a row.
        cls,
        ingested: str,
        entity_id: int,
        attribute_id: int,
        event: str,
        quality: int,
        value: str,
    ) -> "StoredRow":
        """A row as `digest.rows_sql` gives it."""
        return cls(
            time_of_digits(ingested),
            entity_id,
            attribute_id,
            time_of_digits(event),
            quality,
            value,
        )

    def text(self, tenant_id: int) -> str:
        """The canonical text."""
        times = map(time_digits, (self.event_us, self.ingested_us))
        parts = (tenant_id, self.entity_id, self.attribute_id, *times, self.quality, self.value)
        return "|".join(map(str, parts))

    def digest(self, tenant_id: int) -> Digest:
        """The digest of this row alone."""
        hashed = hashlib.md5(self.text(tenant_id).encode(), usedforsecurity=False).digest()
        number = int.from_bytes(hashed, "little") >> (_HASH_BITS - 2 * LIMB_BITS)
        return Digest(1, number >> LIMB_BITS, number & ((1 << LIMB_BITS) - 1))


def time_digits(us: int) -> str:
    """Microseconds since 1970 as they stand in the canonical text."""
    return f"{(us - _EPOCH_2000_US) & _64_BITS:016x}"


def time_of_digits(digits: str) -> int:
    """Microseconds since 1970 of what `time_digits` makes."""
    number = int(digits, 16)
    return number - (number >> 63 << 64) + _EPOCH_2000_US


def tagged(data_type: DataType, value: Scalar) -> str:
    """A value as it stands in the canonical text: <type><octets>:<value>.

    A TIME is microseconds since 1970, a JSON value Postgres' own text of it.
    """
    match data_type:
        case DataType.BOOL:
            text = "t" if value else "f"
        case DataType.DOUBLE:
            assert isinstance(value, float)
            text = "nan" if value != value else struct.pack(">d", value).hex()  # noqa: PLR0124
        case DataType.DECIMAL:
            text = _decimal_text(Decimal(value))
        case DataType.TIME:
            text = time_digits(int(value))
        case DataType.INT | DataType.TEXT | DataType.JSON:
            text = str(value)
    return f"{_TAGS[data_type]}{len(text.encode())}:{text}"


def untagged(value: str) -> tuple[DataType, str]:
    """The type and a text for people of a value as `tagged` makes it."""
    _, _, text = value.partition(":")
    data_type = _TYPES[value[0]]
    match data_type:
        case DataType.BOOL:
            text = "true" if text == "t" else "false"
        case DataType.DOUBLE if text != "nan":
            (number,) = struct.unpack(">d", bytes.fromhex(text))
            text = repr(number)
        case DataType.TIME:
            text = time_text(time_of_digits(text))
        case _:
            pass
    return data_type, text


def shortened(value: str) -> str:
    """A tagged value for a report: a long one is cut, with a hash to tell it from others by."""
    if len(value) <= _SHOWN_CHARS_MAX:
        return value
    hashed = hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()
    return f"{value[:_SHOWN_CHARS_MAX]}... (md5 {hashed})"


def time_text(us: int) -> str:
    """A time for people."""
    try:
        return us_to_datetime(us).isoformat()
    except OverflowError:  # Years that Postgres has and Python has not.
        return f"{us} us since 1970"


def _decimal_text(value: Decimal) -> str:
    # By its digits: arithmetic would round to the context's precision.
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits)) or "0")
    if exponent > -_SCALE:
        unscaled *= int(10 ** (exponent + _SCALE))
    else:
        unscaled //= int(10 ** (-exponent - _SCALE))
    text = str(unscaled).rjust(_SCALE + 1, "0")
    minus = "-" if sign and unscaled else ""
    return f"{minus}{text[:-_SCALE]}.{text[-_SCALE:]}"
