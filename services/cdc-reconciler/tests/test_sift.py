"""Finding what is at fault among many: all of it, once each, and little work besides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_cdc_reconciler.sink.sift import sift


@given(st.integers(0, 300), st.sets(st.integers(0, 299)))
def test_all_faults_are_found_and_the_rest_is_done_once(count: int, bad: set[int]) -> None:
    bad = {at for at in bad if at < count}

    def work(start: int, stop: int) -> list[int]:
        part = list(range(start, stop))
        if not bad.isdisjoint(part):
            raise ValueError(min(bad.intersection(part)))
        return part

    done, found = sift(count, work, (ValueError,))
    assert [at for at, _ in found] == sorted(bad)
    assert [str(error) for _, error in found] == [str(at) for at in sorted(bad)]
    assert [at for _, _, part in done for at in part] == [
        at for at in range(count) if at not in bad
    ]
    assert all(part == list(range(start, stop)) for start, stop, part in done)


def test_where_nothing_is_at_fault_there_is_one_call() -> None:
    calls: list[tuple[int, int]] = []
    sift(50_000, lambda start, stop: calls.append((start, stop)), (ValueError,))
    assert calls == [(0, 50_000)]
    assert sift(0, lambda *_: pytest.fail("there is nothing to do"), (ValueError,)) == ([], [])


def test_a_thousand_among_fifty_thousand_cost_a_dozen_passes() -> None:
    looked_at = 0

    def work(start: int, stop: int) -> None:
        nonlocal looked_at
        looked_at += stop - start
        if any(at % 50 == 7 for at in range(start, stop)):
            raise ValueError

    _, found = sift(50_000, work, (ValueError,))
    assert len(found) == 1_000
    assert looked_at < 50_000 * 14


def test_other_errors_are_not_its_business() -> None:
    def work(_start: int, _stop: int) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        sift(3, work, (ValueError,))
