"""Each service is replaced under load, by SIGTERM and a new process: no repeatable call fails.

There is one process of each, so for a while there is none: harder on callers than a deployment.
"""

import asyncio

import pytest

from atlas_client import AtlasError, Endpoints
from atlas_devstack.stack import Stack

from .repeating import loaded, more

SERVICES = ("ingest", "hotcache", "query", "cdc-reconciler")

pytestmark = pytest.mark.timeout(240)


def endpoints(stack: Stack) -> Endpoints:
    """As the client takes them."""
    return Endpoints.from_json(stack.endpoints.to_json())


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
