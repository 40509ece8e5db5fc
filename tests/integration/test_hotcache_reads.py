"""GetEntities reads through the cache, per tenant, in the order asked."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atlas.type.v1 import consistency_pb2
from atlas_devstack.database import Database

from .hotcache_rig import ACME, GLOBEX, Rig, pressure, start_rig


@pytest.fixture
async def rig(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database, tmp_path) as rig:
        yield rig


async def test_a_miss_is_read_from_the_primary_and_the_next_call_hits(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.5, [1, 2])
    first = await rig.get(ACME, [1, 2])
    assert (first.hit_count, first.miss_count, first.bypass_reason) == (0, 2, "")
    assert [entity.source for entity in first.entities] == [consistency_pb2.SOURCE_PRIMARY] * 2
    assert first.lag.ToNanoseconds() == 0
    second = await rig.get(ACME, [1, 2])
    assert (second.hit_count, second.miss_count, second.bypass_reason) == (2, 0, "")
    assert [entity.source for entity in second.entities] == [consistency_pb2.SOURCE_CACHE] * 2
    assert [pressure(second, at) for at in (0, 1)] == [1.5, 1.5]
    assert second.entities[0].version == first.entities[0].version > 0
    assert rig.store.read_count == 1


async def test_other_tenants_entities_of_the_same_id_are_never_seen(rig: Rig) -> None:
    await rig.write_through(rig.lane(), 1.5)
    for _ in range(2):  # From the primary, then from the cache.
        assert pressure(await rig.get(ACME)) == 1.5
        assert pressure(await rig.get(GLOBEX)) == -1.5
