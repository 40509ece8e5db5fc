"""A time limit holds, however work takes being cancelled."""

import asyncio

import pytest

from atlas_query.time_limit import within


async def test_what_is_done_in_time_is_handed_on() -> None:
    async def answer() -> int:
        return 7

    assert await within(5, answer) == 7
    assert await within(None, answer) == 7


async def test_what_fails_fails() -> None:
    async def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await within(5, fail)


async def test_work_that_resists_one_cancellation_gets_another() -> None:
    cancels = 0

    async def stubborn() -> None:
        nonlocal cancels
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels += 1
        raise asyncio.CancelledError

    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError):
            await within(0.01, stubborn)
    assert cancels == 2


async def test_a_cancelled_caller_cancels_the_work() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    caller = asyncio.ensure_future(within(60, work))
    await started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert cancelled.is_set()
