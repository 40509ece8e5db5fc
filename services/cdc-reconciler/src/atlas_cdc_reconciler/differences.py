"""What two sets of rows differ in, row by row; pure, no I/O."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from atlas_cdc_reconciler.canonical import StoredRow


class DifferenceKind(StrEnum):
    """How a row differs."""

    MISSING = "missing"
    """The source has it, the warehouse does not."""
    EXTRA = "extra"
    """The warehouse has it, the source does not; or has it once more."""
    DIFFERENT = "different"
    """Both have a row of the series and times, with another value or quality."""


@dataclass(frozen=True, slots=True)
class Version:
    """What one side has."""

    quality: int
    value: str
    """As in the canonical text."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that differs, with the versions of both sides. Times in microseconds since 1970."""

    kind: DifferenceKind
    entity_id: int
    attribute_id: int
    event_us: int
    ingested_us: int
    source: Version | None
    warehouse: Version | None
    copies: int = 1
    """How many such rows are missing or too many."""


_Key = tuple[int, int, int, int]


def differences(
    source: Iterable[StoredRow], warehouse: Iterable[StoredRow]
) -> Iterator[Difference]:
    """The differences, in order of ingestion and series. Equal rows are counted, not merged."""
    ours, theirs = Counter(source), Counter(warehouse)
    lost, gained = _by_key(ours - theirs), _by_key(theirs - ours)
    for key in sorted(lost.keys() | gained.keys()):
        yield from _of_key(key, lost.get(key, Counter()), gained.get(key, Counter()))


def _by_key(rows: Counter[StoredRow]) -> dict[_Key, Counter[Version]]:
    found: dict[_Key, Counter[Version]] = {}
    for row, count in rows.items():
        key = (row.ingested_us, row.entity_id, row.attribute_id, row.event_us)
        found.setdefault(key, Counter())[Version(row.quality, row.value)] += count
    return found


def _of_key(key: _Key, lost: Counter[Version], gained: Counter[Version]) -> Iterator[Difference]:
    ingested_us, entity_id, attribute_id, event_us = key

    def difference(
        kind: DifferenceKind, source: Version | None, warehouse: Version | None, copies: int
    ) -> Difference:
        return Difference(
            kind, entity_id, attribute_id, event_us, ingested_us, source, warehouse, copies
        )

    ours, theirs = (sorted(rows.items(), key=_by_version) for rows in (lost, gained))
    while ours and theirs:
        (our, our_count), (their, their_count) = ours.pop(0), theirs.pop(0)
        copies = min(our_count, their_count)
        yield difference(DifferenceKind.DIFFERENT, our, their, copies)
        if our_count > copies:
            ours.insert(0, (our, our_count - copies))
        if their_count > copies:
            theirs.insert(0, (their, their_count - copies))
    for version, copies in ours:
        yield difference(DifferenceKind.MISSING, version, None, copies)
    for version, copies in theirs:
        yield difference(DifferenceKind.EXTRA, None, version, copies)


def _by_version(item: tuple[Version, int]) -> tuple[int, str]:
    version, _ = item
    return version.quality, version.value
