"""What a downsampled history computes of the points in a bucket of event time. Pure."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import NamedTuple

from atlas_common import errors
from atlas_common.catalog import AttributeDef
from atlas_common.values import DataType, Scalar
from atlas_query.aggregates import NUMERIC

BIG_SCALE = 2.0**24
"""By how much the database scales great doubles down before it adds them up (see bucket_stats)."""


class BucketFunction(Enum):
    """A function of the points of one attribute in one bucket."""

    MIN = "MIN"
    MAX = "MAX"
    AVG = "AVG"
    LAST = "LAST"
    FIRST = "FIRST"
    COUNT = "COUNT"


NUMERIC_ONLY = frozenset({BucketFunction.MIN, BucketFunction.MAX, BucketFunction.AVG})


@dataclass(frozen=True, slots=True)
class Downsampling:
    """Buckets of this width, aligned to the epoch, and what to compute of each."""

    bucket_us: int
    functions: tuple[BucketFunction, ...]

    def begin(self, us: int) -> int:
        """The beginning of the bucket that a moment lies in; also before the epoch."""
        return us - us % self.bucket_us


class Numbers(NamedTuple):
    """Least, greatest and sum of a bucket's numbers; None where it has none of this type."""

    least: Scalar | None
    greatest: Scalar | None
    total: int | float | Decimal | None


class BucketStats(NamedTuple):
    """The points of one attribute in one bucket. `big_total` is scaled down by BIG_SCALE."""

    attribute_id: int
    event_us: int
    """The bucket's beginning; named as a point's time, so that histories of both are cut alike."""
    points: int
    numbers: Numbers
    big_total: float | None


class BucketReading(NamedTuple):
    """One bucket of an attribute by its name; results in the order of the functions asked."""

    attribute: str
    bucket_us: int
    results: tuple[tuple[DataType, Scalar], ...]


def check_functions(
    functions: Iterable[BucketFunction], attributes: Iterable[AttributeDef]
) -> None:
    """Refuse functions that an attribute's type does not have (TYPE_MISMATCH)."""
    numeric = next((function for function in functions if function in NUMERIC_ONLY), None)
    if numeric is None:
        return
    for attribute in attributes:
        if attribute.data_type not in NUMERIC:
            raise errors.invalid_argument(
                "TYPE_MISMATCH",
                f"{numeric.value} is of INT, DOUBLE and DECIMAL attributes, {attribute.name!r} is"
                f" {attribute.data_type.upper()}: leave it out, or ask for LAST, FIRST and COUNT",
                field="downsample.functions",
                attribute=attribute.name,
                attribute_type=attribute.data_type.value,
            )


def bucket_reading(
    stats: BucketStats,
    attribute: AttributeDef,
    functions: Sequence[BucketFunction],
    first: Scalar | None,
    last: Scalar | None,
) -> BucketReading:
    """The results by name; `first` and `last` are needed only for their functions."""
    of_type: dict[BucketFunction, Scalar | None] = {
        BucketFunction.MIN: stats.numbers.least,
        BucketFunction.MAX: stats.numbers.greatest,
        BucketFunction.FIRST: first,
        BucketFunction.LAST: last,
    }
    results: list[tuple[DataType, Scalar]] = []
    for function in functions:
        if function is BucketFunction.COUNT:
            results.append((DataType.INT, stats.points))
        elif function is BucketFunction.AVG:
            results.append((DataType.DOUBLE, average(stats)))
        else:
            value = of_type[function]
            assert value is not None, f"the bucket has no {function.value}"
            results.append((attribute.data_type, value))
    return BucketReading(attribute.name, stats.event_us, tuple(results))


def average(stats: BucketStats) -> float:
    """The mean: of exact numbers the double nearest to it, of doubles as their sum was rounded."""
    total = stats.numbers.total
    if isinstance(total, int | Decimal):
        return float(Fraction(total) / stats.points)
    small = (total or 0.0) / stats.points
    if stats.big_total is None or not math.isfinite(small):
        return small
    mean = small + stats.big_total / stats.points * BIG_SCALE
    # Rounding may lift a mean of the greatest doubles over all of them: it is finite all the same.
    return max(-sys.float_info.max, min(mean, sys.float_info.max))
