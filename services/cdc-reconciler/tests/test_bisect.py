"""From a window that differs to the very rows, by time, by hash and by rows, and no further."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atlas_cdc_reconciler import bisect
from atlas_cdc_reconciler.bisect import Bisector, Found
from atlas_cdc_reconciler.canonical import StoredRow, shortened, tagged, untagged
from atlas_cdc_reconciler.differences import DifferenceKind, differences
from atlas_cdc_reconciler.digest import Digest
from atlas_cdc_reconciler.windows import Span, WindowComparison
from atlas_common.tenant import Tenant
from atlas_common.values import DataType

ACME = Tenant(1, "acme")
WINDOW = Span(0, 60_000_000)
ROWS = st.builds(
    StoredRow,
    ingested_us=st.integers(0, 59),
    entity_id=st.integers(1, 3),
    attribute_id=st.integers(1, 2),
    event_us=st.integers(0, 1),
    quality=st.integers(0, 1),
    value=st.integers(0, 2).map(lambda number: tagged(DataType.INT, number)),
)


class Copy:
    """One side, in memory."""

    def __init__(self, rows: Sequence[StoredRow]) -> None:
        self.all = list(rows)
        self.rows_read = 0

    async def digests(self, tenant: Tenant, span: Span, width_us: int) -> dict[int, Digest]:
        made: dict[int, Digest] = {}
        for row in self._within(span):
            number = row.ingested_us // width_us
            made[number] = made.get(number, Digest()) + row.digest(tenant.id)
        return made

    async def buckets(self, tenant: Tenant, span: Span, digits: int) -> dict[str, Digest]:
        made: dict[str, Digest] = {}
        for row in self._within(span):
            digest = row.digest(tenant.id)
            bucket = _hash(digest)[:digits]
            made[bucket] = made.get(bucket, Digest()) + digest
        return made

    async def rows(
        self, tenant: Tenant, span: Span, digits: int, buckets: Sequence[str], rows_max: int
    ) -> list[StoredRow]:
        wanted = set(buckets)
        found = [
            row for row in self._within(span) if _hash(row.digest(tenant.id))[:digits] in wanted
        ][:rows_max]
        self.rows_read += len(found)
        return found

    def _within(self, span: Span) -> list[StoredRow]:
        return [row for row in self.all if span.start_us <= row.ingested_us < span.stop_us]


def _hash(digest: Digest) -> str:
    return f"{(digest.high << 60) + digest.low:030x}"


def window(source: Copy, warehouse: Copy) -> WindowComparison:
    totals = [
        sum((row.digest(ACME.id) for row in copy.all), Digest()) for copy in (source, warehouse)
    ]
    return WindowComparison(WINDOW, *totals)


def series(count: int, ingested_us: int | None = None) -> list[StoredRow]:
    return [
        StoredRow(number * 1_000 if ingested_us is None else ingested_us, number, 1, 7, 0, "i1:5")
        for number in range(count)
    ]


@settings(deadline=None)
@given(st.lists(ROWS, max_size=20), st.lists(ROWS, max_size=20))
def test_differences_turn_one_side_into_the_other(
    ours: list[StoredRow], theirs: list[StoredRow]
) -> None:
    healed = Counter(theirs)
    for one in differences(ours, theirs):
        row = StoredRow(one.ingested_us, one.entity_id, one.attribute_id, one.event_us, 0, "")
        for version, change in ((one.source, one.copies), (one.warehouse, -one.copies)):
            if version is not None:
                healed[replace(row, quality=version.quality, value=version.value)] += change
        is_both = one.source is not None and one.warehouse is not None
        assert is_both == (one.kind is DifferenceKind.DIFFERENT)
    assert +healed == Counter(ours)
    assert not list(differences(ours, ours))


@pytest.mark.parametrize("at_once", [False, True], ids=["spread over time", "of one flush"])
async def test_one_row_among_many_is_found_and_few_are_read(
    monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    monkeypatch.setattr(bisect, "_ROWS_AT_ONCE_MAX", 50)
    rows = series(3_000, 17 if at_once else None)
    damaged = [replace(row, value="i1:6") if row.entity_id == 1_234 else row for row in rows]
    source, warehouse = Copy(rows), Copy(damaged)
    found = await Bisector(source, warehouse, 100).find(ACME, window(source, warehouse))
    (one,) = found.differences
    assert found.is_complete
    assert (one.kind, one.entity_id) == (DifferenceKind.DIFFERENT, 1_234)
    assert source.rows_read + warehouse.rows_read <= 400


async def test_more_than_may_be_named_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bisect, "_ROWS_AT_ONCE_MAX", 50)
    source, warehouse = Copy(series(1_000)), Copy([])
    found = await Bisector(source, warehouse, 10).find(ACME, window(source, warehouse))
    assert len(found.differences) == 10
    assert not found.is_complete


async def test_more_than_may_be_read_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two equal sides would differ."""
    monkeypatch.setattr(bisect, "_ROWS_READ_MAX", 20)
    rows = [*series(1), *[series(1)[0]] * 50]
    source, warehouse = Copy(rows), Copy(rows[:-1])
    found = await Bisector(source, warehouse, 10).find(ACME, window(source, warehouse))
    assert found == Found((), is_complete=False)


def test_only_what_is_found_twice_counts() -> None:
    first, second = series(2)
    both = tuple(differences([first, second], []))
    later = tuple(differences([second], []))
    assert Found(both, True).and_still(Found(later, True)) == Found(later, True)
    assert not Found(both, True).and_still(Found((), False)).is_complete


def test_values_are_shown_for_people() -> None:
    assert untagged(tagged(DataType.DOUBLE, -0.0)) == (DataType.DOUBLE, "-0.0")
    assert untagged(tagged(DataType.DOUBLE, float("nan"))) == (DataType.DOUBLE, "nan")
    assert untagged(tagged(DataType.BOOL, False)) == (DataType.BOOL, "false")
    assert untagged(tagged(DataType.TEXT, "12:3|ü")) == (DataType.TEXT, "12:3|ü")
    assert untagged(tagged(DataType.TIME, 1)) == (
        DataType.TIME,
        "1970-01-01T00:00:00.000001+00:00",
    )
    assert untagged("t16:7fffffffffffffff") == (
        DataType.TIME,
        "9224318721654775807 us since 1970",
    )


def test_long_values_are_cut_and_told_apart() -> None:
    one, other = (tagged(DataType.TEXT, "x" * 5_000 + end) for end in "ab")
    assert len(shortened(one)) < 1_100
    assert shortened(one) != shortened(other)
    assert shortened("i1:5") == "i1:5"
