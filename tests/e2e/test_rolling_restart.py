"""Each service is replaced under load, by SIGTERM and a new process: no repeatable call fails.

First the only process of each, so for a while there is none: harder on callers than a deployment.
Then one of two, while the other serves.
"""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import pytest

from atlas_client import AtlasError, Endpoints
from atlas_devstack.services import Service
from atlas_devstack.stack import Stack

from .repeating import loaded, more

SERVICES = ("ingest", "hotcache", "query", "cdc-reconciler")

pytestmark = pytest.mark.timeout(240)


def endpoints(stack: Stack, query: str | None = None) -> Endpoints:
    """As the client takes them."""
    found = Endpoints.from_json(stack.endpoints.to_json())
    return replace(found, query=query or found.query)


@pytest.mark.parametrize("service", SERVICES)
async def test_no_repeatable_call_fails_while_a_service_is_replaced(
    stack: Stack, service: str
) -> None:
    async with loaded(endpoints(stack)) as loads:
        await more(loads)
        before = stack.services[service].pid
        await asyncio.to_thread(stack.services[service].restart)
        assert stack.services[service].pid != before
        await more(loads)


def together(*processes: Service) -> str:
    """The address of several processes, as a name with several addresses would be resolved."""
    return "ipv4:" + ",".join(process.target for process in processes)


async def test_of_two_processes_one_serves_while_the_other_is_away(stack: Stack) -> None:
    """Those that callers ask, and those that they ask in turn."""
    query, hotcache = stack.services["query"], stack.services["hotcache"]
    other_hotcache = stack.beside("hotcache", 2, {})
    told = {"ATLAS_HOTCACHE__TARGET": together(hotcache, other_hotcache)}
    other_query = stack.beside("query", 2, told)
    with ExitStack() as cleanup:
        for process in (other_hotcache, other_query):
            cleanup.callback(process.stop)
        for process in (query, hotcache):
            cleanup.callback(run_again, process)
        await all_of(Service.start, other_hotcache, other_query)
        async with loaded(endpoints(stack, query=together(query, other_query))) as loads:
            await more(loads)
            for process in (query, hotcache):
                await asyncio.to_thread(process.stop)
                await more(loads)
            await all_of(Service.start, query, hotcache)
            await asyncio.to_thread(other_query.stop)
            await more(loads)


async def all_of(act: Callable[[Service], None], *processes: Service) -> None:
    """At the same time."""
    await asyncio.gather(*(asyncio.to_thread(act, process) for process in processes))


def run_again(process: Service) -> None:
    if not process.is_running():
        process.start()


async def test_a_call_that_fails_is_not_overlooked(stack: Stack) -> None:
    """The load itself: what one call raises ends the test."""

    async def one_goes_astray() -> None:
        async with loaded(endpoints(stack)) as loads:
            loads[1].client = loads[1].client.for_tenant("nobody-there")
            await more(loads)

    with pytest.raises(ExceptionGroup) as caught:
        await one_goes_astray()
    assert all(
        isinstance(error, AtlasError) and error.reason == "TENANT_UNKNOWN"
        for error in caught.value.exceptions
    )
