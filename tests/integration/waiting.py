"""Waiting for conditions, with a deadline."""

import asyncio
from collections.abc import Callable
from typing import Any


async def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait until the condition (a function or coroutine function) holds."""
    async with asyncio.timeout(seconds):
        while True:
            outcome = condition()
            if asyncio.iscoroutine(outcome):
                outcome = await outcome
            if outcome:
                return
            await asyncio.sleep(0.01)
