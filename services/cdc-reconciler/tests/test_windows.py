"""Windows: what is compared is exactly what was asked for, once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.windows import (
    Span,
    align_down,
    between,
    cut,
    halves,
    joined,
    paired,
    pieces,
)

WIDTH = 10


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 500), st.integers(1, 70))
def test_pieces_cover_the_span_and_end_on_edges(start: int, length: int, piece: int) -> None:
    span = Span(start, start + length)
    cuts = list(cut(span, piece))
    edges = [span.start_us, *(part.stop_us for part in cuts)]
    assert [part.start_us for part in cuts] == edges[:-1]
    assert edges[-1] == span.stop_us
    assert all(edge % piece == 0 for edge in edges[1:-1])
    assert all(align_down(part.start_us, piece) + piece >= part.stop_us for part in cuts)
    numbers = {part.start_us // piece for part in cuts}
    assert list(pieces(numbers, span, piece)) == cuts


@settings(deadline=None)
@given(st.sets(st.integers(0, 40)), st.integers(1, 5))
def test_joined_windows_are_those_and_no_others(numbers: set[int], windows_max: int) -> None:
    spans = list(joined([number * WIDTH for number in numbers], WIDTH, windows_max))
    covered = [
        number for span in spans for number in range(span.start_us // WIDTH, span.stop_us // WIDTH)
    ]
    assert covered == sorted(numbers)
    assert all(span.stop_us - span.start_us <= windows_max * WIDTH for span in spans)


@settings(deadline=None)
@given(st.sets(st.integers(0, 30)), st.integers(0, 100), st.integers(1, 200))
def test_occupied_pieces_and_their_gaps_cover_the_span(
    numbers: set[int], start: int, length: int
) -> None:
    span = Span(start, start + length)
    occupied = [part for part in cut(span, WIDTH) if part.start_us // WIDTH in numbers]
    parts = list(between(occupied, span))
    edges = [span.start_us, *(part.span.stop_us for part in parts)]
    assert [part.span.start_us for part in parts] == edges[:-1]
    assert edges[-1] == span.stop_us
    assert [part.span for part in parts if part.is_occupied] == occupied


@given(st.integers(0, 1000), st.integers(1, 500), st.integers(1, 70))
@settings(deadline=None)
def test_halves_cover_the_span_and_each_is_shorter(start: int, more: int, piece: int) -> None:
    span = Span(start, start + piece + more)
    first, second = halves(span, piece)
    assert (first.start_us, first.stop_us, second.stop_us) == (start, second.start_us, span.stop_us)
    assert first.stop_us % piece == 0
    assert not first.is_empty
    assert not second.is_empty


def test_windows_with_rows_on_either_side_are_paired() -> None:
    one, two = Digest(1, 5, 6), Digest(2, 7, 8)
    windows = paired({3: one, 4: one}, {4: one, 5: two}, Span(30, 57), WIDTH)
    assert [(w.span, w.source.rows, w.warehouse.rows, w.is_matched) for w in windows] == [
        (Span(30, 40), 1, 0, False),
        (Span(40, 50), 1, 1, True),
        (Span(50, 57), 0, 2, False),
    ]


def test_digests_add_up() -> None:
    total = Digest(1, 2**60 - 1, 2**60 - 1) + Digest(1, 1, 1)
    assert total == Digest(2, 2**60, 2**60)
    assert int(total.checksum, 16) == (2**60 << 60) + 2**60
    assert Digest().checksum == "0"
