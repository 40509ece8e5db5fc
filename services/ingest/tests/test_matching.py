"""Costly patterns are matched beside the event loop, and only up to a bound."""

import asyncio
import threading
from collections.abc import Mapping

import pytest

from atlas_common.errors import ServiceError
from atlas_common.values import DataType
from atlas_ingest.columns import Checked, Window
from atlas_ingest.matching import INLINE_STEPS_MAX, STEPS_MAX, Matching
from atlas_ingest.row_points import RowPoints
from atlas_ingest.rules import Rule
from atlas_ingest.write import Write

WINDOW = Window(0, 1)


class Points(RowPoints):
    """Knows on which thread it was checked; on another than the test's it waits to be let go."""

    checked_on: threading.Thread | None = None
    begun = threading.Event()
    release = threading.Event()

    def check(self, rules: Mapping[str, Rule], window: Window) -> Checked:  # type: ignore[override]
        type(self).checked_on = threading.current_thread()
        if threading.current_thread() is not threading.main_thread():
            self.begun.set()
            assert self.release.wait(10)
        return super().check(rules, window)


def rules(steps_per_byte: int) -> dict[str, Rule]:
    plain = Rule(1, DataType.TEXT, None)
    return {"plain": plain, "costly": Rule(2, DataType.TEXT, None, None, steps_per_byte)}


async def test_an_ordinary_batch_is_checked_where_it_is() -> None:
    write = Write(columns=Points.empty(), size_bytes=INLINE_STEPS_MAX // 10)
    await Matching().check(write, rules(10), WINDOW)
    assert Points.checked_on is threading.main_thread()
    await Matching().check(write, {}, WINDOW)


async def test_while_a_costly_batch_is_matched_others_go_on() -> None:
    matching = Matching()
    Points.begun.clear()
    Points.release.clear()
    costly = Write(columns=Points.empty(), size_bytes=INLINE_STEPS_MAX)
    waiting = asyncio.ensure_future(matching.check(costly, rules(2), WINDOW))
    assert await asyncio.to_thread(Points.begun.wait, 10)
    cheap = Write(columns=RowPoints.empty(), size_bytes=1)
    assert (await matching.check(cheap, rules(2), WINDOW)).accepted_count == 0
    assert not waiting.done()
    Points.release.set()
    assert (await waiting).accepted_count == 0


async def test_work_beyond_all_bounds_is_refused_with_the_way_out() -> None:
    write = Write(columns=Points.empty(), size_bytes=STEPS_MAX // 1_000 + 1)
    with pytest.raises(ServiceError, match="split it") as refused:
        await Matching().check(write, rules(1_000), WINDOW)
    assert refused.value.reason == "BATCH_TOO_LARGE"
    assert refused.value.metadata["bytes_max"] == str(STEPS_MAX // 1_000)
