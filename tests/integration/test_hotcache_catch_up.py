"""A flush that nobody tells of costs the entities that it changed, and no others."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atlas_devstack.database import Database

from .hotcache_rig import ACME, GLOBEX, ClusterServers, Rig, pressure, start_rig
from .test_hotcache_freshness import both_hit, release

REMEMBERED = 64


@pytest.fixture(params=["standalone", "cluster"])
async def rig(
    request: pytest.FixtureRequest, fresh_database: Database, tmp_path: Path
) -> AsyncIterator[Rig]:
    servers = None
    if request.param == "cluster":
        servers = ClusterServers(request.getfixturevalue("valkey_cluster"))
    async with start_rig(fresh_database, tmp_path, servers=servers) as rig:
        yield rig


async def notice(rig: Rig) -> None:
    """Let the watcher see what is missing, and lose the time in which it might still be told."""
    await rig.watcher.step()
    rig.clock.offset += 0.4
    await rig.settle()


async def is_caught_up(rig: Rig) -> bool:
    return rig.watcher.proof().lag_seconds < 0.2


@pytest.mark.parametrize("lost", [1, 5])
async def test_a_flush_that_stays_untold_is_made_up_for(rig: Rig, lost: int) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0, [1, 2])
    await rig.hit(ACME, 1)
    await rig.hit(ACME, 2)
    for _ in range(lost):
        rig.write(lane, 2.0, [1])  # The writer dies here.
    assert pressure(await rig.get(ACME, staleness=60)) == 1.0
    await notice(rig)
    assert await is_caught_up(rig)
    kept = await rig.get(ACME, [2])
    assert (kept.hit_count, pressure(kept)) == (1, 1.0)
    changed = await rig.get(ACME, [1])
    assert (changed.hit_count, pressure(changed)) == (0, 2.0)
    assert pressure(await rig.get(GLOBEX, [1], staleness=60)) == -2.0
    assert await rig.generations() == 1
    assert (await rig.status()).caught_up_flushes_total == lost * len(rig.caches)
    # And on from there.
    await rig.write_through(lane, 3.0, [1])
    assert (await rig.get(ACME, token=rig.token(ACME, lane))).bypass_reason == ""
    await both_hit(rig, 3.0)


async def test_a_lost_call_is_made_up_for_when_the_next_one_comes(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0, [1, 2, 3])
    await both_hit(rig, 1.0)
    await rig.hit(ACME, 3)
    rig.write(lane, 2.0, [1])
    await rig.write_through(lane, 3.0, [2])
    await rig.settle()  # No time has passed.
    token = rig.token(ACME, lane)
    found = await rig.get(ACME, [1, 2, 3], token=token)
    assert [pressure(found, at) for at in range(3)] == [2.0, 3.0, 1.0]
    assert (found.hit_count, found.bypass_reason) == (1, "")
    assert pressure(await rig.get(GLOBEX, [1], token=rig.token(GLOBEX, lane))) == -2.0
    assert await rig.generations() == 1


async def test_a_call_that_comes_late_after_all_changes_nothing(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await both_hit(rig, 1.0)
    untold = rig.write(lane, 2.0)
    await notice(rig)
    await both_hit(rig, 2.0)
    await rig.invalidate(lane, untold)
    assert (await rig.get(ACME)).hit_count == 1
    await rig.settle()
    assert await rig.generations() == 1


async def test_a_lane_never_heard_of_is_made_up_for_from_its_beginning(rig: Rig) -> None:
    await rig.write_through(rig.lane(0), 1.0)
    await both_hit(rig, 1.0)
    other = rig.lane(7)
    rig.write(other, 2.0)
    rig.write(other, 3.0)
    await notice(rig)
    await both_hit(rig, 3.0)
    await rig.write_through(other, 4.0)
    await both_hit(rig, 4.0)
    assert await rig.generations() == 1


async def test_a_new_owner_after_an_untold_flush_is_followed(rig: Rig) -> None:
    old = rig.lane()
    await rig.write_through(old, 1.0, [1, 2, 3])
    await both_hit(rig, 1.0)
    await rig.hit(ACME, 3)
    rig.write(old, 2.0, [1])  # Killed before it told.
    release(old)
    new = rig.lane()
    await rig.write_through(new, 3.0, [2])
    await rig.settle()
    found = await rig.get(ACME, [1, 2, 3], token=rig.token(ACME, new))
    assert [pressure(found, at) for at in range(3)] == [2.0, 3.0, 1.0]
    assert found.hit_count == 1
    assert pressure(await rig.get(GLOBEX, [1])) == -2.0
    assert await rig.generations() == 1


async def test_a_fill_from_before_an_untold_flush_loses_to_its_tombstone(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)

    async def flush_and_catch_up() -> None:
        rig.store.after_read = None
        rig.write(lane, 2.0)
        await notice(rig)

    rig.store.after_read = flush_and_catch_up
    assert pressure(await rig.get(ACME)) == 1.0
    assert (await rig.status()).fills_refused_total == 1
    assert pressure(await rig.get(ACME)) == 2.0
    assert await rig.generations() == 1


async def test_more_flushes_than_are_remembered_make_the_cache_forget(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await both_hit(rig, 1.0)
    for _ in range(REMEMBERED + 1):
        rig.write(lane, 2.0)
    await notice(rig)
    assert await rig.generations() == 1  # It may still be told.
    rig.clock.offset += 1.0
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 2.0)


async def test_more_changes_than_are_asked_for_make_the_cache_forget(
    fresh_database: Database, tmp_path: Path
) -> None:
    async with start_rig(fresh_database, tmp_path, catch_up_entities_max=5) as rig:
        lane = rig.lane()
        await rig.write_through(lane, 1.0)
        await both_hit(rig, 1.0)
        rig.write(lane, 2.0, [1, 2])
        rig.write(lane, 3.0, [1])  # Six changes, of both tenants.
        await notice(rig)
        rig.clock.offset += 1.0
        await rig.settle()
        assert await rig.generations() == 2
        assert (await rig.status()).caught_up_flushes_total == 0
        await both_hit(rig, 3.0)


async def test_a_flush_of_very_many_entities_is_not_remembered(rig: Rig) -> None:
    lane = rig.lane()
    rig.admin.execute(
        "SELECT remember_flush(0::smallint, 1, 5, array_fill(1, ARRAY[n]),"
        " array_fill(1::bigint, ARRAY[n]), array_fill(1::bigint, ARRAY[n]))"
        " FROM (VALUES (10001)) AS v (n)"
    )
    kept = rig.admin.execute(
        "SELECT entity_count, changed_entities FROM recent_flushes WHERE (lane, slot) = (0, 5)"
    ).fetchone()
    assert kept == (10_001, None)
    rig.write(lane, 2.0)
    view = await rig.store.missed({0: 0}, 100_000)
    assert [flush.position.sequence for flush in view.flushes] == [1]
