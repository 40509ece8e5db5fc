"""Whether a cache entry says what the projection says. Pure.

The rows are of a snapshot, and the entries were looked up after the marks had reached that
snapshot's positions: so no entry of its generation may be older than its row (marks.py). A newer
one belongs to a flush that came after the snapshot, unless a second snapshot, taken after the
look-up, is still older: then the entry is of no history of the primary at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from atlas_hotcache.ports import HotRow, HotValue


class Verdict(StrEnum):
    """What an entry is, compared with its row."""

    EQUAL = "equal"
    NEWER = "newer"
    """To be judged by a later snapshot."""
    WRONG = "wrong"


class CachedValue(NamedTuple):
    """A value in an entry: as encoded text, to be compared and shown."""

    text: str
    event_time_us: int


@dataclass(frozen=True, slots=True)
class CacheDifference:
    """An attribute that an entry has otherwise than its row; None: not at all."""

    entity_id: int
    attribute: str
    kind: str
    expected: CachedValue | None
    found: CachedValue | None


def judge(row: HotRow, version: int, *, differs: bool) -> Verdict:
    """What an entry of this version is, whose values do or do not differ from the row's.

    An entry ahead of the primary is bad whatever it says: no later tombstone would replace it.
    """
    if version > row.version:
        return Verdict.NEWER
    return Verdict.WRONG if differs else Verdict.EQUAL


def whole_entry(entity_id: int, verdict: Verdict) -> CacheDifference:
    """A difference that is no single attribute's."""
    return CacheDifference(entity_id, "", verdict.value, None, None)


def differences(
    row: HotRow, held: Mapping[str, CachedValue], shown: Mapping[str, CachedValue]
) -> list[CacheDifference]:
    """How an entry differs from what would be shown of its row."""
    found: list[CacheDifference] = []
    for name in sorted(held.keys() | shown.keys()):
        expected, cached = shown.get(name), held.get(name)
        if expected == cached:
            continue
        found.append(
            CacheDifference(row.entity_id, name, _kind(expected, cached), expected, cached)
        )
    return found


def hot_only(row: HotRow, hot: frozenset[str]) -> tuple[HotValue, ...]:
    """The row's values of hot attributes: others may or may not be cached."""
    return tuple(value for value in row.values if value.attribute in hot)


def _kind(expected: CachedValue | None, found: CachedValue | None) -> str:
    if found is None:
        return "missing"
    if expected is None:
        return "extra"
    if found.event_time_us == expected.event_time_us:
        return "wrong"
    return "older" if found.event_time_us < expected.event_time_us else "newer"
