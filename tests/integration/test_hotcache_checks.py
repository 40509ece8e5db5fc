"""A wrong entry is noticed, counted and forgotten; lag and load alone are never taken for one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from atlas_devstack.database import Database
from atlas_hotcache import entry
from atlas_hotcache.checker import Verdict
from atlas_hotcache.entry import Entry

from .hotcache_load import under_load
from .hotcache_rig import ACME, GLOBEX, TENANT_IDS, ClusterServers, Rig, pressure, start_rig
from .waiting import eventually

ALL: dict[str, Any] = {"checked_share": 1.0, "checks_per_second_max": 1000.0}


@pytest.fixture(params=["standalone", "cluster"])
async def rig(
    request: pytest.FixtureRequest, fresh_database: Database, tmp_path: Path
) -> AsyncIterator[Rig]:
    servers = None
    if request.param == "cluster":
        servers = ClusterServers(request.getfixturevalue("valkey_cluster"))
    async with start_rig(fresh_database, tmp_path, servers=servers, **ALL) as rig:
        yield rig


async def checked(rig: Rig, tenant: str = ACME) -> Verdict:
    """What the checker finds of the entity that was answered last."""
    sampler = rig.checker._sampler
    while not sampler._samples.empty():
        sampler._samples.get_nowait()
    await rig.get(tenant, staleness=60)
    async with asyncio.timeout(5):
        return await rig.checker.check(await sampler.next())


def plant(rig: Rig, version_change: int = 0, body: bytes | None = None) -> int:
    """Replace acme's entry by one of another version or body; answer its version."""
    direct = rig.direct
    key = rig.layout.entity_key(TENANT_IDS[ACME], 1)
    raw = direct.get(key)
    assert isinstance(raw, bytes)
    held = entry.decode(raw)
    assert held is not None
    planted = Entry(held.generation, held.version + version_change, body or held.body)
    direct.set(key, entry.encode(planted), px=300_000)
    direct.close()
    return planted.version


async def counted(rig: Rig) -> tuple[int, int]:
    status = await rig.status()
    return status.checks_total, status.inconsistencies_total


async def test_what_is_right_is_consistent(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await rig.settle()
    for tenant in (ACME, GLOBEX):
        await rig.hit(tenant)
        assert await checked(rig, tenant) is Verdict.CONSISTENT
    assert await counted(rig) == (2, 0)


@pytest.mark.parametrize(("version_change", "is_of_another"), [(-1, False), (0, True), (1, False)])
async def test_a_planted_entry_is_counted_and_forgotten(
    rig: Rig, capsys: pytest.CaptureFixture[str], version_change: int, is_of_another: bool
) -> None:
    await rig.write_through(rig.lane(), 4321.5, [1])
    await rig.settle()
    await rig.hit(ACME)
    await rig.hit(GLOBEX)
    other = (await rig.caches[2 % len(rig.caches)].lookup(2, [1])).entries[1]
    version = plant(rig, version_change, other.body if is_of_another else None)
    assert await checked(rig) is Verdict.INCONSISTENT
    assert await counted(rig) == (1, 1)
    logged = capsys.readouterr().out
    assert "the cache is inconsistent" in logged
    assert f"cached_version={version}" in logged
    assert "entity_id=1" in logged
    assert "4321" not in logged
    await rig.settle()
    assert await rig.generations() == 2
    assert pressure(await rig.get(ACME)) == 4321.5
    assert pressure(await rig.get(GLOBEX)) == -4321.5


async def test_an_entry_that_is_late_is_none_that_is_wrong(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await rig.settle()
    await rig.hit(ACME)
    untold = rig.write(lane, 2.0)
    checking = asyncio.create_task(checked(rig))
    await asyncio.sleep(0.15)  # It looks, and finds that the marks are not there yet.
    assert not checking.done()
    await rig.invalidate(lane, untold)
    assert await checking is Verdict.CONSISTENT
    assert await counted(rig) == (1, 0)
    assert pressure(await rig.get(GLOBEX)) == -2.0


async def test_a_late_entry_whose_tombstone_never_comes_is_found_out(rig: Rig) -> None:
    """The mark has passed the flush, and the entry of before is still there."""
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await rig.settle()
    await rig.hit(ACME)
    untold = rig.write(lane, 2.0)
    checking = asyncio.create_task(checked(rig))
    await asyncio.sleep(0.15)
    untold.changed.clear()  # A flush that says it changed nothing.
    await rig.invalidate(lane, untold)
    assert await checking is Verdict.INCONSISTENT
    assert await counted(rig) == (1, 1)
    await rig.settle()
    assert pressure(await rig.get(ACME)) == 2.0
    assert pressure(await rig.get(GLOBEX)) == -2.0


async def test_load_alone_is_never_inconsistent(fresh_database: Database, tmp_path: Path) -> None:
    async with (
        start_rig(fresh_database, tmp_path, watch=True, **ALL) as rig,
        under_load(rig),
    ):
        await eventually(lambda: is_checked(rig, 100), 60)
        assert (await counted(rig))[1] == 0


async def is_checked(rig: Rig, count: int) -> bool:
    return (await counted(rig))[0] >= count


async def test_nothing_is_checked_where_that_is_off(
    fresh_database: Database, tmp_path: Path
) -> None:
    async with start_rig(fresh_database, tmp_path, watch=True, checked_share=0) as rig:
        await rig.write_through(rig.lane(), 1.0)
        await rig.hit(ACME)
        for _ in range(50):
            assert pressure(await rig.get(ACME, staleness=60)) == 1.0
        assert await counted(rig) == (0, 0)
