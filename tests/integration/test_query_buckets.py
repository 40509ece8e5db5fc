"""A downsampled history is what plain Python makes of the points; and so are its pages."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_common.values import datetime_to_us

from .lane_writer import RawPoint
from .query_reading import ACME, GLOBEX, T0, Reading, as_tenant, reading_stack, refusal

PRESSURE, STATE, STROKES, PRICE = 1, 2, 14, 15
NAMES = {PRESSURE: "pressure", STATE: "state", STROKES: "strokes", PRICE: "price"}
COLUMNS = {
    PRESSURE: "value_double",
    STATE: "value_text",
    STROKES: "value_int",
    PRICE: "value_decimal",
}
NUMERIC = ["pressure", "price", "strokes"]
MIN, MAX, AVG, LAST, FIRST, COUNT = range(1, 7)
SECOND = 1_000_000


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory, server_options: Any) -> Iterator[Reading]:
    with reading_stack(tmp_path_factory.mktemp("buckets"), server_options) as reading:
        for tenant_id in (ACME, GLOBEX):
            reading.admin.execute(
                "INSERT INTO attributes (tenant_id, attribute_id, name, data_type) VALUES"
                " (%(t)s, 14, 'strokes', 'int'), (%(t)s, 15, 'price', 'decimal')",
                {"t": tenant_id},
            )
        yield reading


@dataclass(frozen=True)
class Sample:
    """A point of pump-1; `us` after the example's beginning."""

    us: int
    attribute: int
    value: Any


def samples() -> st.SearchStrategy[list[Sample]]:
    times = st.integers(0, 20 * SECOND) | st.integers(0, 20).map(lambda s: s * SECOND)
    doubles = st.floats(allow_nan=True, allow_infinity=True)
    decimals = st.decimals(-(10**15), 10**15, places=6, allow_nan=False, allow_infinity=False)
    return st.lists(
        st.builds(Sample, times, st.just(PRESSURE), doubles)
        | st.builds(Sample, times, st.just(STROKES), st.integers(-(2**63), 2**63 - 1))
        | st.builds(Sample, times, st.just(PRICE), decimals)
        | st.builds(Sample, times, st.just(STATE), st.text("abc", max_size=3)),
        min_size=1,
        max_size=40,
    )


def evaluate(function: int, points: Sequence[Sample]) -> Any:
    """By the contract's words. `points` are in the order of their arrival."""
    values = [point.value for point in points]
    by_time = sorted(points, key=lambda point: point.us)  # Stable: ties stay as they arrived.
    match function:
        case 1:
            return min(values, key=order)
        case 2:
            return max(values, key=order)
        case 3:
            return mean(values)
        case 4:
            return by_time[-1].value
        case 5:
            return by_time[0].value
    return len(values)


def order(value: Any) -> tuple[bool, Any]:
    """NaN is greater than all numbers."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return is_nan, 0 if is_nan else value


def mean(values: Sequence[Any]) -> float:
    if not all(math.isfinite(value) for value in values):
        return math.nan if any(map(math.isnan, values)) else sum(v for v in values if math.isinf(v))
    return float(sum(map(Fraction, values)) / len(values))


def plain(message: value_pb2.Value) -> Any:
    kind = message.WhichOneof("kind")
    value = getattr(message, str(kind))
    return Decimal(value) if kind == "decimal_value" else value


def same(function: int, got: Any, wanted: Any, scale: float) -> bool:
    if isinstance(got, float) and math.isnan(got):
        return isinstance(wanted, float) and math.isnan(wanted)
    if function == AVG:  # Doubles are added up in an order of the database's own.
        return math.isclose(got, wanted, rel_tol=1e-9, abs_tol=scale * 1e-12)
    return bool(got == wanted)


def request(bucket_us: int, functions: Sequence[int], **fields: Any) -> pb.GetHistoryRequest:
    message = pb.GetHistoryRequest(entity_key="pump-1", **fields)
    message.consistency.strong.SetInParent()
    message.downsample.bucket.FromMicroseconds(bucket_us)
    message.downsample.functions.extend(functions)  # type: ignore[arg-type]
    return message


def ask(
    reading: Reading, message: pb.GetHistoryRequest, tenant: int = ACME
) -> list[pb.GetHistoryResponse]:
    return list(reading.query.GetHistory(message, metadata=as_tenant(tenant), timeout=30))


def paged(reading: Reading, message: pb.GetHistoryRequest, tenant: int = ACME) -> list[pb.Bucket]:
    """All buckets, over as many pages as the limit makes of them."""
    buckets: list[pb.Bucket] = []
    while True:
        answers = ask(reading, message, tenant)
        buckets += [bucket for answer in answers for bucket in answer.buckets]
        if not answers[-1].HasField("next_start_time"):
            return buckets
        message.start_time.CopyFrom(answers[-1].next_start_time)


def refused(reading: Reading, message: pb.GetHistoryRequest) -> Any:
    with pytest.raises(grpc.RpcError) as raised:
        ask(reading, message)
    return refusal(raised.value)


_examples = iter(range(100_000))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    points=samples(),
    flushes=st.integers(1, 3),
    bucket_us=st.sampled_from([1, 700_000, SECOND, 3 * SECOND, 86_400 * SECOND]),
    bounds=st.tuples(st.integers(0, 10 * SECOND), st.integers(11 * SECOND, 21 * SECOND)),
    limit=st.sampled_from([0, 4, 7]),
)
def test_buckets_are_what_plain_python_makes_of_the_points(
    reading: Reading,
    points: list[Sample],
    flushes: int,
    bucket_us: int,
    bounds: tuple[int, int],
    limit: int,
) -> None:
    begin = T0 + next(_examples) * timedelta(hours=25)  # A time of its own for each example.
    size = -(-len(points) // flushes)
    for at in range(0, len(points), size):
        write(reading, begin, points[at : at + size])
    start, end = (begin + timedelta(microseconds=us) for us in bounds)
    for names, functions in (
        (NUMERIC, [MIN, MAX, AVG, LAST, FIRST, COUNT]),
        ([*NUMERIC, "state"], [COUNT, LAST, FIRST]),
    ):
        got = paged(
            reading,
            request(
                bucket_us, functions, attributes=names, start_time=start, end_time=end, limit=limit
            ),
        )
        check(got, expected(begin, points, bucket_us, bounds, names), functions)


def write(reading: Reading, begin: Any, points: Sequence[Sample]) -> None:
    """The points for acme; others, at the same times, for globex."""
    foreign = {PRESSURE: 1e9, STROKES: 77, PRICE: Decimal(77), STATE: "theirs"}
    rows = [
        RawPoint(
            tenant_id,
            1,
            point.attribute,
            begin + timedelta(microseconds=point.us),
            point.value if tenant_id == ACME else foreign[point.attribute],
            column=COLUMNS[point.attribute],
        )
        for point in points
        for tenant_id in (ACME, GLOBEX)
    ]
    reading.writer.write(rows)


Groups = dict[tuple[int, int], list[Sample]]


def expected(
    begin: Any,
    points: Sequence[Sample],
    bucket_us: int,
    bounds: tuple[int, int],
    names: Sequence[str],
) -> Groups:
    """(bucket's beginning, attribute) -> its points, in the order of the answer."""
    groups: Groups = {}
    origin = datetime_to_us(begin)
    for point in points:
        if bounds[0] <= point.us < bounds[1] and NAMES[point.attribute] in names:
            us = origin + point.us
            groups.setdefault((us - us % bucket_us, point.attribute), []).append(point)
    return dict(sorted(groups.items()))


def check(got: Sequence[pb.Bucket], wanted: Groups, functions: Sequence[int]) -> None:
    assert [(bucket.bucket_time_us, bucket.attribute) for bucket in got] == [
        (us, NAMES[attribute]) for us, attribute in wanted
    ]
    for bucket, points in zip(got, wanted.values(), strict=True):
        numbers = [abs(p.value) for p in points if not isinstance(p.value, str)]
        scale = float(max((n for n in numbers if math.isfinite(n)), default=0))
        for function, result in zip(functions, bucket.results, strict=True):
            value = evaluate(function, points)
            assert same(function, plain(result), value, scale), (function, bucket, points)


def test_another_tenant_has_its_own_buckets_under_the_same_keys(reading: Reading) -> None:
    begin = T0 - timedelta(days=10)
    write(reading, begin, [Sample(0, STROKES, 5), Sample(1, STROKES, 6)])
    end = begin + timedelta(hours=1)
    wanted = request(SECOND, [MAX], attributes=["strokes"], start_time=begin, end_time=end)
    assert [plain(b.results[0]) for b in paged(reading, wanted, GLOBEX)] == [77]
    assert [plain(b.results[0]) for b in paged(reading, wanted, ACME)] == [6]


def test_a_long_range_is_answered_slice_by_slice_over_its_gaps(reading: Reading) -> None:
    """A second's buckets over 50 years: only where there are points is anything looked at."""
    begin = T0 - timedelta(days=50 * 365)
    days = [0, 1, 400, 9_000, 18_000]
    write(
        reading,
        begin,
        [
            Sample(day * 86_400 * SECOND + n * SECOND, STROKES, n)
            for day in days
            for n in range(1_500)
        ],
    )
    wanted = request(SECOND, [COUNT], attributes=["strokes"], start_time=begin,
                     end_time=begin + timedelta(days=18_001))  # fmt: skip
    answers = ask(reading, wanted)
    assert answers[0].HasField("metadata")
    assert not any(answer.HasField("metadata") for answer in answers[1:])
    assert max(len(answer.buckets) for answer in answers) <= 1_000
    assert len(answers[0].buckets) < 10  # The first one does not wait for many.
    buckets = [bucket for answer in answers for bucket in answer.buckets]
    assert len(buckets) == len(days) * 1_500
    assert [b.bucket_time_us for b in buckets] == sorted(b.bucket_time_us for b in buckets)


def test_without_names_all_attributes_are_shown_if_the_functions_are_of_all(
    reading: Reading,
) -> None:
    begin = T0 - timedelta(days=20)
    write(reading, begin, [Sample(0, STROKES, 5), Sample(1, STATE, "on"), Sample(2, PRESSURE, 1.0)])
    end = begin + timedelta(hours=1)
    shown = paged(reading, request(3600 * SECOND, [LAST], start_time=begin, end_time=end))
    assert [bucket.attribute for bucket in shown] == ["pressure", "state", "strokes"]
    answer = refused(reading, request(SECOND, [AVG], start_time=begin, end_time=end))
    assert answer[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "TYPE_MISMATCH")
    assert (answer[2]["attribute"], answer[3]) == ("state", "downsample.functions")


def test_nothing_is_an_answer_with_its_proof(reading: Reading) -> None:
    (answer,) = ask(
        reading,
        request(SECOND, [COUNT], attributes=["strokes"], end_time=T0 - timedelta(days=36_500)),
    )
    assert answer.metadata.endpoint == "primary"
    assert not answer.buckets


@pytest.mark.parametrize(
    ("bucket_us", "functions", "fields", "field"),
    [
        (0, [COUNT], {}, "downsample.bucket"),
        (-1, [COUNT], {}, "downsample.bucket"),
        (101 * 366 * 86_400 * SECOND, [COUNT], {}, "downsample.bucket"),
        (SECOND, [], {}, "downsample.functions"),
        (SECOND, [COUNT, 99], {}, "downsample.functions[1]"),
        (SECOND, [COUNT], {"attributes": ["nope"]}, "attributes"),
        (SECOND, [MIN], {"attributes": ["strokes", "state"]}, "downsample.functions"),
        (SECOND, [COUNT] * 17, {}, "functions"),
    ],
)
def test_bad_requests_name_their_field(
    reading: Reading, bucket_us: int, functions: list[int], fields: dict[str, Any], field: str
) -> None:
    answer = refused(reading, request(bucket_us, functions, **fields))
    assert (answer[0], answer[3]) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_a_bucket_with_more_attributes_than_the_limit_is_refused(reading: Reading) -> None:
    begin = T0 - timedelta(days=30)
    write(reading, begin, [Sample(0, STROKES, 5), Sample(1, PRESSURE, 1.0)])
    wanted = request(SECOND, [COUNT], attributes=["strokes", "pressure"], limit=1,
                     start_time=begin, end_time=begin + timedelta(hours=1))  # fmt: skip
    answer = refused(reading, wanted)
    assert (answer[1], answer[3]) == ("INVALID_FIELD", "limit")
