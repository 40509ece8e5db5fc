"""Buckets are aligned to the epoch, means are right at the ends of the double's range."""

import math
import sys
from decimal import Decimal

import pytest

from atlas_common.catalog import AttributeDef
from atlas_common.errors import ServiceError
from atlas_common.values import DataType
from atlas_query.buckets import (
    BIG_SCALE,
    BucketFunction,
    BucketStats,
    Downsampling,
    Numbers,
    average,
    bucket_reading,
    check_functions,
)

MAX = sys.float_info.max


def attribute(data_type: DataType) -> AttributeDef:
    return AttributeDef(attribute_id=1, name="rpm", data_type=data_type, is_hot=False)


def stats(
    points: int, total: int | float | Decimal | None, big: float | None = None
) -> BucketStats:
    return BucketStats(1, 0, points, Numbers(1, 2, total), big)


@pytest.mark.parametrize(
    ("us", "begin"), [(0, 0), (59, 0), (60, 60), (-1, -60), (-60, -60), (-61, -120)]
)
def test_buckets_are_aligned_to_the_epoch_on_both_sides_of_it(us: int, begin: int) -> None:
    assert Downsampling(60, ()).begin(us) == begin


def test_a_mean_of_exact_numbers_is_the_nearest_double() -> None:
    assert average(stats(3, 10)) == 10 / 3
    assert average(stats(2, 2**63 - 1)) == (2**63 - 1) / 2
    assert average(stats(3, Decimal("0.3"))) == 0.1


def test_a_mean_of_the_greatest_doubles_is_finite() -> None:
    assert average(stats(3, None, 3 * (MAX / BIG_SCALE))) == MAX
    assert average(stats(2, None, 0.0)) == 0.0
    assert average(stats(2, 6.0, 1e300 / BIG_SCALE)) == pytest.approx(5e299)


def test_a_mean_with_what_is_no_number_is_none_either() -> None:
    assert math.isnan(average(stats(2, math.nan)))
    assert average(stats(2, math.inf, 1e300 / BIG_SCALE)) == math.inf


def test_results_come_in_the_order_asked_with_their_types() -> None:
    functions = [
        BucketFunction.LAST,
        BucketFunction.COUNT,
        BucketFunction.AVG,
        BucketFunction.MIN,
        BucketFunction.FIRST,
    ]
    reading = bucket_reading(stats(2, 3), attribute(DataType.INT), functions, first=7, last=9)
    assert reading.results == (
        (DataType.INT, 9),
        (DataType.INT, 2),
        (DataType.DOUBLE, 1.5),
        (DataType.INT, 1),
        (DataType.INT, 7),
    )


def test_a_function_that_a_type_does_not_have_is_refused_naming_the_attribute() -> None:
    check_functions([BucketFunction.AVG], [attribute(DataType.DECIMAL)])
    check_functions([BucketFunction.LAST, BucketFunction.COUNT], [attribute(DataType.JSON)])
    with pytest.raises(ServiceError) as raised:
        check_functions([BucketFunction.LAST, BucketFunction.AVG], [attribute(DataType.TEXT)])
    assert raised.value.reason == "TYPE_MISMATCH"
    assert raised.value.field == "downsample.functions"
    assert "AVG" in raised.value.message
    assert "'rpm' is TEXT" in raised.value.message
