"""Which rows are copied: what was asked for, and of that the windows that differ."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_cdc_reconciler.scope import EVER, Scope, ScopeError, WindowState, copied_spans
from atlas_cdc_reconciler.windows import Span


def test_nothing_named_is_everything() -> None:
    scope = Scope.of([], [], None, None)
    assert len(scope.tables) == 7
    assert scope.tenant_ids is None
    assert scope.span == EVER


def test_a_tenant_has_no_tables_of_the_platform() -> None:
    scope = Scope.of([], [1, 2], None, None)
    assert {table.name for table in scope.tables} == {"entities", "attributes", "entity_values_ts"}


def test_a_range_of_time_is_the_historys() -> None:
    scope = Scope.of([], [], 5, None)
    assert [table.name for table in scope.tables] == ["entity_values_ts"]
    assert scope.span == Span(5, EVER.stop_us)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((["no_such"], [], None, None), "tables"),
        ((["entities"], [], 1, 2), "tables"),
        ((["flush_positions"], [1], None, None), "tables"),
        (([], [], 2, 2), "end_time"),
    ],
)
def test_what_cannot_be_copied_is_refused_by_field(arguments: tuple, field: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ScopeError) as refused:
        Scope.of(*arguments)
    assert refused.value.field == field


windows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 50), st.booleans()), max_size=30
).map(
    lambda steps: [
        WindowState(Span(10 * at, 10 * at + 10), rows, differs)
        for at, (rows, differs) in zip(
            _positions([gap for gap, _, _ in steps]), [(r, d) for _, r, d in steps], strict=True
        )
    ]
)


def _positions(gaps: list[int]) -> list[int]:
    at, found = 0, []
    for gap in gaps:
        at += gap
        found.append(at)
        at += 1
    return found


@given(windows, st.integers(1, 100))
def test_spans_cover_what_differs_and_nothing_that_is_equal(
    states: list[WindowState], rows_max: int
) -> None:
    spans = list(copied_spans(states, rows_max))
    for state in states:
        inside = [span for span, _ in spans if _holds(span, state.span)]
        assert len(inside) == state.differs
    for span, rows in spans:
        within = [state for state in states if _holds(span, state.span)]
        assert rows == sum(state.source_rows for state in within)
        assert rows <= rows_max or len(within) == 1
        assert span == Span(within[0].span.start_us, within[-1].span.stop_us)
    assert all(before.stop_us <= after.start_us for (before, _), (after, _) in pairwise(spans))


def _holds(span: Span, window: Span) -> bool:
    return span.start_us <= window.start_us and window.stop_us <= span.stop_us
