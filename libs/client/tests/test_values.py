from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas.type.v1 import value_pb2
from atlas_client.values import (
    DataType,
    Json,
    data_type_of,
    from_proto,
    from_us,
    set_value,
    to_proto,
    to_us,
)

documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
values = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.text(),
    st.datetimes(timezones=st.just(UTC)),
    st.lists(documents, max_size=3),
    st.dictionaries(st.text(), documents, max_size=3),
)


@given(values)
def test_a_value_comes_back_as_it_went(value: Any) -> None:
    read = from_proto(to_proto(value))
    assert read == value
    assert type(read) is type(value)


@given(documents)
def test_any_document_can_be_json(document: Any) -> None:
    assert from_proto(to_proto(Json(document))) == document


@pytest.mark.parametrize(
    ("value", "data_type"),
    [
        (True, DataType.BOOL),
        (1, DataType.INT),
        (1.0, DataType.DOUBLE),
        (Decimal(1), DataType.DECIMAL),
        ("1", DataType.TEXT),
        (datetime(2024, 1, 1, tzinfo=UTC), DataType.TIME),
        ({"a": 1}, DataType.JSON),
        ([1], DataType.JSON),
        (Json(None), DataType.JSON),
    ],
)
def test_the_type_is_that_of_the_field_set(value: Any, data_type: DataType) -> None:
    assert data_type_of(value) is data_type
    assert to_proto(value).WhichOneof("kind") == f"{data_type}_value"
    assert DataType.from_proto(data_type.to_proto()) is data_type


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    moment = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert from_proto(to_proto(moment)) == moment
    assert from_us(to_us(moment)) == moment


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (datetime(2024, 1, 1), ValueError),  # noqa: DTZ001
        (2**63, ValueError),
        ({"a": float("nan")}, ValueError),
        (None, TypeError),
        (b"bytes", TypeError),
    ],
)
def test_what_cannot_be_written_is_refused_before_it_is_sent(
    value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        set_value(value_pb2.Point(), value)


def test_a_value_of_a_newer_contract_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not know"):
        from_proto(value_pb2.Value())
