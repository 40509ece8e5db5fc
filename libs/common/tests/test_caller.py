"""Whom an audit names: what a caller says of himself never takes the place of who he is."""

import pytest

from atlas_common.caller import Caller, CallerKind, acting, caller_context


@pytest.mark.parametrize(
    ("kind", "named", "wanted"),
    [
        (CallerKind.USER, "", "ada"),
        (CallerKind.USER, "ada", "ada"),
        (CallerKind.USER, "grace", "grace, by ada"),
        (CallerKind.SERVICE, "grace", "grace, by ada"),
        (CallerKind.ANYBODY, "grace", "grace"),
        (CallerKind.ANYBODY, "", "unknown"),
    ],
)
def test_who_acts_is_who_was_verified(kind: CallerKind, named: str, wanted: str) -> None:
    with caller_context(Caller("ada", kind)):
        assert acting(named) == wanted


def test_work_of_our_own_is_done_by_whom_it_says() -> None:
    assert acting("upkeep") == "upkeep"
    assert acting("") == "unknown"
