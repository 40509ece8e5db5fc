"""Windows of ingested_at: half-open, aligned to 1970, in microseconds. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from atlas_cdc_reconciler.digest import Digest


@dataclass(frozen=True, order=True, slots=True)
class Span:
    """A half-open range of ingested_at, in microseconds since 1970."""

    start_us: int
    stop_us: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing lies in it."""
        return self.start_us >= self.stop_us


@dataclass(frozen=True, slots=True)
class WindowComparison:
    """One window on both sides."""

    span: Span
    source: Digest
    warehouse: Digest

    @property
    def is_matched(self) -> bool:
        """Whether the two sides hold the same rows."""
        return self.source == self.warehouse

    def __add__(self, later: "WindowComparison") -> "WindowComparison":
        """Both as one, of two that adjoin in one window."""
        return WindowComparison(
            Span(self.span.start_us, later.span.stop_us),
            self.source + later.source,
            self.warehouse + later.warehouse,
        )

    def is_retired(self, floor_us: int) -> bool:
        """Whether retention dropped it at the source, which has nothing before `floor_us`."""
        return self.source.rows == 0 and self.span.stop_us <= floor_us


def align_down(moment_us: int, width_us: int) -> int:
    """The start of the window that holds the moment."""
    return moment_us // width_us * width_us


def cut(span: Span, piece_us: int) -> Iterator[Span]:
    """Consecutive pieces of the span; cuts lie on multiples of `piece_us` since 1970."""
    start = span.start_us
    while start < span.stop_us:
        stop = min(align_down(start, piece_us) + piece_us, span.stop_us)
        yield Span(start, stop)
        start = stop


def pieces(numbers: Iterable[int], span: Span, piece_us: int) -> Iterator[Span]:
    """Those pieces that `cut` would make which have these numbers since 1970, in order."""
    for number in sorted(numbers):
        yield Span(
            max(number * piece_us, span.start_us), min((number + 1) * piece_us, span.stop_us)
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a span."""

    span: Span
    is_occupied: bool


def between(occupied: Iterable[Span], span: Span) -> Iterator[Part]:
    """The whole span in order: the occupied spans in it, and the gaps that they leave."""
    start = span.start_us
    for part in occupied:
        if start < part.start_us:
            yield Part(Span(start, part.start_us), is_occupied=False)
        yield Part(part, is_occupied=True)
        start = part.stop_us
    if start < span.stop_us:
        yield Part(Span(start, span.stop_us), is_occupied=False)


def halves(span: Span, piece_us: int) -> tuple[Span, Span]:
    """Both halves of a span longer than a piece, cut at a multiple of `piece_us` since 1970."""
    middle = align_down((span.start_us + span.stop_us) // 2, piece_us)
    if middle <= span.start_us:
        middle += piece_us
    return Span(span.start_us, middle), Span(middle, span.stop_us)


def joined(starts: Iterable[int], width_us: int, windows_max: int) -> Iterator[Span]:
    """Spans that cover the windows with these starts, in order, and no others."""
    begin: int | None = None
    end = 0
    for start in sorted(starts):
        if begin is not None and start == end and end - begin < windows_max * width_us:
            end += width_us
            continue
        if begin is not None:
            yield Span(begin, end)
        begin, end = start, start + width_us
    if begin is not None:
        yield Span(begin, end)


def paired(
    source: Mapping[int, Digest], warehouse: Mapping[int, Digest], span: Span, width_us: int
) -> list[WindowComparison]:
    """The windows of the span that have rows on either side, in order.

    The digests are by the windows' numbers since 1970. A window that the span cuts short is shown
    as long as it was compared.
    """
    none = Digest()
    return [
        WindowComparison(
            Span(
                max(number * width_us, span.start_us),
                min((number + 1) * width_us, span.stop_us),
            ),
            source.get(number, none),
            warehouse.get(number, none),
        )
        for number in sorted(source.keys() | warehouse.keys())
    ]
