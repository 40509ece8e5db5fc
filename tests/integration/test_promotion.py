"""Attributes are promoted and demoted by how they are read, within rules; each step is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from atlas.hotcache.v1 import projection_service_pb2 as pb
from atlas_common import errors
from atlas_devstack.database import Database, another
from atlas_hotcache.promotion.evaluator import Evaluator
from atlas_hotcache.promotion.policy import Mode

from .hotcache_rig import ACME, GLOBEX, PRESSURE, STATE, TENANT_IDS, Rig, start_rig
from .projection_rig import (
    DONE,
    FORGETFUL,
    SERIAL,
    finish,
    flush,
    is_hot,
    meta,
    new_runner,
    projected,
    promote,
    serial,
    shown,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
BOTH = (ACME, GLOBEX)
SOON: dict[str, Any] = {
    "hours_min": 1,
    "confirmations": 2,
    "dwell_hours": 0,
    "interval_seconds": 1e-6,
}
NONE, PROMOTE, DEMOTE = (
    pb.PROMOTION_ACTION_NONE,
    pb.PROMOTION_ACTION_PROMOTE,
    pb.PROMOTION_ACTION_DEMOTE,
)
WOULD, STARTED, REFUSED = (
    pb.PromotionDecision.OUTCOME_WOULD,
    pb.PromotionDecision.OUTCOME_STARTED,
    pb.PromotionDecision.OUTCOME_REFUSED,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(database: Database, tmp_path_factory: Any) -> AsyncIterator[Rig]:
    directory = tmp_path_factory.mktemp("promotion")
    with another(database) as own:
        async with start_rig(own, directory, projection=FORGETFUL, promotion=SOON) as rig:
            yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> Rig:
    """Nobody has read anything, and nothing was decided; pressure and state are hot."""
    await asyncio.sleep(0)
    shared.admin.execute(
        "TRUNCATE attribute_access, access_hours, attribute_promotion, promotion_decisions,"
        " projection_jobs, projected_attributes, entity_jsonb, entity_values_ts"
    )
    shared.admin.execute("UPDATE attributes SET is_hot = attribute_id < 3")
    shared.admin.execute(
        "UPDATE promotion_runner SET leased_until = '-infinity', evaluated_at = '-infinity',"
        " measured_at = '-infinity'"
    )
    return shared


def read_before(rig: Rig, tenant: str, attribute_id: int, reads: int, filters: int = 0) -> None:
    """In each of the last three full hours somebody asked for the attribute so often."""
    rig.admin.execute(
        "INSERT INTO access_hours SELECT date_trunc('hour', now(), 'UTC') - make_interval(hours =>"
        " n), 1 FROM generate_series(1, 3) AS n ON CONFLICT DO NOTHING"
    )
    rig.admin.execute(
        "INSERT INTO attribute_access (tenant_id, attribute_id, hour, read_count, filter_count)"
        " SELECT %s, %s, date_trunc('hour', now(), 'UTC') - make_interval(hours => n), %s, %s"
        " FROM generate_series(1, 3) AS n",
        [TENANT_IDS[tenant], attribute_id, reads, filters],
    )


def only_serial_is_read(rig: Rig, tenant: str) -> None:
    read_before(rig, tenant, SERIAL, 900, 10)
    read_before(rig, tenant, PRESSURE, 700)


async def evaluated(evaluator: Evaluator, times: int = 2) -> None:
    for _ in range(times):
        assert await evaluator.turn()


async def decisions(rig: Rig, tenant: str = ACME, **fields: Any) -> list[pb.PromotionDecision]:
    request = pb.ListPromotionDecisionsRequest(**fields)
    answer = await rig.projection.ListPromotionDecisions(request, metadata=meta(tenant))
    return list(answer.decisions)


async def report(rig: Rig, tenant: str = ACME) -> pb.GetPromotionReportResponse:
    request = pb.GetPromotionReportRequest()
    return await rig.projection.GetPromotionReport(request, metadata=meta(tenant))


async def pin(
    rig: Rig, attribute: str, how: "pb.AttributePin.ValueType", tenant: str = ACME, **fields: Any
) -> pb.PinAttributeResponse:
    request = pb.PinAttributeRequest(attribute=attribute, pin=how, **fields)
    return await rig.projection.PinAttribute(request, metadata=meta(tenant))


async def refusal(call: Awaitable[Any]) -> errors.ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return errors.from_rpc_error(caught.value)


def everything(rig: Rig) -> list[Any]:
    """All that reads, flushes and jobs go by."""
    return [
        rig.admin.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
        for table in ("attributes", "projected_attributes", "projection_jobs", "entity_jsonb")
    ]


def job_count(rig: Rig, tenant: str = ACME) -> int:
    row = rig.admin.execute(
        "SELECT count(*) FROM projection_jobs WHERE tenant_id = %s", [TENANT_IDS[tenant]]
    ).fetchone()
    assert row is not None
    return int(row[0])


async def test_off_does_nothing_at_all(rig: Rig) -> None:
    only_serial_is_read(rig, ACME)
    before = everything(rig)
    evaluator = rig.new_evaluator()  # Which is off: nobody said otherwise.
    assert not await evaluator.turn()
    assert everything(rig) == before
    assert await decisions(rig) == []
    runner = rig.admin.execute("SELECT evaluated_at::text, owner FROM promotion_runner").fetchone()
    assert runner is not None
    assert runner[0] == "-infinity"


async def test_a_dry_run_changes_nothing_but_the_audit_log(rig: Rig) -> None:
    only_serial_is_read(rig, ACME)
    for attribute_id in (PRESSURE, STATE):
        read_before(rig, GLOBEX, attribute_id, 500)
    before = everything(rig)
    evaluator = rig.new_evaluator(mode=Mode.DRY_RUN)
    await evaluated(evaluator, times=1)
    assert await decisions(rig) == [], "wished for once only"
    await evaluated(evaluator, times=1)
    assert everything(rig) == before
    found = {one.attribute: one for one in await decisions(rig)}
    assert set(found) == {"serial", "state"}
    promotion, demotion = found["serial"], found["state"]
    assert (promotion.action, promotion.outcome, promotion.dry_run) == (PROMOTE, WOULD, True)
    assert (demotion.action, demotion.outcome, demotion.job_id) == (DEMOTE, WOULD, 0)
    assert promotion.actor == pb.PromotionDecision.ACTOR_POLICY
    assert (promotion.figures.reads_per_hour, promotion.figures.filters_per_hour) == (900, 10)
    assert promotion.figures.promote_score == pytest.approx(1100 / 60)
    assert "900 reads" in promotion.why
    assert await decisions(rig, GLOBEX) == []


async def test_what_is_read_becomes_hot_what_is_not_becomes_cold_and_pins_hold(rig: Rig) -> None:
    lane = rig.lane()
    try:
        await flush(rig, lane, [serial(t, e, f"{t}-{e}") for t in (1, 2) for e in (1, 2)])
    finally:
        lane.connection.close()
    for tenant in BOTH:
        only_serial_is_read(rig, tenant)
    pinned = await pin(rig, "serial", pb.ATTRIBUTE_PIN_COLD, GLOBEX, reason="too large")
    assert not pinned.hot
    assert (await pin(rig, "state", pb.ATTRIBUTE_PIN_HOT, GLOBEX)).hot
    theirs = everything(rig)

    await evaluated(rig.new_evaluator(mode=Mode.ON))
    found = {one.attribute: one for one in await decisions(rig)}
    assert {name: (one.action, one.outcome) for name, one in found.items()} == {
        "serial": (PROMOTE, STARTED),
        "state": (DEMOTE, STARTED),
    }
    runner = new_runner(rig)
    for one in found.values():
        assert (await finish(rig, one.job_id, runner)).state == DONE
    assert (is_hot(rig), is_hot(rig, attribute_id=STATE)) == (True, False)
    assert projected(rig) == {1: "1-1", 2: "1-2"}
    rig.catalog.drop_all_attributes()  # Its time to live has passed.
    assert await shown(rig, [1, 2]) == {1: "1-1", 2: "1-2"}

    assert (is_hot(rig, GLOBEX), is_hot(rig, GLOBEX, STATE)) == (False, True)
    theirs_now = everything(rig)
    for before, after in zip(theirs, theirs_now, strict=True):
        assert [row for row in after if row[0] == 2] == [row for row in before if row[0] == 2]
    said = [(one.attribute, one.action, one.actor, one.why) for one in await decisions(rig, GLOBEX)]
    operator = pb.PromotionDecision.ACTOR_OPERATOR
    assert said == [
        ("state", pb.PROMOTION_ACTION_PIN_HOT, operator, ""),
        ("serial", pb.PROMOTION_ACTION_PIN_COLD, operator, "too large"),
    ]
    await evaluated(rig.new_evaluator(mode=Mode.ON), times=4)
    assert len(await decisions(rig)) == 2, "what was decided is not decided again"


async def test_a_pin_that_comes_amid_an_evaluation_holds(rig: Rig) -> None:
    only_serial_is_read(rig, ACME)
    evaluator = rig.new_evaluator(mode=Mode.ON)
    await evaluated(evaluator, times=1)
    store = evaluator._store
    remember = store.remember

    async def pinned_after(*arguments: Any) -> None:
        await remember(*arguments)
        for name, how in (("serial", pb.ATTRIBUTE_PIN_COLD), ("state", pb.ATTRIBUTE_PIN_HOT)):
            await pin(rig, name, how)

    store.remember = pinned_after  # type: ignore[assignment,method-assign]
    await evaluated(evaluator, times=1)
    assert job_count(rig) == 0
    assert (is_hot(rig), is_hot(rig, attribute_id=STATE)) == (False, True)
    by_policy = [
        one for one in await decisions(rig) if one.actor == pb.PromotionDecision.ACTOR_POLICY
    ]
    assert [one.outcome for one in by_policy] == [REFUSED, REFUSED]
    assert all("pinned meanwhile" in one.why for one in by_policy)


async def test_of_two_processes_one_evaluates(rig: Rig) -> None:
    only_serial_is_read(rig, ACME)
    first, *others = (rig.new_evaluator(mode=Mode.DRY_RUN) for _ in range(3))
    observe = first._store.observe
    others_have_tried: list[bool] = []

    async def meanwhile(*arguments: Any) -> Any:
        if not others_have_tried:
            others_have_tried.extend([await other.turn() for other in others])
        return await observe(*arguments)

    first._store.observe = meanwhile  # type: ignore[assignment,method-assign]
    assert await first.turn()
    assert others_have_tried == [False, False]
    streaks = rig.admin.execute(
        "SELECT attribute_id, wish, streak FROM attribute_promotion"
        " WHERE tenant_id = 1 AND wish IS NOT NULL ORDER BY 1"
    ).fetchall()
    assert streaks == [(STATE, "demote", 1), (SERIAL, "promote", 1)]


async def test_who_has_lost_the_lease_decides_nothing(rig: Rig) -> None:
    only_serial_is_read(rig, ACME)
    evaluator = rig.new_evaluator(mode=Mode.ON, confirmations=1)
    observe = evaluator._store.observe

    async def overtaken(*arguments: Any) -> Any:
        rig.admin.execute("UPDATE promotion_runner SET owner = 'another'")
        return await observe(*arguments)

    evaluator._store.observe = overtaken  # type: ignore[assignment,method-assign]
    assert await evaluator.turn()
    assert await decisions(rig) == []
    assert job_count(rig) == 0


async def test_the_report_tells_what_an_evaluation_would_do_also_while_it_is_off(rig: Rig) -> None:
    only_serial_is_read(rig, ACME)
    read_before(rig, ACME, 0, 30)
    read_before(rig, GLOBEX, SERIAL, 5)
    told = await report(rig)
    assert (told.mode, told.hot_count, told.scope_read_count) == (pb.PROMOTION_MODE_OFF, 2, 90)
    found = {one.attribute: one for one in told.attributes}
    assert [one.attribute for one in told.attributes] == ["pressure", "state", "serial"]
    asked = found["serial"]
    assert (asked.read_count, asked.filter_count, asked.hot) == (2700, 30, False)
    assert (asked.wish, asked.action, asked.figures.hours) == (PROMOTE, NONE, 3)
    assert asked.why == "promote: wished for in 1 of 2 evaluations"
    assert found["state"].wish == DEMOTE
    assert found["pressure"].wish == NONE
    # An evaluation later the next one would act, and says so.
    await evaluated(rig.new_evaluator(mode=Mode.DRY_RUN), times=1)
    found = {one.attribute: one for one in (await report(rig)).attributes}
    assert (found["serial"].action, found["serial"].streak) == (PROMOTE, 1)
    await pin(rig, "serial", pb.ATTRIBUTE_PIN_COLD)
    found = {one.attribute: one for one in (await report(rig)).attributes}
    assert (found["serial"].action, found["serial"].why) == (NONE, "pinned cold")
    theirs = {one.attribute: one for one in (await report(rig, GLOBEX)).attributes}
    assert (theirs["serial"].read_count, theirs["serial"].pin) == (15, pb.ATTRIBUTE_PIN_NONE)


async def test_what_operators_ask_for_is_in_the_log_once_and_pages_go_on(rig: Rig) -> None:
    job = await promote(rig)
    assert (await promote(rig)).job_id == job.job_id
    await promote(rig, "state", dry_run=True)
    (asked,) = await decisions(rig)
    assert (asked.attribute, asked.job_id, asked.outcome) == ("serial", job.job_id, STARTED)
    for _ in range(4):
        await pin(rig, "state", pb.ATTRIBUTE_PIN_NONE)
    first = await decisions(rig, page_size=3)
    rest = await decisions(rig, page_size=3, before_decision_id=first[-1].decision_id)
    ids = [one.decision_id for one in (*first, *rest)]
    assert len(set(ids)) == 5
    assert ids == sorted(ids, reverse=True)
    assert await decisions(rig, GLOBEX) == []
    await finish(rig, job.job_id)


async def test_bad_input_names_the_field(rig: Rig) -> None:
    cases = [
        (pin(rig, "serial", pb.ATTRIBUTE_PIN_UNSPECIFIED), "INVALID_FIELD", "pin"),
        (pin(rig, "no such", pb.ATTRIBUTE_PIN_HOT), "ATTRIBUTE_UNKNOWN", "attribute"),
        (pin(rig, "serial", pb.ATTRIBUTE_PIN_HOT, reason="x" * 1001), "INVALID_FIELD", "reason"),
        (decisions(rig, page_size=-1), "INVALID_FIELD", "page_size"),
        (decisions(rig, before_decision_id=-1), "INVALID_FIELD", "before_decision_id"),
    ]
    for call, reason, field in cases:
        error = await refusal(call)
        assert (error.reason, error.field) == (reason, field)
    assert await decisions(rig) == []
