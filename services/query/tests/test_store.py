"""Values of the projection read back as they were written."""

from decimal import Decimal

import pytest

from atlas_common.values import DataType, Scalar
from atlas_query.store import from_projection


@pytest.mark.parametrize(
    ("data_type", "text", "value"),
    [
        (DataType.BOOL, "false", False),
        (DataType.INT, "-9223372036854775808", -(2**63)),
        (DataType.DOUBLE, "0.1", 0.1),
        (DataType.DOUBLE, '"-Infinity"', float("-inf")),
        (DataType.DECIMAL, "12345678901234567890.12345", Decimal("12345678901234567890.12345")),
        (DataType.TEXT, '"say \\"hi\\""', 'say "hi"'),
        (DataType.TIME, "1700000000000001", 1_700_000_000_000_001),
        (DataType.JSON, '"a string"', '"a string"'),
        (DataType.JSON, "null", "null"),
        (DataType.JSON, '{"a": 1}', '{"a": 1}'),
    ],
)  # fmt: skip
def test_values_keep_their_type(data_type: DataType, text: str, value: Scalar) -> None:
    assert from_projection(data_type, text) == value
