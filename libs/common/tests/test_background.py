"""The supervisor of background tasks."""

import asyncio

import pytest

from atlas_common.background import BACKOFF_SECONDS_MIN, Supervisor
from atlas_common.errors import FatalError


async def test_a_task_that_dies_is_started_again() -> None:
    lives: list[float] = []
    enough = asyncio.Event()

    async def work() -> None:
        lives.append(asyncio.get_running_loop().time())
        if len(lives) == 3:
            enough.set()
        raise LookupError

    async with Supervisor() as tasks:
        tasks.start("work", work)
        async with asyncio.timeout(10):
            await enough.wait()
    first, second, third = lives
    assert second - first >= BACKOFF_SECONDS_MIN * 0.9
    assert third - second >= BACKOFF_SECONDS_MIN * 1.8  # The wait grows.


async def test_a_task_that_returns_is_finished() -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    async with Supervisor() as tasks:
        tasks.start("work", work)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert runs == 1


async def test_the_end_of_the_block_cancels_and_awaits_the_tasks() -> None:
    cleaned = False

    async def work() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    async with Supervisor() as tasks:
        tasks.start("work", work)
        await asyncio.sleep(0)
    assert cleaned


async def test_a_fatal_error_ends_the_block_and_leaves_it() -> None:
    async def work() -> None:
        raise FatalError("superuser")

    async def block() -> None:
        async with Supervisor() as tasks:
            tasks.start("work", work)
            await asyncio.Event().wait()

    with pytest.raises(FatalError, match="superuser"):
        async with asyncio.timeout(10):
            await block()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # The cancellation was ours and is used up.


async def test_a_cancellation_from_outside_stays_one() -> None:
    inside = asyncio.Event()

    async def block() -> None:
        async with Supervisor():
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_tasks_start_within_the_block() -> None:
    async def work() -> None: ...

    with pytest.raises(RuntimeError, match="within"):
        Supervisor().start("work", work)
