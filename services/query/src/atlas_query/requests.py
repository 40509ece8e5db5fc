"""Requests as the domain sees them. Pure."""

from dataclasses import dataclass
from datetime import datetime

from atlas_query.filters import Filter


@dataclass(frozen=True, slots=True)
class HistoryRange:
    """Half-open in event time, None: no bound; at most `limit` readings."""

    start_time: datetime | None
    end_time: datetime | None
    limit: int


@dataclass(frozen=True, slots=True)
class Page:
    """Which entities to find: up to `size` of those that match, with ids above `after`."""

    filter: Filter
    after: int
    size: int
