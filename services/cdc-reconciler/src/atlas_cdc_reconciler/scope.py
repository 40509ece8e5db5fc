"""Which rows are to be copied again; pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from atlas_cdc_reconciler.tables import HISTORY, TABLES, Table
from atlas_cdc_reconciler.windows import Span

EVER = Span(0, 253_402_300_799_999_999)
"""All times of ingestion that a row can have, 1970 to 9999."""


class ScopeError(ValueError):
    """A scope that names nothing, or what cannot be copied by itself; `field` is at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Scope:
    """Rows by table, tenant and, in the history, time of ingestion (half-open)."""

    tables: tuple[Table, ...] = tuple(TABLES.values())
    tenant_ids: tuple[int, ...] | None = None
    """None: all tenants."""
    span: Span = EVER

    @classmethod
    def of(
        cls,
        table_names: Iterable[str],
        tenant_ids: Iterable[int],
        start_us: int | None,
        stop_us: int | None,
    ) -> "Scope":
        """What was asked for; nothing named means all there is. Raises ScopeError."""
        names, tenants = tuple(table_names), tuple(tenant_ids)
        by_time = start_us is not None or stop_us is not None
        for name in names:
            if name not in TABLES:
                raise ScopeError("tables", f"the warehouse has no table {name}")
        if by_time and set(names) - {HISTORY.name}:
            raise ScopeError("tables", f"only {HISTORY.name} is copied by time")
        span = Span(
            EVER.start_us if start_us is None else max(start_us, EVER.start_us),
            EVER.stop_us if stop_us is None else min(stop_us, EVER.stop_us),
        )
        if span.is_empty:
            raise ScopeError("end_time", "the range of time ends before it begins")
        if names:
            tables = tuple(TABLES[name] for name in names)
        elif by_time:
            tables = (HISTORY,)
        else:
            tables = tuple(TABLES.values())
        if tenants:
            tables = tuple(table for table in tables if table.by_tenant)
            if not tables:
                raise ScopeError("tables", "these tables are no tenant's")
        return cls(tables, tenants or None, span)

    @property
    def keyed(self) -> tuple[Table, ...]:
        """Its tables with a key: they are copied whole."""
        return tuple(table for table in self.tables if table.key)

    @property
    def has_history(self) -> bool:
        """Whether the history is in it."""
        return HISTORY in self.tables

    def __str__(self) -> str:
        tenants = "all tenants" if self.tenant_ids is None else f"tenants {list(self.tenant_ids)}"
        where = ", ".join(table.name for table in self.tables)
        when = "" if self.span == EVER else f", ingested {self.span.start_us}..{self.span.stop_us}"
        return f"{where} of {tenants}{when}"


@dataclass(frozen=True, slots=True)
class WindowState:
    """One window that has rows on either side."""

    span: Span
    source_rows: int
    differs: bool


def copied_spans(windows: Iterable[WindowState], rows_max: int) -> Iterator[tuple[Span, int]]:
    """Spans that cover the windows that differ, and no others, with their rows at the source.

    A span has at most `rows_max` rows, unless one window alone has more. Between two windows of one
    span nothing lies on either side. `windows` are in order.
    """
    begin: int | None = None
    stop = rows = 0
    for window in windows:
        fits = window.differs and rows + window.source_rows <= rows_max
        if begin is not None and not fits:
            yield Span(begin, stop), rows
            begin = None
        if window.differs:
            if begin is None:
                begin, rows = window.span.start_us, 0
            stop, rows = window.span.stop_us, rows + window.source_rows
    if begin is not None:
        yield Span(begin, stop), rows
