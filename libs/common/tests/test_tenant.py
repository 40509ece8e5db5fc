"""Tenants and the context they run in."""

import asyncio

import pytest

from atlas_common.errors import ServiceError
from atlas_common.tenant import (
    Tenant,
    check_tenant_key,
    current_tenant,
    tenant_context,
    tenant_or_none,
)

ACME = Tenant(1, "acme")
GLOBEX = Tenant(2, "globex")


@pytest.mark.parametrize("key", ["a", "acme", "a-1", "0", "x" * 63])
def test_keys(key: str) -> None:
    assert check_tenant_key(key) == key


@pytest.mark.parametrize("key", ["", "-a", "a-", "Acme", "a b", "a\n", "é", "a\0", "x" * 64, "١"])
def test_what_is_no_key(key: str) -> None:
    with pytest.raises(ServiceError, match="INVALID_FIELD"):
        check_tenant_key(key)


@pytest.mark.parametrize("id_", [0, -1, 2**31])
def test_what_is_no_id(id_: int) -> None:
    with pytest.raises(ValueError, match="id"):
        Tenant(id_, "acme")


def test_without_a_tenant_there_is_an_error_not_a_default() -> None:
    assert tenant_or_none() is None
    with pytest.raises(ServiceError, match="UNAUTHENTICATED TENANT_MISSING"):
        current_tenant()


async def test_tasks_at_the_same_time_keep_their_own_tenant() -> None:
    both_inside = asyncio.Barrier(2)

    async def work(tenant: Tenant) -> Tenant:
        with tenant_context(tenant):
            await both_inside.wait()
            return current_tenant()

    assert list(await asyncio.gather(work(ACME), work(GLOBEX))) == [ACME, GLOBEX]
    assert tenant_or_none() is None


def test_contexts_nest() -> None:
    with tenant_context(ACME):
        with tenant_context(GLOBEX):
            assert current_tenant() == GLOBEX
        assert current_tenant() == ACME
