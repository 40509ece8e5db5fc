"""Every planted difference is found, with both values; repair puts right it and nothing else."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas.hotcache.v1 import hotcache_service_pb2 as hot_pb
from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common.values import datetime_to_us
from atlas_devstack.database import Database
from atlas_hotcache import entry

from .hotcache_rig import ACME, GLOBEX, PRESSURE, T0, Rig, pressure, start_rig
from .lane_writer import RawPoint
from .projection_rig import (
    DONE,
    FORGETFUL,
    finish,
    flush,
    job,
    new_runner,
    promote,
    rebuild,
    rows,
    serial,
    until_step,
    verify,
)

BOTH = (1, 2)
T1_US = datetime_to_us(T0 + timedelta(seconds=1))
# How the projection of pump-2's pressure (2.0 at T0 + 1 s) is spoilt, and what verify calls it.
PLANTS: dict[str, tuple[str, int, int]] = {
    "missing": (
        "UPDATE entity_jsonb SET attrs = attrs - '1', attr_times = attr_times - '1'",
        pb.ProjectionDifference.KIND_MISSING,
        1,
    ),
    "no row": ("DELETE FROM entity_jsonb", pb.ProjectionDifference.KIND_MISSING, 1),
    "extra": (
        'UPDATE entity_jsonb SET attrs = attrs || \'{"2": "on"}\', attr_times = attr_times'
        " || '{\"2\": 5}'",
        pb.ProjectionDifference.KIND_EXTRA,
        1,
    ),
    "of a cold attribute": (
        'UPDATE entity_jsonb SET attrs = attrs || \'{"3": "a"}\', attr_times = attr_times'
        " || '{\"3\": 5}'",
        pb.ProjectionDifference.KIND_EXTRA,
        1,
    ),
    "older": (
        "UPDATE entity_jsonb SET attrs = attrs || '{\"1\": 1.5}', attr_times = '{\"1\": 5}'",
        pb.ProjectionDifference.KIND_OLDER,
        1,
    ),
    "newer": (
        "UPDATE entity_jsonb SET attr_times = '{\"1\": 4000000000000000}'",
        pb.ProjectionDifference.KIND_NEWER,
        1,
    ),
    "wrong": (
        "UPDATE entity_jsonb SET attrs = attrs || '{\"1\": 99.5}'",
        pb.ProjectionDifference.KIND_WRONG,
        1,
    ),
}


@pytest.fixture
async def rig(fresh_database: Database, tmp_path: Path) -> AsyncIterator[Rig]:
    async with start_rig(fresh_database, tmp_path, projection=FORGETFUL) as rig:
        yield rig


async def write_three(rig: Rig) -> None:
    """Each pump has its number as its pressure, and its negative in the other tenant."""
    points = [
        RawPoint(t, e, PRESSURE, T0 + timedelta(seconds=1), e * (1.0 if t == 1 else -1.0))
        for t in BOTH
        for e in (1, 2, 3)
    ]
    await flush(rig, rig.lane(), points)


@pytest.mark.parametrize("plant", PLANTS)
async def test_a_planted_difference_is_found_and_repaired_alone(rig: Rig, plant: str) -> None:
    await write_three(rig)
    good = rows(rig, ACME)
    statement, kind, count = PLANTS[plant]
    rig.admin.execute(f"{statement} WHERE (tenant_id, entity_id) = (1, 2)")
    spoilt, theirs = rows(rig, ACME), rows(rig, GLOBEX)

    found = await finish(rig, (await verify(rig)).job_id)
    assert found.missing_count + found.extra_count + found.different_count == count
    assert (found.state, found.repaired_count, rows(rig, ACME)) == (DONE, 0, spoilt)
    (one,) = found.differences
    assert (one.kind, one.place) == (kind, pb.ProjectionDifference.PLACE_PROJECTION)
    assert (one.entity_id, one.entity_key) == (2, "pump-2")
    if kind != pb.ProjectionDifference.KIND_EXTRA:
        assert (one.attribute, one.expected) == ("pressure", "2")
        assert one.expected_time.ToMicroseconds() == T1_US

    repaired = await finish(rig, (await verify(rig, repair=True)).job_id)
    assert repaired.repaired_count == count
    now = rows(rig, ACME)
    assert [row[3:] for row in now] == [row[3:] for row in good]
    assert [row for row in now if row[1] != 2] == [row for row in good if row[1] != 2]
    again = await finish(rig, (await verify(rig)).job_id)
    assert (again.missing_count, again.extra_count, again.different_count) == (0, 0, 0)
    assert (rows(rig, ACME), rows(rig, GLOBEX)) == (now, theirs)


async def test_both_values_of_a_difference_are_told(rig: Rig) -> None:
    await write_three(rig)
    rig.admin.execute(
        "UPDATE entity_jsonb SET attrs = '{\"1\": 99.5}' WHERE (tenant_id, entity_id) = (1, 2)"
    )
    found = await finish(rig, (await verify(rig, entity_keys=["pump-2"])).job_id)
    (one,) = found.differences
    assert (one.expected, one.found, found.entities_done) == ("2", "99.5", 1)
    elsewhere = await finish(rig, (await verify(rig, entity_keys=["pump-1"])).job_id)
    assert list(elsewhere.differences) == []


def plant_entry(rig: Rig, entity_id: int, value: float, version_change: int) -> None:
    """Put an entry into the cache that no fill would have made."""
    generation = rig.direct.hget(rig.layout.state_key, "generation")
    row = rig.admin.execute(
        "SELECT version FROM entity_jsonb WHERE (tenant_id, entity_id) = (1, %s)", [entity_id]
    ).fetchone()
    assert row is not None
    body = hot_pb.HotEntity()
    body.values.add(attribute="pressure", event_time_us=T1_US).value.double_value = value
    made = entry.Entry(
        generation.decode(),  # type: ignore[union-attr]
        row[0] + version_change,
        body.SerializeToString(),
    )
    rig.direct.set(rig.layout.entity_key(1, entity_id), entry.encode(made))


@pytest.mark.parametrize("version_change", [-1, 0, 1, 10**15])
async def test_a_wrong_cache_entry_is_found_and_replaced(rig: Rig, version_change: int) -> None:
    await write_three(rig)
    for entity_id in (1, 2, 3):
        await rig.hit(ACME, entity_id)
    clean = await finish(rig, (await verify(rig)).job_id)
    assert (clean.cache_count, clean.uncompared_count) == (0, 0)
    plant_entry(rig, 2, 7.5, version_change)
    found = await finish(rig, (await verify(rig)).job_id)
    assert (found.cache_count, found.different_count) == (1, 0)
    (one,) = found.differences
    assert (one.place, one.entity_key) == (pb.ProjectionDifference.PLACE_CACHE, "pump-2")
    assert (one.expected, one.found) == ("2.0", "7.5")
    assert pressure(await rig.hit(ACME, 2)) == 7.5

    repaired = await finish(rig, (await verify(rig, repair=True)).job_id)
    assert (repaired.cache_count, repaired.repaired_count) == (1, 1)
    if version_change < 10:  # Beyond, only forgetting everything helps.
        await rig.settle()
        assert (await rig.get(ACME, [1, 3])).hit_count == 2, "the others are left alone"
    await rig.settle()
    assert pressure(await rig.hit(ACME, 2)) == 2.0
    again = await finish(rig, (await verify(rig)).job_id)
    assert again.cache_count == 0
    assert pressure(await rig.hit(ACME, 1)) == 1.0


async def test_what_is_cached_and_fresh_is_left_alone_by_a_repair(rig: Rig) -> None:
    await write_three(rig)
    for entity_id in (1, 2, 3):
        await rig.hit(ACME, entity_id)
    await finish(rig, (await verify(rig, repair=True)).job_id)
    assert (await rig.get(ACME, [1, 2, 3])).hit_count == 3


async def test_a_dead_cache_is_not_called_equal(rig: Rig) -> None:
    await write_three(rig)
    rig.valkey.stop()
    found = await finish_without_cache(rig, (await verify(rig)).job_id)
    assert (found.state, found.uncompared_count, found.cache_count) == (DONE, 3, 0)


async def finish_without_cache(rig: Rig, job_id: int) -> pb.ProjectionJob:
    runner = new_runner(rig)
    while (await job(rig, job_id)).state == pb.PROJECTION_JOB_STATE_RUNNING:
        await runner.turn()
    return await job(rig, job_id)


async def test_a_rebuild_makes_the_projection_from_the_points(rig: Rig) -> None:
    await write_three(rig)
    for entity_id in (1, 2, 3):
        await rig.hit(ACME, entity_id)
    good, theirs = rows(rig, ACME), rows(rig, GLOBEX)
    rig.admin.execute("DELETE FROM entity_jsonb WHERE (tenant_id, entity_id) = (1, 1)")
    rig.admin.execute(
        'UPDATE entity_jsonb SET attrs = \'{"1": 99.5, "3": "left"}\''
        " WHERE (tenant_id, entity_id) = (1, 2)"
    )
    spoilt = rows(rig, ACME)
    counted = await finish(rig, (await rebuild(rig, dry_run=True)).job_id)
    assert (counted.entities_changed, rows(rig, ACME)) == (2, spoilt)
    some = await finish(rig, (await rebuild(rig, entity_keys=["pump-2", "pump-3"])).job_id)
    assert some.entities_changed == 1
    every = await finish(rig, (await rebuild(rig)).job_id)
    assert every.entities_changed == 1
    assert [row[3:] for row in rows(rig, ACME)] == [row[3:] for row in good]
    assert rows(rig, ACME)[2] == good[2], "what was right is not even touched"
    response = await rig.get(ACME, [1, 2, 3])
    assert response.hit_count == 1
    assert [pressure(response, at) for at in range(3)] == [1.0, 2.0, 3.0]
    assert rows(rig, GLOBEX) == theirs


async def test_a_sample_is_a_part_and_always_the_same(rig: Rig) -> None:
    rig.admin.execute(
        "INSERT INTO entities (tenant_id, entity_id, key)"
        " SELECT 1, e, 'pump-' || e FROM generate_series(4, 400) AS e"
    )
    rig.admin.execute(
        "INSERT INTO entity_jsonb (tenant_id, entity_id, version, attrs, attr_times)"
        " SELECT 1, e, 1, '{\"1\": 1}', '{\"1\": 1}' FROM generate_series(1, 400) AS e"
    )
    counts = {
        (await finish(rig, (await verify(rig, sample_percent=25)).job_id)).extra_count
        for _ in range(2)
    }
    assert len(counts) == 1
    assert 50 <= counts.pop() <= 150
    found: Any = await finish(rig, (await verify(rig)).job_id)
    assert (found.extra_count, len(found.differences)) == (400, 100)


async def test_an_attribute_in_transition_is_no_difference(rig: Rig) -> None:
    await flush(rig, rig.lane(), [serial(t, e, "old", 1) for t in BOTH for e in (1, 2)])
    begun, runner = await promote(rig), new_runner(rig)
    await until_step(rig, begun.job_id, "fill", runner)
    checked = await verify(rig)
    assert (await finish(rig, checked.job_id, runner)).missing_count == 0
