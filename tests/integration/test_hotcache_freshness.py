"""No read is staler than asked, whatever happens to invalidations, the cache and the primary."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis
from psycopg.types.json import Jsonb

from atlas_common import errors
from atlas_common.token import Position
from atlas_devstack.database import Database

from .hotcache_rig import (
    ACME,
    GLOBEX,
    PRESSURE,
    T0,
    TENANT_IDS,
    ClusterServers,
    Rig,
    invalidation,
    pressure,
    start_rig,
)
from .lane_writer import LaneWriter, RawPoint
from .test_hotcache_reads import refusal


@pytest.fixture(params=["standalone", "cluster"])
async def rig(
    request: pytest.FixtureRequest, fresh_database: Database, tmp_path: Path
) -> AsyncIterator[Rig]:
    servers = None
    if request.param == "cluster":
        servers = ClusterServers(request.getfixturevalue("valkey_cluster"))
    async with start_rig(fresh_database, tmp_path, servers=servers) as rig:
        yield rig


async def both_hit(rig: Rig, value: float) -> None:
    """Both tenants' entity 1 is in the cache with this value."""
    assert pressure(await rig.hit(ACME)) == value
    assert pressure(await rig.hit(GLOBEX)) == -value


def release(lane: LaneWriter) -> None:
    lane.connection.execute("SELECT pg_advisory_unlock_all()")


async def test_after_an_invalidation_the_new_value_is_read(rig: Rig) -> None:
    lane = rig.lane()
    for value in (1.0, 2.0, 3.0):
        await rig.write_through(lane, value)
        await both_hit(rig, value)
    assert await rig.generations() == 1


async def test_a_repeated_invalidation_changes_nothing(rig: Rig) -> None:
    lane = rig.lane()
    first = await rig.write_through(lane, 1.0)
    await both_hit(rig, 1.0)
    await rig.invalidate(lane, first)
    assert (await rig.get(ACME)).hit_count == 1  # The entry has the version of the tombstone.
    await rig.settle()
    assert await rig.generations() == 1


async def test_a_fill_that_read_before_a_flush_loses_to_its_tombstone(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)

    async def flush_meanwhile() -> None:
        rig.store.after_read = None
        await rig.write_through(lane, 2.0)

    rig.store.after_read = flush_meanwhile
    assert pressure(await rig.get(ACME)) == 1.0  # It was so when the call was made.
    assert (await rig.status()).fills_refused_total == 1
    assert pressure(await rig.get(ACME)) == 2.0
    await both_hit(rig, 2.0)


async def test_an_empty_fill_loses_too(rig: Rig) -> None:
    lane = rig.lane()

    async def flush_meanwhile() -> None:
        rig.store.after_read = None
        await rig.write_through(lane, 2.0)

    rig.store.after_read = flush_meanwhile
    assert (await rig.get(ACME)).entities[0].version == 0
    await both_hit(rig, 2.0)


async def test_a_fill_of_entities_that_a_later_flush_left_alone_is_kept(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0, [1, 2])

    async def flush_meanwhile() -> None:
        rig.store.after_read = None
        await rig.write_through(lane, 2.0, [2])

    rig.store.after_read = flush_meanwhile
    await rig.get(ACME, [1, 2])
    assert (await rig.status()).fills_refused_total == 1
    response = await rig.get(ACME, [1, 2])
    assert (response.hit_count, pressure(response, 0), pressure(response, 1)) == (1, 1.0, 2.0)
    assert pressure(await rig.get(GLOBEX, [2])) == -2.0


async def test_a_fill_is_refused_when_its_tombstone_may_have_been_evicted(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await rig.settle()
    direct = rig.direct

    async def flush_and_evict() -> None:
        rig.store.after_read = None
        await rig.write_through(lane, 2.0)
        direct.config_set("maxmemory-policy", "volatile-ttl")  # The state has no TTL: it stays.
        direct.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            direct.set(rig.layout.entity_key(1, 99), "y")
        direct.config_set("maxmemory", 0)
        assert not direct.exists(rig.layout.entity_key(1, 1))
        assert direct.exists(rig.layout.state_key)

    rig.store.after_read = flush_and_evict
    assert pressure(await rig.get(ACME)) == 1.0
    assert not direct.exists(rig.layout.entity_key(1, 1))
    direct.close()
    await both_hit(rig, 2.0)


async def test_a_late_fill_is_refused_though_no_tombstone_is_left(
    fresh_database: Database, tmp_path: Path
) -> None:
    async with start_rig(fresh_database, tmp_path, fill_seconds_max=1e-6) as rig:
        lane = rig.lane()
        await rig.write_through(lane, 1.0)

        async def flush_and_expire() -> None:
            rig.store.after_read = None
            await rig.write_through(lane, 2.0)
            direct = rig.direct
            direct.delete(rig.layout.entity_key(1, 1))
            direct.close()

        rig.store.after_read = flush_and_expire
        assert pressure(await rig.get(ACME)) == 1.0
        await both_hit(rig, 2.0)


async def test_a_missed_invalidation_is_never_served_beyond_the_bound(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await rig.settle()
    await both_hit(rig, 1.0)
    rig.write(lane, 2.0)  # The writer dies here.
    rig.admin.execute("DELETE FROM recent_flushes")
    rig.clock.offset += 0.6
    await rig.watcher.step()
    behind = await rig.get(ACME, staleness=0.5)
    assert (pressure(behind), behind.hit_count) == (2.0, 0)
    assert "behind" in behind.bypass_reason
    stale = await rig.get(GLOBEX, staleness=5)
    assert (pressure(stale), stale.hit_count) == (-1.0, 1)
    assert 0.6 <= stale.lag.ToNanoseconds() / 1e9 < 5
    assert (await rig.status()).lag.ToNanoseconds() >= 0.6e9
    # It stays missing: everything is forgotten, and believed again from the next look on.
    rig.clock.offset += 1.1
    await rig.settle()
    assert await rig.generations() == 2
    fresh = await rig.get(GLOBEX, staleness=5)
    assert (pressure(fresh), fresh.hit_count, fresh.bypass_reason) == (-2.0, 0, "")
    await both_hit(rig, 2.0)


async def test_a_gap_over_what_is_not_remembered_makes_the_cache_forget_at_once(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0, [1, 2])
    await both_hit(rig, 1.0)
    rig.write(lane, 2.0, [1])
    rig.admin.execute("DELETE FROM recent_flushes")
    await rig.write_through(lane, 3.0, [2])
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 2.0)


async def test_a_lane_that_was_never_heard_of_counts_as_behind(rig: Rig) -> None:
    lane, other = rig.lane(0), rig.lane(7)
    await rig.write_through(lane, 1.0)
    await both_hit(rig, 1.0)
    for value in (2.0, 3.0):
        rig.write(other, value)
    rig.admin.execute("DELETE FROM recent_flushes")
    await rig.watcher.step()
    rig.clock.offset += 1.1
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 3.0)
    await rig.write_through(other, 4.0)  # Followed from here on.
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 4.0)


async def test_an_unknown_lanes_call_that_is_not_its_first_is_a_gap(rig: Rig) -> None:
    other = rig.lane(7)
    await rig.write_through(rig.lane(0), 1.0)
    await both_hit(rig, 1.0)
    rig.write(other, 2.0, [1])
    rig.admin.execute("DELETE FROM recent_flushes")
    await rig.write_through(other, 3.0, [2])
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 2.0)


async def test_a_token_is_honoured(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await both_hit(rig, 1.0)
    hit = await rig.get(ACME, token=rig.token(ACME, lane))
    assert (hit.hit_count, pressure(hit)) == (1, 1.0)
    flushed = rig.write(lane, 2.0)
    for tenant, value in ((ACME, 2.0), (GLOBEX, -2.0)):
        response = await rig.get(tenant, token=rig.token(tenant, lane), staleness=60)
        assert (response.hit_count, pressure(response)) == (0, value)
        assert "has not reached sequence 2 of lane 0" in response.bypass_reason
    await rig.invalidate(lane, flushed)
    response = await rig.get(ACME, token=rig.token(ACME, lane))
    assert (response.hit_count, pressure(response), response.bypass_reason) == (1, 2.0, "")


async def test_an_answers_token_is_of_all_that_it_may_show(rig: Rig) -> None:
    """A fill sees a flush before it is announced; who was shown it must not go back behind it."""
    lane = rig.lane()
    announced = await rig.write_through(lane, 1.0, [1, 2])
    await rig.get(ACME, [1])
    unannounced = rig.write(lane, 2.0, [2])
    assert pressure(await rig.get(ACME, [2])) == 2.0
    for _ in range(2):  # Partly from the primary, then all from the cache.
        answer = await rig.get(ACME, [1, 2], staleness=60)
        shown = rig.signer.open(answer.token, TENANT_IDS[ACME])
        held = rig.signer.open(answer.held_token, TENANT_IDS[ACME])
        assert [position.sequence for position in shown] == [unannounced.sequence]
        assert [position.sequence for position in held] == [announced.sequence]
        assert [pressure(answer, at) for at in (0, 1)] == [1.0, 2.0]
    # Another tenant's read, of the primary alone: it holds what it shows.
    answer = await rig.get(GLOBEX, [2])
    shown = rig.signer.open(answer.token, TENANT_IDS[GLOBEX])
    assert shown == rig.signer.open(answer.held_token, TENANT_IDS[GLOBEX])
    assert [position.sequence for position in shown] == [unannounced.sequence]
    # By the token the cache knows itself to be behind, until it is told.
    answer = await rig.get(ACME, [1], token=rig.token(ACME, lane))
    assert (answer.miss_count, pressure(answer)) == (1, 1.0)


async def test_a_token_that_cannot_be_met_fails_and_says_why(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    refused = await refusal(rig.get(ACME, token=rig.token(ACME, lane, sequence=2)))
    assert (refused.code.name, refused.reason) == ("UNAVAILABLE", "FRESHNESS_UNMET")
    ahead = rig.token(ACME, lane, sequence=2)
    release(lane)
    rig.lane()  # A new claim begins at sequence 2: the old owner's never happened.
    refused = await refusal(rig.get(ACME, token=ahead))
    assert (refused.code.name, refused.reason) == ("FAILED_PRECONDITION", "POSITION_LOST")
    refused = await refusal(rig.get(GLOBEX, token=ahead))
    assert refused.reason == "TOKEN_WRONG_TENANT"
    assert pressure(await rig.get(GLOBEX)) == -1.0


async def test_a_lanes_new_owner_is_followed_without_forgetting(rig: Rig) -> None:
    old = rig.lane()
    await rig.write_through(old, 1.0, [1, 2])
    await both_hit(rig, 1.0)
    token = rig.token(ACME, old)
    release(old)
    new = rig.lane()
    assert (new.epoch > old.epoch, new.sequence) == (True, 1)
    await rig.settle()
    assert (await rig.get(ACME, token=token)).hit_count == 1
    await rig.write_through(new, 2.0, [2])
    await rig.settle()
    assert await rig.generations() == 1
    kept = await rig.get(ACME, token=token)  # Of the old epoch, reached in the new one.
    assert (kept.hit_count, pressure(kept)) == (1, 1.0)
    assert pressure(await rig.get(GLOBEX, [2], token=rig.token(GLOBEX, new))) == -2.0


async def test_an_old_owners_late_call_changes_nothing(rig: Rig) -> None:
    old = rig.lane()
    first = await rig.write_through(old, 1.0)
    release(old)
    new = rig.lane()
    await rig.write_through(new, 2.0)
    await both_hit(rig, 2.0)
    await rig.invalidate(old, first)
    await rig.settle()
    await both_hit(rig, 2.0)
    assert await rig.generations() == 1


async def test_what_the_primary_lost_is_forgotten(rig: Rig) -> None:
    """Flushes commit asynchronously: a crash takes the newest, which may have been cached."""
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    saved = rig.admin.execute("SELECT * FROM entity_jsonb").fetchall()
    await rig.write_through(lane, 2.0)
    await both_hit(rig, 2.0)
    await rig.settle()
    lose_last_flush(rig, saved)
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 1.0)


async def test_a_lost_flush_that_was_read_but_never_announced_is_forgotten(rig: Rig) -> None:
    """The next owner's first flush has the lost one's sequence: to the marks there is no gap."""
    old = rig.lane()
    await rig.write_through(old, 1.0)
    saved = rig.admin.execute("SELECT * FROM entity_jsonb").fetchall()
    rig.write(old, 2.0)
    await both_hit(rig, 2.0)  # Read from the primary, ahead of the mark.
    lose_last_flush(rig, saved)
    release(old)
    new = rig.lane()
    assert new.sequence == 1
    await rig.write_through(new, 3.0, [2])
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 1.0)


def lose_last_flush(rig: Rig, saved: list[tuple[object, ...]]) -> None:
    """Take the database back to before its last flush, as a crash does."""
    rig.admin.execute("UPDATE flush_positions SET sequence = sequence - 1")
    rig.admin.execute("DELETE FROM entity_jsonb")
    for row in saved:
        rig.admin.execute(
            "INSERT INTO entity_jsonb (tenant_id, entity_id, version, attrs, attr_times)"
            " SELECT %s, %s, %s, %s, %s",
            [*row[:3], *map(Jsonb, row[3:])],
        )


async def test_flushall_costs_misses_and_nothing_else(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await both_hit(rig, 1.0)
    rig.flushall()
    empty = await rig.get(ACME)
    assert (pressure(empty), empty.bypass_reason) == (1.0, "the cache is not ready yet")
    await rig.invalidate(lane, rig.write(lane, 2.0))  # Into an empty cache: fine.
    await rig.settle()
    await both_hit(rig, 2.0)


async def test_a_fill_from_before_flushall_is_refused(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)

    async def flushall_meanwhile() -> None:
        rig.store.after_read = None
        rig.write(lane, 2.0)
        rig.flushall()
        await rig.settle()  # A new generation, whose marks are at the second flush.

    rig.store.after_read = flushall_meanwhile
    assert pressure(await rig.get(ACME)) == 1.0
    await both_hit(rig, 2.0)


@pytest.mark.parametrize("field", ["run_id", "source"])
async def test_another_server_on_either_side_is_not_believed(rig: Rig, field: str) -> None:
    await rig.write_through(rig.lane(), 1.0)
    await both_hit(rig, 1.0)
    direct = rig.direct
    direct.hset(rig.layout.state_key, field, "another")
    direct.close()
    await rig.settle()
    assert await rig.generations() == 2
    await both_hit(rig, 1.0)


async def test_a_generation_is_ended_once(rig: Rig) -> None:
    before = (await rig.cache.status()).state
    assert before is not None
    assert await rig.cache.forget(before, before.run_id, before.source, [Position(0, 1, 5)])
    assert not await rig.cache.forget(before, before.run_id, before.source, [])
    after = (await rig.cache.status()).state
    assert after is not None
    assert after.generation != before.generation
    assert after.marks == {0: Position(0, 1, 5)}


async def test_the_poll_is_part_of_the_lag(rig: Rig) -> None:
    await rig.write_through(rig.lane(), 1.0)
    await rig.settle()
    await both_hit(rig, 1.0)
    rig.clock.offset += 10.0  # The primary cannot be asked for so long.
    response = await rig.get(ACME)
    assert (response.hit_count, response.miss_count) == (0, 1)
    assert response.bypass_reason.startswith("cache is 10.")
    assert (await rig.get(GLOBEX, staleness=60)).hit_count == 1


async def test_a_flush_of_too_many_entities_makes_the_cache_forget(
    fresh_database: Database, tmp_path: Path
) -> None:
    async with start_rig(fresh_database, tmp_path, invalidated_entities_max=3) as rig:
        lane = rig.lane()
        await rig.write_through(lane, 1.0)
        await both_hit(rig, 1.0)
        await rig.write_through(lane, 2.0, [1, 2])
        await rig.settle()
        assert await rig.generations() == 2
        await both_hit(rig, 2.0)


async def test_a_large_flush_is_applied_in_parts_before_its_mark_moves(rig: Rig) -> None:
    lane = rig.lane()
    ids = list(range(1, 1201))
    await rig.write_through(lane, 1.0, ids)
    await rig.get(ACME, ids[:1000])
    assert (await rig.get(ACME, ids[:1000], staleness=60)).hit_count == 1000
    await rig.write_through(lane, 2.0, ids)
    response = await rig.get(ACME, ids[:1000], token=rig.token(ACME, lane))
    assert (response.miss_count, response.bypass_reason) == (1000, "")
    assert {pressure(response, at) for at in range(1000)} == {2.0}
    assert pressure(await rig.get(GLOBEX, [1200])) == -2.0


async def test_an_invalidation_that_cannot_be_applied_says_so(rig: Rig) -> None:
    lane = rig.lane()
    flushed = rig.write(lane, 1.0)
    for node in rig.servers.nodes:
        node.pause()
    refused: errors.ServiceError = await refusal(
        rig.stub.InvalidateEntities(invalidation(lane, flushed), timeout=5)
    )
    assert refused.reason == "DEPENDENCY_UNAVAILABLE"
    for node in rig.servers.nodes:
        node.resume()


async def test_late_points_change_no_entry(rig: Rig) -> None:
    lane = rig.lane()
    await rig.write_through(lane, 1.0)
    await both_hit(rig, 1.0)
    late = lane.write([RawPoint(1, 1, PRESSURE, T0, 9.0), RawPoint(2, 1, PRESSURE, T0, 9.0)])
    await rig.invalidate(lane, late)
    assert (await rig.get(ACME, token=rig.token(ACME, lane))).hit_count == 1
    await both_hit(rig, 1.0)
