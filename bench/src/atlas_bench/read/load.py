"""Stores the estate: through the platform, as its tenants would, but for what lies in the past."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from atlas_bench.catalog import make_catalog
from atlas_bench.errors import BenchError
from atlas_bench.progress import say
from atlas_bench.read import past
from atlas_bench.read.columns import record_batch
from atlas_bench.read.estate import MEASURED, MINUTE_US, NEIGHBOUR, Estate, Layer
from atlas_bench.read.rig import Rig
from atlas_client import AckLevel, AtlasClient, AtlasError
from atlas_client import Endpoints as ClientEndpoints

_ENTITIES_AT_A_TIME = 1_000
_CALLS_AT_A_TIME = 4
_PARTITIONS_USED = """
SELECT count(DISTINCT tableoid) FROM entity_values_ts WHERE tenant_id = %s AND attribute_id = %s
"""


@dataclass(frozen=True)
class Stored:
    """What there is to read."""

    tenant_ids: tuple[int, int]
    base_us: int
    """The event time of the newest points."""
    facts: dict[str, Any]


def stored(rig: Rig, estate: Estate) -> Stored:
    """Store the estate, unless a run before has. Raises BenchError when not all of it is there."""
    began = time.monotonic()
    tenant_ids = make_catalog(
        rig.endpoints,
        {estate.tenant_keys[tenant]: estate.attributes_of(tenant) for tenant in (0, 1)},
        estate.entity_keys,
    )
    is_new = _count(rig, tenant_ids[MEASURED]) == 0
    if is_new:
        _store(rig, estate, tenant_ids[MEASURED])
    counts = _counts(rig, estate, tenant_ids)
    status_id = _attribute_id(rig, tenant_ids[MEASURED], "status")
    base = rig.admin.execute(
        "SELECT (max((attr_times ->> %s)::bigint)) FROM entity_jsonb WHERE tenant_id = %s",
        [str(status_id), tenant_ids[MEASURED]],
    ).fetchone()
    used = rig.admin.execute(_PARTITIONS_USED, [tenant_ids[MEASURED], status_id]).fetchone()
    assert base is not None
    assert used is not None
    facts = {**counts, "partitions": used[0], "stored_by_this_run": is_new}
    say(f"     {facts} after {time.monotonic() - began:.0f} s")
    return Stored((tenant_ids[MEASURED], tenant_ids[NEIGHBOUR]), base[0], facts)


def _store(rig: Rig, estate: Estate, tenant_id: int) -> None:
    base_us = time.time_ns() // 1_000 // MINUTE_US * MINUTE_US
    if rig.is_ours:
        say(f"  filling {estate.past_points:,} older points by SQL")
        past.fill(rig.admin, estate, tenant_id, base_us)
    points = estate.points + estate.neighbour_points - (estate.past_points if rig.is_ours else 0)
    say(f"  writing {points:,} points through the platform")
    try:
        asyncio.run(_write(rig, estate, base_us))
    except* AtlasError as errors:
        raise BenchError(f"the estate could not be written: {errors.exceptions[0]}") from errors
    rig.settle()
    say("  vacuuming, so that nobody does later")
    rig.admin.execute("VACUUM (ANALYZE) entity_values_ts, entity_jsonb, entities, attributes")
    rig.admin.execute("CHECKPOINT")
    rig.settle()


async def _write(rig: Rig, estate: Estate, base_us: int) -> None:
    endpoints = ClientEndpoints.from_json(rig.endpoints.to_json())
    gate = asyncio.Semaphore(_CALLS_AT_A_TIME)
    async with AtlasClient.connect(endpoints) as client:

        async def write(make: Callable[[], Layer]) -> None:
            async with gate:
                layer = make()
                own = client.for_tenant(estate.tenant_keys[layer.tenant])
                batch = record_batch(estate, layer)
                result = await own.write_arrow(batch, ack=AckLevel.COMMITTED)
                if result.accepted_count != layer.points:
                    raise BenchError(
                        f"{result.accepted_count} of {layer.points} points were stored"
                    )

        for phase in (_past(rig, estate, base_us), _present(estate, base_us)):
            async with asyncio.TaskGroup() as tasks:
                for make in phase:
                    tasks.create_task(write(make))


def _past(rig: Rig, estate: Estate, base_us: int) -> Iterator[Callable[[], Layer]]:
    """What SQL fills in on a platform of our own.

    On another's, rows put into days that are closed would look like corruption to its warehouse.
    """
    if rig.is_ours:
        return
    for number in range(estate.past_rounds, 0, -1):
        yield partial(estate.past, number, base_us)
    for number in range(estate.followed_minutes):
        yield partial(estate.followed_minute, number, base_us)


def _present(estate: Estate, base_us: int) -> Iterator[Callable[[], Layer]]:
    step = _ENTITIES_AT_A_TIME
    for first in range(0, estate.entities, step):
        yield partial(estate.newest, first, first + step, base_us)
        yield partial(estate.neighbours, first, first + step, base_us)


def _counts(rig: Rig, estate: Estate, tenant_ids: list[int]) -> dict[str, int]:
    found = {
        "points": _count(rig, tenant_ids[MEASURED]),
        "neighbour_points": _count(rig, tenant_ids[NEIGHBOUR]),
        "projected_entities": _count(rig, tenant_ids[MEASURED], "entity_jsonb"),
    }
    wanted = (estate.points, estate.neighbour_points, estate.entities)
    if tuple(found.values()) != wanted:
        raise BenchError(
            f"stored are {found}, wanted {wanted}: another run was interrupted, or writes too;"
            " use a platform with a fresh state"
        )
    return found


def _count(rig: Rig, tenant_id: int, table: str = "entity_values_ts") -> int:
    row = rig.admin.execute(
        f"SELECT count(*) FROM {table} WHERE tenant_id = %s",  # noqa: S608 - a name of ours.
        [tenant_id],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _attribute_id(rig: Rig, tenant_id: int, name: str) -> int:
    row = rig.admin.execute(
        "SELECT attribute_id FROM attributes WHERE tenant_id = %s AND name = %s", [tenant_id, name]
    ).fetchone()
    assert row is not None
    return int(row[0])
