"""Tenants are made and changed; what was changed holds for the next write, in every process."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psycopg
import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from typer.testing import CliRunner

from atlas.catalog.v1 import catalog_service_pb2 as pb
from atlas.type.v1 import value_pb2
from atlas_client import AtlasClient, Endpoints, UnknownAttributes
from atlas_client.cli.root import build
from atlas_devstack.database import Database

from .ingest_rig import (
    Client,
    Rig,
    as_tenant,
    client_on,
    ingest_process,
    point,
    refusal,
    start_rig,
)
from .waiting import eventually

REGISTER = pb.UNKNOWN_ATTRIBUTE_POLICY_REGISTER
DAY_US = 86_400_000_000
HEARD_WITHIN_SECONDS = 5.0  # A tenth of what the caches' time to live alone would take.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(shared: Rig) -> Rig:
    """With two tenants of this test alone."""
    suffix = secrets.token_hex(4)
    client = replace(shared.client, acme=f"acme-{suffix}", globex=f"globex-{suffix}")
    await client.set_up()
    return replace(shared, client=client)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def update(rig: Rig, *paths: str, key: str, **fields: Any) -> pb.Tenant:
    request = pb.UpdateTenantRequest(tenant=pb.Tenant(key=key, **fields))
    request.update_mask.paths.extend(paths)
    return (await rig.client.catalog.UpdateTenant(request)).tenant


async def listed(rig: Rig, key: str) -> pb.Tenant:
    answer = await rig.client.catalog.ListTenants(pb.ListTenantsRequest())
    (tenant,) = [tenant for tenant in answer.tenants if tenant.key == key]
    return tenant


async def test_the_mask_says_what_changes_and_of_whom(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    untouched = await listed(rig, globex)
    before = await listed(rig, acme)
    assert (before.retention_class, before.HasField("late_data_window")) == ("standard", False)
    changed = await update(
        rig,
        "display_name",
        "late_data_window",
        key=acme,
        tenant_id=999,  # Ignored.
        display_name="Acme Inc. \U0001f600",
        unknown_attribute_policy=REGISTER,  # Not in the mask.
        late_data_window=Duration(seconds=3600, nanos=5_000),
    )
    before.display_name = "Acme Inc. \U0001f600"
    before.late_data_window.CopyFrom(Duration(seconds=3600, nanos=5_000))
    assert changed == before == await listed(rig, acme)
    # Named and empty: back to what it is without.
    before.ClearField("late_data_window")
    before.display_name = ""
    assert await update(rig, "late_data_window", "display_name", key=acme) == before
    assert await listed(rig, globex) == untouched


@pytest.mark.parametrize(
    ("paths", "fields", "field", "says"),
    [
        ((), {}, "update_mask", "is empty"),
        (("key",), {}, "update_mask", "'key'"),
        (("display_name", "status"), {}, "update_mask", "'status'"),
        (("display_name",), {"display_name": "x" * 257}, "tenant.display_name", "257 bytes"),
        (("display_name",), {"display_name": "a\0"}, "tenant.display_name", "U+0000"),
        (
            ("unknown_attribute_policy",),
            {"unknown_attribute_policy": 9},
            "tenant.unknown_attribute_policy",
            "9",
        ),
        (
            ("late_data_window",),
            {"late_data_window": Duration(seconds=-1)},
            "tenant.late_data_window",
            "not between",
        ),
        (("late_data_window",), {"late_data_window": Duration()}, "tenant.late_data_window", "0 s"),
        (
            ("late_data_window",),
            {"late_data_window": Duration(seconds=2**62)},
            "tenant.late_data_window",
            "days",
        ),
        (("retention_class",), {"retention_class": "gold"}, "tenant.retention_class", "standard"),
        (("retention_class",), {"retention_class": "x" * 64}, "tenant.retention_class", "64 bytes"),
    ],
)
async def test_a_change_that_cannot_be_names_the_field_and_the_way_out(
    rig: Rig, paths: tuple[str, ...], fields: dict[str, Any], field: str, says: str
) -> None:
    before = await listed(rig, rig.client.acme)
    error = await refusal(update(rig, *paths, key=rig.client.acme, **fields))
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert says in error.message
    assert await listed(rig, rig.client.acme) == before


async def test_a_tenant_that_is_not_there_is_not_made(rig: Rig) -> None:
    error = await refusal(update(rig, "display_name", key="nobody", display_name="x"))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "TENANT_UNKNOWN")
    error = await refusal(update(rig, "display_name", key="No Key"))
    assert error.field == "tenant.key"


async def test_a_tenant_is_made_with_its_retention_and_window(rig: Rig) -> None:
    key = f"{rig.client.acme}-made"
    window = Duration(seconds=7 * 86_400)

    async def create(**fields: Any) -> pb.CreateTenantResponse:
        return await rig.client.catalog.CreateTenant(pb.CreateTenantRequest(key=key, **fields))

    error = await refusal(create(retention_class="gold"))
    assert (error.field, error.reason) == ("retention_class", "INVALID_FIELD")
    assert "standard" in error.message
    made = await create(retention_class="standard", late_data_window=window)
    assert made.created
    assert (made.tenant.retention_class, made.tenant.late_data_window) == ("standard", window)
    assert not (await create(late_data_window=window)).created
    error = await refusal(create(late_data_window=Duration(seconds=1)))
    assert (error.code, error.field) == (grpc.StatusCode.ALREADY_EXISTS, "late_data_window")


async def test_each_tenant_has_its_own_late_data_window(rig: Rig) -> None:
    acme, globex = rig.client.tenants
    day_old = point(event_time_us=time.time_ns() // 1_000 - DAY_US)
    for tenant in rig.client.tenants:
        assert (await rig.client.write(tenant, [day_old])).accepted_count == 1
    await update(rig, "late_data_window", key=acme, late_data_window=Duration(seconds=3_600))
    error = await refusal(rig.client.write(acme, [day_old]))
    assert (error.reason, error.field) == ("EVENT_TIME_OUT_OF_WINDOW", "points[0].event_time_us")
    assert (await rig.client.write(acme, [point()])).accepted_count == 1
    assert (await rig.client.write(globex, [day_old])).accepted_count == 1
    # A window may be wider than the platform's, too.
    await update(rig, "late_data_window", key=acme, late_data_window=Duration(seconds=10**10))
    old = point(event_time_us=-(10**15))
    assert (await rig.client.write(acme, [old])).accepted_count == 1
    error = await refusal(rig.client.write(globex, [point(event_time_us=-(2**60))]))
    assert error.reason == "EVENT_TIME_OUT_OF_WINDOW"


async def test_ingest_can_change_these_columns_and_no_others(database: Database) -> None:
    with (
        psycopg.connect(database.dsn("atlas_ingest"), autocommit=True) as ingest,
        psycopg.connect(database.dsn("atlas_query"), autocommit=True) as query,
    ):
        ingest.execute("UPDATE tenants SET display_name = display_name")
        for column in ("key", "status", "tenant_id"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                ingest.execute(f"UPDATE tenants SET {column} = {column}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query.execute("UPDATE tenants SET display_name = display_name")


async def define(client: Client, tenant: str, name: str, **fields: Any) -> None:
    attribute = pb.Attribute(name=name, data_type=value_pb2.DATA_TYPE_DOUBLE, **fields)
    await client.catalog.BatchUpsertAttributes(
        pb.BatchUpsertAttributesRequest(attributes=[attribute]), metadata=as_tenant(tenant)
    )


async def test_what_one_process_changes_the_other_hears_of(
    rig: Rig, database: Database, tmp_path: Path
) -> None:
    acme, globex = rig.client.tenants
    async with (
        ingest_process(database, tmp_path) as process,
        grpc.aio.insecure_channel(process.target) as channel,
    ):
        other = client_on(channel)
        late = point(event_time_us=time.time_ns() // 1_000 - DAY_US)
        for tenant in (acme, globex):  # So the other process knows how it was.
            for good in (point(double_value=5), late):
                await other.write(tenant, [good])
            await refusal(other.write(tenant, [point("nova")]))
        began = time.monotonic()
        await define(rig.client, acme, "ratio", max_value="1")
        await update(
            rig,
            "late_data_window",
            "unknown_attribute_policy",
            key=acme,
            unknown_attribute_policy=REGISTER,
            late_data_window=Duration(seconds=60),
        )

        async def all_heard() -> bool:
            seen = await other.write(
                acme,
                [point(double_value=5), late, point("nova", double_value=0.5)],
                partial_success=True,
                validate_only=True,
            )
            return seen.accepted_count == 1 and len(seen.errors) == 2

        await eventually(all_heard, HEARD_WITHIN_SECONDS)
        assert time.monotonic() - began < HEARD_WITHIN_SECONDS
        # Nobody else's changed.
        seen = await other.write(globex, [point(double_value=5), late])
        assert seen.accepted_count == 2
        error = await refusal(other.write(globex, [point("nova")]))
        assert error.reason == "ATTRIBUTE_UNKNOWN"
        # And an attribute that points brought is heard of as well.
        await other.write(acme, [point("nova", double_value=0.5)])
        assert (await rig.client.write(acme, [point("nova", double_value=2)])).accepted_count


async def test_what_changed_while_nobody_listened_is_found_after_the_break(
    rig: Rig, database: Database, tmp_path: Path
) -> None:
    async with (
        ingest_process(database, tmp_path) as process,
        grpc.aio.insecure_channel(process.target) as channel,
    ):
        other = client_on(channel)
        for tenant in rig.client.tenants:
            await other.write(tenant, [point(double_value=5)])
        # Without a notice, as if it had been sent in the moment before this session ends.
        await rig.query(
            "UPDATE attributes SET max_value = 1 FROM tenants AS t"
            " WHERE attributes.tenant_id = t.tenant_id AND t.key = %s AND name = 'ratio'"
            " RETURNING 1",
            rig.client.acme,
        )
        assert (await other.write(rig.client.acme, [point(double_value=5)])).accepted_count
        ended = await rig.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'atlas ingest catalog'"
            " AND datname = current_database()"
        )
        assert ended == [(True,)]

        async def found() -> bool:
            answer = await other.write(
                rig.client.acme,
                [point(double_value=5)],
                partial_success=True,
                validate_only=True,
            )
            return answer.rejected_count == 1

        await eventually(found, 2 * HEARD_WITHIN_SECONDS)
        assert (await other.write(rig.client.globex, [point(double_value=5)])).accepted_count


async def test_a_change_that_is_rolled_back_is_nobodys_news(rig: Rig, database: Database) -> None:
    dsn = database.dsn("atlas_ingest")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as listener:
        await listener.execute("LISTEN atlas_catalog")
        error = await refusal(
            update(rig, "retention_class", key=rig.client.acme, retention_class="?")
        )
        assert error.reason == "INVALID_FIELD"
        await update(rig, "display_name", key=rig.client.globex, display_name="g")
        ((globex_id,),) = await rig.query(
            "SELECT tenant_id FROM tenants WHERE key = %s", rig.client.globex
        )
        heard = [notice.payload async for notice in listener.notifies(timeout=10, stop_after=1)]
        assert heard == [str(globex_id)]


async def test_client_and_command_line_change_tenants(database: Database, tmp_path: Path) -> None:
    async with (
        ingest_process(database, tmp_path) as process,
        AtlasClient.connect(Endpoints(ingest=process.target)) as client,
    ):
        key = f"hooli-{time.time_ns()}"
        made = await client.create_tenant(key, late_data_window=timedelta(days=2))
        assert made.late_data_window == timedelta(days=2)
        changed = await client.update_tenant(
            key,
            display_name="Hooli",
            unknown_attributes=UnknownAttributes.REGISTER,
            late_data_window=timedelta(0),
        )
        assert (changed.display_name, changed.late_data_window) == ("Hooli", None)
        assert changed.unknown_attributes is UnknownAttributes.REGISTER
        command = ["tenants", "--update", key, "--late-days", "30", "--ingest", process.target]
        result = await asyncio.to_thread(CliRunner().invoke, build(), command)
        assert result.exit_code == 0, result.output
        (again,) = [tenant async for tenant in client.list_tenants() if tenant.key == key]
        assert (again.late_data_window, again.display_name) == (timedelta(days=30), "Hooli")
        assert again.retention_class == "standard"
        command = ["tenants", "--update", key, "--retention-class", "gold"]
        result = await asyncio.to_thread(
            CliRunner().invoke, build(), [*command, "--ingest", process.target]
        )
        assert result.exit_code != 0
        assert "choose one of" in result.stderr
