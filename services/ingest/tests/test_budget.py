"""What unanswered calls may hold."""

import pytest

from atlas_common.errors import ServiceError
from atlas_ingest.budget import Budget


def test_beyond_the_bound_calls_are_told_when_to_come_back() -> None:
    budget = Budget(points_max=10, bytes_max=1_000)
    with budget.admit(8, 10):
        with pytest.raises(ServiceError) as refused:
            budget.admit(3, 10)
        assert refused.value.reason == "OVERLOADED"
        assert refused.value.retry_after is not None
        with pytest.raises(ServiceError):
            budget.admit(1, 991)
        with budget.admit(2, 990):
            assert (budget.points, budget.bytes) == (10, 1_000)
    assert (budget.points, budget.bytes) == (0, 0)


def test_one_call_always_fits_when_there_is_no_other() -> None:
    budget = Budget(points_max=10, bytes_max=1_000)
    with budget.admit(11, 5_000):
        assert budget.points == 11
    assert budget.points == 0


def test_a_kept_share_is_given_back_once() -> None:
    budget = Budget(points_max=10, bytes_max=1_000)
    with budget.admit(5, 5) as admission:
        admission.keep()
    assert budget.points == 5
    admission.release()
    admission.release()
    assert (budget.points, budget.bytes) == (0, 0)
