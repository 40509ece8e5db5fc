"""`atlas demo` as a user runs it, while every service is killed under it."""

import asyncio
import json
import sys
from typing import Any

import pytest

from atlas_client import AtlasClient, Endpoints
from atlas_devstack.stack import Stack
from atlas_devstack.waiting import Patience, wait_until

_FEED_SECONDS = 45
_START_SECONDS_MAX = 60
"""Of the demo, before it feeds, on a crowded machine."""
_POINTS_BEFORE_A_KILL = 1000


@pytest.mark.timeout(240)
async def test_the_demo_holds_while_every_service_dies_once(stack: Stack) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from atlas_client.cli import main; main()",
        *("demo", "--seconds", str(_FEED_SECONDS), "--json"),
        *("--state", str(stack.state.path), "--tenants", "demo-acme,demo-globex"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_START_SECONDS_MAX + _FEED_SECONDS):
            await _kill_all(stack)
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    summary = json.loads(output)  # One object, and nothing beside it.
    _check(summary)


async def _kill_all(stack: Stack) -> None:
    """SIGKILL one service after another, each when the platform works again and is under load."""
    endpoints = Endpoints.from_json(stack.endpoints.to_json())
    async with AtlasClient.connect(endpoints) as client:
        for name in stack.services:
            await _moved(client)
            await asyncio.to_thread(_kill, stack, name)


async def _moved(client: AtlasClient) -> None:
    """Wait until the warehouse has taken in more: then all the road was travelled."""
    before = (await client.pipeline_status()).applied_total
    target = before + _POINTS_BEFORE_A_KILL
    while (await client.pipeline_status()).applied_total < target:  # noqa: ASYNC110 - elsewhere.
        await asyncio.sleep(0.05)


def _kill(stack: Stack, name: str) -> None:
    service = stack.services[name]
    killed = service.pid
    service.kill()
    wait_until(lambda: service.pid != killed, f"{name} again", patience=Patience())
    service.wait_ready()


def _check(summary: dict[str, Any]) -> None:
    assert summary["ok"] is True
    assert summary["problems"] == []
    points = summary["points"]
    assert points["acknowledged"] == points["primary"] == points["warehouse"] > 5000
    assert set(summary["tenants"]) == {"demo-acme", "demo-globex"}
    one, other = summary["tenants"].values()
    assert one["primary"] != other["primary"]
    assert summary["checksums"]["equal"] is True
    assert set(summary["read_your_write"]) == {"primary", "replica", "cache", "warehouse"}
    for tier, probes in summary["read_your_write"].items():
        assert probes["checks"] > 0, tier
        assert probes["failures"] == 0, tier
    isolation = summary["isolation"]
    assert isolation["ok"] is True
    assert isolation["foreign_tokens_tried"] > isolation["foreign_tokens_accepted"] == 0
