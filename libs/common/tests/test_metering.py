"""Buckets and meters, by a clock that is moved by hand."""

import asyncio
import gc
import sys
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_common.config import QuotaConfig
from atlas_common.errors import ServiceError
from atlas_common.metering import Bucket, QuotaMeters
from atlas_common.quotas import NO_QUOTAS, Quotas
from atlas_common.tenant import Tenant
from atlas_common.testing import FakeClock

ACME, GLOBEX = Tenant(1, "acme"), Tenant(2, "globex")


def meters(clock: FakeClock, **config: Any) -> QuotaMeters:
    return QuotaMeters(QuotaConfig(burst_seconds=1, **config), clock)


def refused(error: ServiceError) -> tuple[str, str, str]:
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    return error.reason, error.metadata["quota"], error.metadata["limit"]


def test_a_bucket_gives_what_it_holds_and_then_its_rate() -> None:
    bucket = Bucket(rate=10, burst_seconds=2, now=0)
    assert [bucket.take(1, 0) for _ in range(20)] == [0] * 20
    assert bucket.take(1, 0) == pytest.approx(0.1)
    assert bucket.take(1, 0.1) == 0
    assert bucket.take(1, 0.1) == pytest.approx(0.1)


def test_what_is_larger_than_the_bucket_goes_and_is_repaid() -> None:
    bucket = Bucket(rate=10, burst_seconds=1, now=0)
    assert bucket.take(100, 0) == 0
    assert bucket.take(100, 0) == pytest.approx(9.1)
    assert bucket.take(1, 9.0) == pytest.approx(0.1)
    assert bucket.take(1, 9.2) == 0


def test_a_slow_bucket_holds_one() -> None:
    bucket = Bucket(rate=0.1, burst_seconds=1, now=0)
    assert bucket.take(1, 0) == 0
    assert bucket.take(1, 0) == pytest.approx(10)
    assert bucket.take(1, 10) == 0


def test_a_debt_ends() -> None:
    bucket = Bucket(rate=10, burst_seconds=1, now=0)
    bucket.charge(1e9, 0, debt_seconds_max=60)
    assert bucket.take(0, 0) == pytest.approx(60)
    assert bucket.take(0, 60) == 0


@given(
    rate=st.floats(0.1, 1e6),
    burst=st.floats(0.1, 60),
    asked=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e5)), min_size=1, max_size=50),
)
def test_a_bucket_never_gives_more_than_came_in_what_it_held_and_one_request(
    rate: float, burst: float, asked: list[tuple[float, float]]
) -> None:
    bucket, now, given_, largest = Bucket(rate, burst, 0), 0.0, 0.0, 0.0
    for pause, amount in asked:
        now += pause
        wait = bucket.take(amount, now)
        if wait:
            continue
        given_, largest = given_ + amount, max(largest, amount)
        held = max(1.0, rate * burst)
        assert given_ <= (held + rate * now + largest) * (1 + 1e-9)


@given(rate=st.floats(0.1, 1e6), amount=st.floats(0.5, 1e5))
def test_who_waits_as_long_as_he_is_told_gets_in(rate: float, amount: float) -> None:
    bucket = Bucket(rate, 1, 0)
    assert bucket.take(max(1, rate) + amount, 0) == 0
    wait = bucket.take(amount, 0)
    assert wait > 0
    assert bucket.take(amount, wait * 1.0001) == 0


def test_one_tenants_calls_are_refused_and_not_anothers() -> None:
    clock = FakeClock()
    counted = meters(clock, calls_per_second=2)
    for _ in range(2):
        counted.take_call(ACME)
    with pytest.raises(ServiceError) as caught:
        counted.take_call(ACME)
    assert refused(caught.value) == ("QUOTA_EXCEEDED", "calls_per_second", "2")
    assert caught.value.retry_after == pytest.approx(0.5)
    assert "acme" in caught.value.message
    assert "operator" in caught.value.message
    counted.take_call(GLOBEX)
    clock.advance(0.5)
    counted.take_call(ACME)


def test_points_are_counted_by_the_batch() -> None:
    clock = FakeClock()
    counted = meters(clock, points_per_second=100)
    counted.take_points(ACME, 500)
    with pytest.raises(ServiceError) as caught:
        counted.take_points(ACME, 1)
    assert refused(caught.value) == ("QUOTA_EXCEEDED", "points_per_second", "100")
    assert caught.value.retry_after == pytest.approx(4.01)
    counted.take_points(GLOBEX, 1)


async def test_a_stream_waits_for_its_points_or_is_told_that_it_takes_too_long() -> None:
    counted = QuotaMeters(QuotaConfig(points_per_second=1_000, burst_seconds=0.01))
    counted.take_points(ACME, 40)
    with pytest.raises(ServiceError) as caught:
        await counted.points_in_time(ACME, 1, seconds_max=0.001)
    assert refused(caught.value)[1] == "points_per_second"
    async with asyncio.timeout(30):
        await counted.points_in_time(ACME, 1)
        await counted.points_in_time(GLOBEX, 1)


def test_points_that_are_taken_in_anyway_are_repaid() -> None:
    counted = meters(FakeClock(), points_per_second=100)
    for _ in range(3):
        counted.charge_points(ACME, 100)
    with pytest.raises(ServiceError):
        counted.take_points(ACME, 1)
    counted.take_points(GLOBEX, 1)


def test_streams_are_counted_while_they_last() -> None:
    counted = meters(FakeClock(), concurrent_streams=1)
    with counted.stream(ACME):
        with pytest.raises(ServiceError) as caught, counted.stream(ACME):
            pass
        assert refused(caught.value) == ("QUOTA_EXCEEDED", "concurrent_streams", "1")
        assert caught.value.retry_after
        with counted.stream(GLOBEX):
            pass
    with counted.stream(ACME):
        pass


def test_what_the_warehouse_took_is_charged_afterwards() -> None:
    clock = FakeClock()
    counted = meters(clock, warehouse_seconds_per_minute=6)
    counted.check_warehouse(ACME)
    counted.charge_warehouse(ACME, 9)  # 3 s more than a minute's: half a minute.
    with pytest.raises(ServiceError) as caught:
        counted.check_warehouse(ACME)
    assert refused(caught.value) == ("QUOTA_EXCEEDED", "warehouse_seconds_per_minute", "6")
    assert caught.value.retry_after == pytest.approx(30)
    counted.check_warehouse(GLOBEX)
    clock.advance(30)
    counted.check_warehouse(ACME)


def test_a_tenants_own_quotas_hold_from_its_next_call_on() -> None:
    clock = FakeClock()
    counted = meters(clock, calls_per_second=1, entities=5)
    counted.take_call(ACME)
    raised = Tenant(1, "acme", Quotas(calls_per_second=100, entities=7))
    with pytest.raises(ServiceError):
        counted.take_call(ACME)
    counted.take_call(raised)
    # What began before, and goes on, does not bring the former ones back.
    assert counted.entities(ACME) == 7
    assert counted.attributes(ACME) == QuotaConfig().attributes
    assert counted.entities(GLOBEX) == 5


def test_processes_grant_their_share() -> None:
    counted = meters(FakeClock(), calls_per_second=4, concurrent_streams=3, processes=2)
    for _ in range(2):
        counted.take_call(ACME)
    with pytest.raises(ServiceError) as caught:
        counted.take_call(ACME)
    assert caught.value.metadata["limit"] == "4"  # The tenant's, not this process's.
    with (
        counted.stream(ACME),
        counted.stream(ACME),
        pytest.raises(ServiceError),
        counted.stream(ACME),
    ):
        pass


def test_meters_are_kept_of_so_many_tenants_and_take_so_much_memory() -> None:
    counted = meters(FakeClock(), calls_per_second=1, tenants_max=100)
    counted.take_call(ACME)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1_000, 3_000):
        counted.take_call(Tenant(number, f"t{number}"))
    gc.collect()
    assert len(counted) == 100
    assert len(gc.get_objects()) - before < 100 * 20
    counted.take_call(ACME)  # Forgotten, so it begins anew.
    assert sys.getsizeof(counted._meters) < 100_000


def test_quotas_are_stored_by_name_and_unknown_ones_are_left_out() -> None:
    quotas = Quotas(entities=0, calls_per_second=1.5)
    assert quotas.to_stored() == {"entities": 0, "calls_per_second": 1.5}
    assert Quotas.of({**quotas.to_stored(), "of_next_year": 1}) == quotas
    assert Quotas.of({}) is NO_QUOTAS
    assert Tenant(1, "acme", quotas) == ACME  # Who it is does not change with them.
