"""How large the hot values of one entity can become. Pure."""

from collections.abc import Mapping

from atlas_common.values import DataType

_TEXT_BYTES_MAX = 65_536  # Of a TEXT or JSON value, as the contract has it.

# What a value can take in the projection at most. JSON is the worst: "[1,1,1,...]" takes two bytes
# a number as text and twelve as jsonb.
_HOT_BYTES = {DataType.TEXT: _TEXT_BYTES_MAX + 16, DataType.JSON: 6 * _TEXT_BYTES_MAX + 2**16}
_HOT_BYTES_SMALL = 64
# All hot values of an entity are one jsonb object, which Postgres bounds at 2^28 bytes. Beyond it
# a flush would fail, again and again; so a tenant cannot define or promote its way there.
HOT_BYTES_MAX = 2**28 - 2**24


def hot_bytes(counts: Mapping[DataType, int]) -> int:
    """What the hot values of one entity can take at most, by the number of hot attributes."""
    return sum(
        count * _HOT_BYTES.get(data_type, _HOT_BYTES_SMALL) for data_type, count in counts.items()
    )
