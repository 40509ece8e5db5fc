"""A value survives its way to the wire and to the projection, exactly."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.type.v1 import value_pb2
from atlas_common import values
from atlas_common.values import DataType, Scalar

_YEAR_1_US = -62_135_596_800_000_000
_YEAR_10000_US = 253_402_300_800_000_000

TYPED_VALUES: st.SearchStrategy[tuple[DataType, Scalar]] = st.one_of(
    st.tuples(st.just(DataType.BOOL), st.booleans()),
    st.tuples(st.just(DataType.INT), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just(DataType.DOUBLE), st.floats(allow_nan=False)),
    st.tuples(st.just(DataType.DECIMAL), st.decimals(-(10**20), 10**20, places=18)),
    st.tuples(st.just(DataType.TEXT), st.text()),
    st.tuples(st.just(DataType.TIME), st.integers(_YEAR_1_US, _YEAR_10000_US - 1)),
    st.tuples(st.just(DataType.JSON), st.just('{"a": [1, null]}')),
)


@given(TYPED_VALUES)
def test_a_value_survives_the_wire(typed: tuple[DataType, Scalar]) -> None:
    data_type, value = typed
    message = value_pb2.Value.FromString(values.to_proto(data_type, value).SerializeToString())
    assert values.from_proto(message) == (data_type, value)


def test_a_message_without_a_value_has_none() -> None:
    assert values.from_proto(value_pb2.Value()) is None


@pytest.mark.parametrize(
    ("data_type", "text", "value"),
    [
        (DataType.BOOL, "true", True),
        (DataType.BOOL, "false", False),
        (DataType.INT, "-9223372036854775808", -(2**63)),
        (DataType.DOUBLE, "Infinity", math.inf),
        (DataType.DOUBLE, "1", 1.0),
        (DataType.DECIMAL, "0.000000000000000001", Decimal("1e-18")),
        (DataType.TEXT, "", ""),
        (DataType.TIME, "1767225600123456", 1767225600123456),
        (DataType.JSON, '{"a": 1}', '{"a": 1}'),
    ],
)
def test_the_projections_text_is_read_by_type(
    data_type: DataType, text: str, value: Scalar
) -> None:
    read = values.from_hot_text(data_type, text)
    assert (type(read), read) == (type(value), value)


def test_a_projected_nan_is_read_back() -> None:
    assert math.isnan(float(values.from_hot_text(DataType.DOUBLE, "NaN")))


@pytest.mark.parametrize(
    ("value", "text"),
    [("1.250", "1.25"), ("1E+3", "1000"), ("-0", "0"), ("100", "100"), ("0.10", "0.1")],
)
def test_decimals_are_written_plainly(value: str, text: str) -> None:
    assert values.decimal_text(Decimal(value)) == text


@given(st.integers(_YEAR_1_US, _YEAR_10000_US - 1))
def test_microseconds_survive_datetime(us: int) -> None:
    assert values.datetime_to_us(values.us_to_datetime(us)) == us


def test_every_type_has_a_name_in_the_contract() -> None:
    for data_type in DataType:
        assert values.data_type_from_proto(values.data_type_to_proto(data_type)) is data_type
    assert values.data_type_from_proto(value_pb2.DATA_TYPE_UNSPECIFIED) is None
