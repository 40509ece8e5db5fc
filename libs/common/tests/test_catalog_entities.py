"""EntityIds: bounded by bytes, apart by tenant, and the used ones stay."""

import pytest

from atlas_common.catalog import EntityIds

ACME, GLOBEX = 1, 2


def keys(first: int, count: int) -> dict[str, int]:
    return {f"pump-{n}": n for n in range(first, first + count)}


def test_tenants_have_their_own_keys() -> None:
    ids = EntityIds(2**20)
    ids.put(ACME, {"a": 1, "b": 2})
    ids.put(GLOBEX, {"a": 3})
    assert ids.find(ACME, ["a", "b", "c"]) == ({"a": 1, "b": 2}, ["c"])
    assert ids.find(GLOBEX, ["a", "b"]) == ({"a": 3}, ["b"])
    assert ids.find(3, ["a"]) == ({}, ["a"])


def test_a_million_keys_stay_within_the_bound() -> None:
    bytes_max = 2**20
    ids = EntityIds(bytes_max)
    for first in range(0, 1_000_000, 1_000):
        ids.put(ACME, keys(first, 1_000))
        assert ids.size_bytes <= bytes_max + 1_000 * 200  # And what one call brought.
    assert 2_000 < len(ids) < 10_000
    # The newest are known.
    assert ids.find(ACME, keys(999_000, 1_000)) == (keys(999_000, 1_000), [])


def test_what_is_asked_for_is_not_forgotten() -> None:
    ids = EntityIds(2**20)
    used = {f"used-{n}": n for n in range(100)}
    ids.put(GLOBEX, used)
    for first in range(0, 100_000, 1_000):
        ids.put(ACME, keys(first, 1_000))
        assert ids.find(GLOBEX, used) == (used, [])
    ids.put(GLOBEX, {"unused": 1})
    for first in range(0, 100_000, 1_000):
        ids.put(ACME, keys(first, 1_000))
    assert ids.find(GLOBEX, ["unused"]) == ({}, ["unused"])


def test_many_small_tenants_are_bounded_too() -> None:
    ids = EntityIds(2**20)
    for tenant_id in range(1, 50_000):
        ids.put(tenant_id, {"only": tenant_id})
    assert len(ids) < 5_000


def test_a_cache_without_room_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="room"):
        EntityIds(0)
