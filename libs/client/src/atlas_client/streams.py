"""Answers that come bit by bit."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Generic, TypeVar

from atlas_client.records import (
    ReadMetadata,
    ReconcileSummary,
    RepairSummary,
    TableResult,
    WindowDifferences,
    WindowRepair,
    WindowResult,
)

T = TypeVar("T")


class ReadStream(AsyncIterator[T], Generic[T]):
    """An asynchronous iterator over a read's answer, which also says what served it.

    Breaking off a loop leaves the call open until the object is dropped; `await stream.aclose()`
    ends it at once.
    """

    def __init__(self, items: AsyncGenerator[T | ReadMetadata, None]) -> None:
        self._items = items
        self.metadata: ReadMetadata | None = None
        """Known once the first item (or the end) has come; of the latest page."""
        self._observer: Callable[[ReadMetadata], None] | None = None

    def observed_by(self, observer: Callable[[ReadMetadata], None]) -> "ReadStream[T]":
        """Tell `observer` the metadata as they come, before the items they belong to."""
        self._observer = observer
        return self

    async def __anext__(self) -> T:
        async for item in self._items:
            if isinstance(item, ReadMetadata):
                self.metadata = item
                if self._observer is not None:
                    self._observer(item)
            else:
                return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the call."""
        await self._items.aclose()


class Reconciliation(AsyncIterator[WindowResult]):
    """An asynchronous iterator over compared windows; the summary is known at its end."""

    def __init__(
        self,
        events: AsyncGenerator[
            TableResult | WindowResult | WindowDifferences | ReconcileSummary, None
        ],
    ) -> None:
        self._events = events
        self._summary: ReconcileSummary | None = None
        self.differences: list[WindowDifferences] = []
        """The rows at fault, of the windows so far."""
        self.tables: list[TableResult] = []
        """The catalog's tables, which come before the windows."""

    async def __anext__(self) -> WindowResult:
        async for event in self._events:
            match event:
                case ReconcileSummary():
                    self._summary = event
                case WindowDifferences():
                    self.differences.append(event)
                case TableResult():
                    self.tables.append(event)
                case WindowResult():
                    return event
        raise StopAsyncIteration

    async def summary(self) -> ReconcileSummary:
        """Go to the end and return the summary."""
        async for _ in self:
            pass
        assert self._summary is not None, "a reconciliation ended without its summary"
        return self._summary

    async def aclose(self) -> None:
        """End the call."""
        await self._events.aclose()


class Repair(AsyncIterator[WindowRepair]):
    """An asynchronous iterator over repaired windows; the summary is known at its end."""

    def __init__(self, events: AsyncGenerator[WindowRepair | RepairSummary, None]) -> None:
        self._events = events
        self._summary: RepairSummary | None = None

    async def __anext__(self) -> WindowRepair:
        async for event in self._events:
            if isinstance(event, WindowRepair):
                return event
            self._summary = event
        raise StopAsyncIteration

    async def summary(self) -> RepairSummary:
        """Go to the end and return the summary."""
        async for _ in self:
            pass
        assert self._summary is not None, "a repair ended without its summary"
        return self._summary

    async def aclose(self) -> None:
        """End the call."""
        await self._events.aclose()
