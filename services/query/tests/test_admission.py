"""The primary takes so many reads from others, and no more."""

import asyncio

import pytest

from atlas_common.errors import ServiceError
from atlas_query.admission import Admission


async def test_beyond_the_cap_reads_wait_their_turn() -> None:
    admission = Admission(reads_max=1, waiting_max=1, wait_seconds=30, refusal="full")
    turns: list[str] = []

    async def second() -> None:
        async with admission.admitted():
            turns.append("second")

    async with admission.admitted():
        waiting = asyncio.ensure_future(second())
        await asyncio.sleep(0)
        assert turns == []
    async with asyncio.timeout(5):
        await waiting
    assert turns == ["second"]


async def test_beyond_the_queue_they_are_refused_at_once() -> None:
    admission = Admission(reads_max=1, waiting_max=0, wait_seconds=30, refusal="full")
    async with admission.admitted():
        with pytest.raises(ServiceError) as raised:
            async with admission.admitted():
                pass
    assert raised.value.reason == "OVERLOADED"
    assert raised.value.retry_after is not None
    async with admission.admitted():
        pass


async def test_who_waits_too_long_is_refused_and_leaves_no_trace() -> None:
    admission = Admission(reads_max=1, waiting_max=5, wait_seconds=0.01, refusal="full")
    async with admission.admitted():
        with pytest.raises(ServiceError):
            async with admission.admitted():
                pass
    async with admission.admitted():
        pass
