"""WriteArrow on a real database: what is stored, what is refused, what a repetition changes."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.ipc
import pytest

from atlas.catalog.v1 import catalog_service_pb2 as catalog_pb
from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas.type.v1 import error_pb2
from atlas_devstack.database import Database

from .ingest_rig import Rig, as_tenant, point, refusal, start_rig
from .waiting import eventually

NOW = datetime.now(UTC).replace(microsecond=123_456)
TYPES = {
    "entity_key": pa.dictionary(pa.int32(), pa.string()),
    "attribute": pa.dictionary(pa.int32(), pa.string()),
    "event_time": pa.timestamp("us", "UTC"),
    "quality": pa.uint8(),
    "bool_value": pa.bool_(),
    "int_value": pa.int64(),
    "double_value": pa.float64(),
    "decimal_value": pa.decimal128(38, 18),
    "text_value": pa.string(),
    "time_value": pa.timestamp("ns", "UTC"),
    "json_value": pa.string(),
}


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


def row(attribute: str = "ratio", **fields: Any) -> dict[str, Any]:
    """A row; a good double unless told otherwise."""
    if not any(name.endswith("_value") for name in fields):
        fields["double_value"] = 1.5
    return {"entity_key": "pump-1", "attribute": attribute, "event_time": NOW, **fields}


def table(*rows: dict[str, Any], **types: Any) -> pa.Table:
    """The rows as a table with those columns that any of them has."""
    wanted = {**TYPES, **types}
    names = [name for name in wanted if any(name in each for each in rows)]
    return pa.table({n: pa.array([each.get(n) for each in rows], wanted[n]) for n in names})


def stream(data: pa.Table, **options: Any) -> bytes:
    """The table as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, data.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(data)
    return bytes(sink.getvalue())


async def write(
    rig: Rig, tenant: str, messages: Iterable[bytes], timeout: float = 20, **start: Any
) -> pb.WriteArrowResponse:
    """One WriteArrow."""
    requests = [pb.WriteArrowRequest(start=pb.WriteArrowStart(**start))]
    requests += [pb.WriteArrowRequest(ipc_stream=message) for message in messages]
    return await rig.client.ingest.WriteArrow(
        iter(requests), timeout=timeout, metadata=as_tenant(tenant)
    )


async def test_every_type_is_stored_as_it_came(rig: Rig) -> None:
    data = table(
        row("flag", bool_value=False, quality=255),
        row("count", int_value=-(2**63)),
        row("ratio", double_value=float("-inf")),
        row("price", decimal_value=Decimal("99999999999999999999.999999999999999999")),
        row("name", text_value="pömp 𝄞"),
        row("when", time_value=NOW),
        row("doc", json_value='{"b": 1.50, "a": [null]}'),
        row("price", decimal_value=Decimal("-0.5")),
    )
    for tenant, options in zip(rig.client.tenants, ({}, {"compression": "zstd"}), strict=True):
        answer = await write(rig, tenant, [stream(data, **options)])
        assert (answer.accepted_count, answer.rejected_count) == (8, 0)
        assert answer.ack == pb.ACK_LEVEL_DURABLE
        tenant_id = (await rig.query("SELECT tenant_id FROM tenants WHERE key = %s", tenant))[0][0]
        assert len(rig.signer.open(answer.token, tenant_id)) == 1
        assert sorted((await rig.stored(tenant)), key=str) == sorted(
            [
                ("pump-1", "flag", 255, "false"),
                ("pump-1", "count", 0, "-9223372036854775808"),
                ("pump-1", "ratio", 0, "-Infinity"),
                ("pump-1", "price", 0, "99999999999999999999.999999999999999999"),
                ("pump-1", "name", 0, "pömp 𝄞"),
                ("pump-1", "when", 0, NOW.isoformat(sep=" ").replace("+00:00", "+00")),
                ("pump-1", "doc", 0, '{"a": [null], "b": 1.50}'),
                ("pump-1", "price", 0, "-0.500000000000000000"),  # The column has a scale.
            ],
            key=str,
        )


async def test_a_stream_of_many_messages_is_stored_once_and_whole(rig: Rig) -> None:
    messages = [
        stream(
            table(
                *(
                    row("count", int_value=n, entity_key=f"pump-{n % 7}")
                    for n in range(first, first + 500)
                )
            )
        )
        for first in range(0, 10_000, 500)
    ]
    answers = await asyncio.gather(
        *(write(rig, tenant, messages, ack=pb.ACK_LEVEL_COMMITTED) for tenant in rig.client.tenants)
    )
    for tenant, answer in zip(rig.client.tenants, answers, strict=True):
        assert answer.accepted_count == 10_000
        stored = await rig.stored(tenant)
        assert sorted(int(value) for *_, value in stored) == list(range(10_000))


async def test_of_one_entity_and_time_the_last_row_is_the_latest_value(rig: Rig) -> None:
    """Across types, messages and rows: the order of arrival is that of the stream."""
    for tenant in rig.client.tenants:
        messages = [
            stream(
                table(
                    *(row("pressure", double_value=float(n)) for n in range(first, first + 10)),
                    row("state", text_value="running"),
                    row("state", text_value="stopped"),
                )
            )
            for first in (0, 10, 20)
        ]
        await write(rig, tenant, messages)
        rows = await rig.query(
            "SELECT attrs FROM entity_jsonb JOIN tenants USING (tenant_id) WHERE key = %s", tenant
        )
        (attrs,) = rows[0]
        assert sorted(map(str, attrs.values())) == ["29", "stopped"]


async def test_what_rows_leave_out_comes_from_the_start(rig: Rig) -> None:
    data = table(
        {"attribute": "ratio", "double_value": 1.0},
        {"attribute": "ratio", "double_value": 2.0, "entity_key": "pump-9"},
    )
    moment = NOW - timedelta(days=1)
    for tenant in rig.client.tenants:
        answer = await write(
            rig,
            tenant,
            [stream(data)],
            default_entity_key="pump-8",
            default_event_time_us=round(moment.timestamp() * 1_000_000),
        )
        assert answer.accepted_count == 2
        assert [(key, value) for key, _, _, value in await rig.stored(tenant)] == [
            ("pump-8", "1"),
            ("pump-9", "2"),
        ]
        times = await rig.query(
            "SELECT DISTINCT event_time FROM entity_values_ts JOIN tenants USING (tenant_id)"
            " WHERE key = %s",
            tenant,
        )
        assert times == [(moment,)]


async def test_bad_rows_are_told_by_their_index_in_the_stream(rig: Rig) -> None:
    messages = [
        stream(table(row(), row("nope"), row())),
        stream(table(row("pressure", double_value=101.0), row(), row("count"))),
    ]
    answer = await write(rig, rig.client.acme, messages, partial_success=True)
    assert (answer.accepted_count, answer.rejected_count) == (3, 3)
    assert [(error.index, error_pb2.ErrorReason.Name(error.reason)) for error in answer.errors] == [
        (1, "ERROR_REASON_ATTRIBUTE_UNKNOWN"),
        (3, "ERROR_REASON_VALUE_OUT_OF_RANGE"),
        (5, "ERROR_REASON_TYPE_MISMATCH"),
    ]
    assert await rig.count(rig.client.acme) == 3
    assert await rig.count(rig.client.globex) == 0


async def test_a_bad_row_ends_the_stream_and_the_error_says_what_is_stored(rig: Rig) -> None:
    messages = [
        stream(table(row(), row())),
        stream(table(row(), row(), row())),
        stream(table(row(), row("pressure", double_value=-1.0), row("nope"))),
        stream(table(row())),
    ]
    for tenant in rig.client.tenants:
        error = await refusal(write(rig, tenant, messages))
        assert (error.code, error.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "VALUE_OUT_OF_RANGE",
        )
        assert error.field == "rows[6].double_value"
        assert error.message.startswith("message 3: rows[6]: double_value '-1.0' is outside")
        assert error.message.endswith("; 2 other messages with 5 rows are stored")
        assert error.metadata["message_number"] == "3"
        assert error.metadata["stored_messages"] == "2"
        assert error.metadata["stored_rows"] == "5"
        assert error.metadata["unknown_messages"] == "0"
        assert error.metadata["rejected_count"] == "2"
        assert await rig.count(tenant) == 5


async def test_a_stream_sent_again_is_stored_once(rig: Rig) -> None:
    messages = [stream(table(row("count", int_value=n), row("nope"))) for n in range(6)]
    for tenant in rig.client.tenants:  # The same id in two tenants is two streams.
        broken = await write(rig, tenant, messages[:4], request_id="s1", partial_success=True)
        assert broken.duplicate_messages == 0
        again = await write(rig, tenant, messages, request_id="s1", partial_success=True)
        assert again.duplicate_messages == 4
        assert (again.accepted_count, again.rejected_count) == (6, 6)
        assert [error.index for error in again.errors] == [1, 3, 5, 7, 9, 11]
        assert sorted(value for *_, value in await rig.stored(tenant)) == list("012345")


async def test_another_body_under_the_same_id_is_refused(rig: Rig) -> None:
    good, other = stream(table(row())), stream(table(row("count", int_value=1)))
    await write(rig, rig.client.acme, [good, good], request_id="s1")
    error = await refusal(write(rig, rig.client.acme, [good, other], request_id="s1"))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert error.metadata["message_number"] == "2"
    error = await refusal(
        write(rig, rig.client.acme, [good], request_id="s1", default_entity_key="pump-2")
    )
    assert error.reason == "REQUEST_ID_REUSED"
    assert await rig.count(rig.client.acme) == 2


async def test_no_other_request_can_be_taken_for_a_message_of_a_stream(rig: Rig) -> None:
    await write(rig, rig.client.acme, [stream(table(row()))], request_id="s1")
    answer = await rig.client.write(rig.client.acme, [point()], request_id="s1")
    assert not answer.duplicate
    error = await refusal(rig.client.write(rig.client.acme, [point()], request_id="s1\x1f1"))
    assert (error.reason, error.field) == ("INVALID_FIELD", "request_id")
    assert await rig.count(rig.client.acme) == 2


async def test_validate_only_stores_nothing(rig: Rig) -> None:
    messages = [stream(table(row(), row("nope")))] * 3
    answer = await write(
        rig, rig.client.acme, messages, validate_only=True, partial_success=True, request_id="v"
    )
    assert (answer.accepted_count, answer.rejected_count) == (3, 3)
    assert answer.token == b""
    error = await refusal(write(rig, rig.client.acme, messages, validate_only=True))
    assert error.metadata["stored_rows"] == "0"
    assert await rig.count(rig.client.acme) == 0
    # Nothing was put down under the id either.
    stored = await write(rig, rig.client.acme, messages, partial_success=True, request_id="v")
    assert stored.duplicate_messages == 0


async def test_a_tenant_may_register_attributes_by_their_first_value(rig: Rig) -> None:
    for tenant in rig.client.tenants:
        await rig.query(
            "UPDATE tenants SET unknown_attribute_policy = 'register' WHERE key = %s RETURNING 1",
            tenant,
        )
        answer = await write(
            rig,
            tenant,
            [
                stream(
                    table(
                        row("brand_new", decimal_value=Decimal(1)),
                        row("brand_new"),
                        row("newer", json_value="{}"),
                    )
                )
            ],
            partial_success=True,
        )
        assert (answer.accepted_count, answer.rejected_count) == (2, 1)
        listed = await rig.client.catalog.ListAttributes(
            catalog_pb.ListAttributesRequest(), metadata=as_tenant(tenant)
        )
        types = {each.name: each.data_type for each in listed.attributes}
        assert (types["brand_new"], types["newer"]) == (4, 7)


@pytest.mark.parametrize(
    ("message", "reason", "text"),
    [
        (b"", "ARROW_INVALID", "is empty"),
        (b"hello", "ARROW_INVALID", "no Arrow IPC stream"),
        (stream(table(row()).append_column("valeu", [[1]])), "ARROW_INVALID", "'valeu'"),
        (stream(table(*[row()] * 100_001)), "BATCH_TOO_LARGE", "100000"),
    ],
    ids=["empty", "text", "column", "rows"],
)
async def test_a_message_that_is_none_of_ours_ends_the_stream(
    rig: Rig, message: bytes, reason: str, text: str
) -> None:
    error = await refusal(write(rig, rig.client.acme, [stream(table(row())), message]))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert error.field == "ipc_stream"
    assert text in error.message
    assert error.message.startswith("message 2: ipc_stream ")
    assert error.metadata["stored_messages"] == "1"
    assert await rig.count(rig.client.acme) == 1
    assert await rig.count(rig.client.globex) == 0


async def test_the_first_message_is_a_start_and_no_other_is(rig: Rig) -> None:
    start = pb.WriteArrowRequest(start=pb.WriteArrowStart())
    data = pb.WriteArrowRequest(ipc_stream=stream(table(row())))
    metadata = as_tenant(rig.client.acme)
    for requests, field in (
        ([], "start"),
        ([data], "start"),
        ([start, start], "ipc_stream"),
        ([start, pb.WriteArrowRequest()], "ipc_stream"),
        ([pb.WriteArrowRequest(start=pb.WriteArrowStart(ack=99))], "start.ack"),  # type: ignore[arg-type]
        ([pb.WriteArrowRequest(start=pb.WriteArrowStart(request_id="x" * 65))], "request_id"),
    ):
        error = await refusal(
            rig.client.ingest.WriteArrow(iter(requests), timeout=20, metadata=metadata)
        )
        assert (error.reason, error.field) == ("INVALID_FIELD", field)
    answer = await write(rig, rig.client.acme, [])
    assert answer == pb.WriteArrowResponse(ack=pb.ACK_LEVEL_DURABLE)
    assert await rig.count(rig.client.acme) == 0


async def test_a_stream_waits_for_room_instead_of_breaking(database: Database) -> None:
    """Five messages of half the room each, with flushes held: the stream goes on when they do."""
    message = stream(table(*(row("count", int_value=n) for n in range(5_000))))
    async with start_rig(database, interval_ms=5, pending_points_max=10_000) as rig:
        with rig.flushes_held():
            writing = asyncio.create_task(write(rig, rig.client.acme, [message] * 5, timeout=60))
            await eventually(lambda: rig.service.ingest.pending_points == 10_000)
            error = await refusal(rig.client.write(rig.client.globex, [point()]))
            assert error.reason == "OVERLOADED"
            assert not writing.done()
        answer = await writing
        assert answer.accepted_count == 25_000
        assert await rig.count(rig.client.acme) == 25_000
        await eventually(lambda: rig.service.ingest.pending_points == 0)


async def test_a_stream_without_room_in_its_time_is_told_so(database: Database) -> None:
    message = stream(table(*(row("count", int_value=n) for n in range(10_000))))
    async with start_rig(database, interval_ms=5, pending_points_max=10_000) as rig:
        with rig.flushes_held():
            other = asyncio.create_task(write(rig, rig.client.globex, [message], timeout=60))
            await eventually(lambda: rig.service.ingest.pending_points == 10_000)
            error = await refusal(write(rig, rig.client.acme, [message], timeout=1))
            assert (error.code, error.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "OVERLOADED",
            )
            assert error.retry_after is not None
        assert (await other).accepted_count == 10_000
        assert await rig.count(rig.client.acme) == 0


async def test_a_large_text_repeated_by_a_dictionary_takes_the_room_it_needs(
    database: Database,
) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), ["x" * 65_536])
    data = table(*[row("name", text_value="x")] * 400).set_column(3, "text_value", text)
    message = stream(data)
    assert len(message) < 100_000
    async with start_rig(database, interval_ms=5, pending_bytes_max=2**24) as rig:
        with rig.flushes_held():
            writing = asyncio.create_task(write(rig, rig.client.acme, [message], timeout=60))
            await eventually(rig.waiting_flushes)
            error = await refusal(rig.client.write(rig.client.globex, [point()]))
            assert error.reason == "OVERLOADED"
            assert error.metadata["pending_bytes"] == str(400 * 65_536)
        assert (await writing).accepted_count == 400
        twice = await refusal(write(rig, rig.client.acme, [stream(pa.concat_tables([data] * 2))]))
        assert twice.reason == "BATCH_TOO_LARGE"
        assert await rig.count(rig.client.acme) == 400
        assert await rig.count(rig.client.globex) == 0
