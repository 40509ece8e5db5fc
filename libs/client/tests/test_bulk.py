"""Arrow data cut into messages and sent; wide tables made into points."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.ipc
import pytest

from atlas_client import AckLevel, AtlasClient, AtlasError
from atlas_client.bulk import ipc_streams, melt

from .client_rig import Platform, Refusal

NOW = datetime(2024, 1, 1, tzinfo=UTC)


def points(count: int, keys: Any = None) -> pa.Table:
    return pa.table(
        {
            "entity_key": pa.array(keys or ["pump-1"] * count),
            "attribute": pa.array(["rpm"] * count).dictionary_encode(),
            "double_value": pa.array(range(count), pa.float64()),
        }
    )


def read(messages: Any) -> list[pa.Table]:
    return [pa.ipc.open_stream(message).read_all() for message in messages]


@pytest.mark.parametrize("rows_per_batch", [1, 3, 10, 1000])
def test_batches_are_cut_and_joined_to_the_same_messages(rows_per_batch: int) -> None:
    table = points(25)
    batches = table.to_batches(max_chunksize=rows_per_batch)
    messages = list(ipc_streams(batches, rows_max=10))
    assert [each.num_rows for each in read(messages)] == [10, 10, 5]
    assert pa.concat_tables(read(messages)).equals(table)
    # Whatever they come in, and at every call: a repetition is known by its bytes.
    assert list(ipc_streams(table, rows_max=10)) == messages
    reader = pa.RecordBatchReader.from_batches(table.schema, batches)
    assert list(ipc_streams(reader, rows_max=10)) == messages


def test_every_message_is_a_complete_stream_within_its_size() -> None:
    texts = ["x" * 1_000] * 90 + ["y" * 5_000] + ["z"] * 9
    table = pa.table({"attribute": ["note"] * 100, "text_value": texts})
    messages = list(ipc_streams(table, bytes_max=4_000))
    sizes = [(len(message), read([message])[0].num_rows) for message in messages]
    assert all(size <= 4_000 or rows == 1 for size, rows in sizes)
    assert any(size > 4_000 for size, _ in sizes)  # A row is never cut.
    assert pa.concat_tables(read(messages)).equals(table)


def test_a_message_brings_only_the_dictionary_that_it_uses() -> None:
    keys = pa.array([f"pump-{n:05}" for n in range(10_000)]).dictionary_encode()
    table = pa.table({"entity_key": keys, "attribute": ["rpm"] * 10_000})
    messages = list(ipc_streams(table, rows_max=100))
    assert max(map(len, messages)) < 6_000
    assert pa.concat_tables(read(messages)).column(0).cast(pa.string()).to_pylist() == [
        f"pump-{n:05}" for n in range(10_000)
    ]


def test_views_become_texts() -> None:
    for column in (
        pa.array(["a", None, "bb"], pa.string_view()),
        pa.DictionaryArray.from_arrays(pa.array([0, None, 1]), pa.array(["a", "bb"])),
    ):
        (table,) = read(ipc_streams(pa.table({"text_value": column, "attribute": ["a"] * 3})))
        assert "view" not in str(table.schema)
        assert table.column("text_value").to_pylist() == ["a", None, "bb"]


def test_what_is_no_arrow_data_is_refused() -> None:
    for data in (1, "text", [1], [points(1)]):
        with pytest.raises(TypeError):
            list(ipc_streams(data))
    other = points(1).drop_columns("entity_key")
    with pytest.raises(ValueError, match="different columns"):
        list(ipc_streams([*points(1).to_batches(), *other.to_batches()]))
    assert list(ipc_streams(points(0))) == []


async def test_a_table_is_sent_in_messages_behind_a_start(
    client: AtlasClient, platform: Platform
) -> None:
    session = client.session()
    result = await session.write_arrow(
        points(45_000),
        ack=AckLevel.COMMITTED,
        partial_success=True,
        default_entity="pump-9",
        default_time=NOW,
    )
    assert result.accepted_count == 3  # Messages, of this server.
    assert result.token == session.token != b""
    start, *messages = platform.requests
    assert start.start.request_id == result.request_id != ""
    assert start.start.partial_success
    assert start.start.default_entity_key == "pump-9"
    assert start.start.default_event_time_us == 1_704_067_200_000_000
    assert start.start.ack == 2
    tables = read(message.ipc_stream for message in messages)
    assert [table.num_rows for table in tables] == [20_000, 20_000, 5_000]
    assert platform.metadata[0]["x-atlas-tenant"] == "acme"


async def test_a_table_is_sent_again_from_its_beginning_under_the_same_id(
    client: AtlasClient, platform: Platform
) -> None:
    platform.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")]
    result = await client.write_arrow(points(10))
    assert [request.WhichOneof("kind") for request in platform.requests] == [
        "start",
        "start",
        "ipc_stream",
    ]
    assert {r.start.request_id for r in platform.requests[:2]} == {result.request_id}


async def test_what_can_be_read_once_is_not_sent_again(
    client: AtlasClient, platform: Platform
) -> None:
    platform.refusals = [Refusal(grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")]
    with pytest.raises(AtlasError) as caught:
        await client.write_arrow(iter(points(10).to_batches()), request_id="r1")
    assert caught.value.metadata["request_id"] == "r1"
    assert len(platform.requests) == 1


async def test_a_refusal_in_the_middle_ends_the_sending(
    client: AtlasClient, platform: Platform
) -> None:
    sent = 0

    def endless() -> Iterator[Any]:
        nonlocal sent
        (batch,) = points(20_000).to_batches()
        while True:
            sent += 1
            yield batch
            if sent == 3:
                platform.refusals = [
                    Refusal(grpc.StatusCode.INVALID_ARGUMENT, "TYPE_MISMATCH", field="rows[1]")
                ]

    with pytest.raises(AtlasError) as caught:
        await client.write_arrow(endless(), timeout=20)
    assert (caught.value.reason, caught.value.field) == ("TYPE_MISMATCH", "rows[1]")


async def test_an_error_of_the_data_ends_the_call_and_is_the_callers(
    client: AtlasClient, platform: Platform
) -> None:
    def broken() -> Iterator[Any]:
        yield from points(20_000).to_batches()
        raise OSError("the file is gone")

    with pytest.raises(OSError, match="the file is gone"):
        await client.write_arrow(broken())
    assert (await client.write_arrow(points(1))).accepted_count == 1


def test_a_wide_table_becomes_points() -> None:
    table = pa.table(
        {
            "asset": ["a", "b", "c"],
            "at": pa.array([NOW, NOW + timedelta(seconds=1), NOW], pa.timestamp("ns", "UTC")),
            "code": pa.array([0, 1, 2], pa.uint8()),
            "rpm": pa.array([1, None, 3], pa.int16()),
            "load": pa.array([0.5, float("nan"), None], pa.float32()),
            "on": [True, None, None],
            "price": pa.array([None, Decimal("1.50"), None], pa.decimal128(5, 2)),
            "state": pa.array(["up", None, "up"]).dictionary_encode(),
            "doc": [None, None, "{}"],
            "day": [date(1969, 12, 31), None, None],
            "exact": pa.array([-1, None, None], pa.timestamp("ns")),
            "never": pa.array([None] * 3, pa.float64()),
        }
    )
    wide = melt(table, entity="asset", time="at", quality="code", json=["doc"])
    assert wide.attributes == tuple(table.column_names[3:])
    rows = [row for batch in wide for row in batch.to_pylist()]
    found = []
    for row in rows:
        ((kind, value),) = [
            (k, v) for k, v in row.items() if k.endswith("_value") and v is not None
        ]
        found.append((row["entity_key"], row["attribute"], row["quality"], kind, str(value)))
        assert row["event_time"] == table.column("at")[row["quality"]].as_py()
    assert found == [
        ("a", "rpm", 0, "int_value", "1"),
        ("c", "rpm", 2, "int_value", "3"),
        ("a", "load", 0, "double_value", "0.5"),
        ("b", "load", 1, "double_value", "nan"),
        ("a", "on", 0, "bool_value", "True"),
        ("b", "price", 1, "decimal_value", "1.50"),
        ("a", "state", 0, "text_value", "up"),
        ("c", "state", 2, "text_value", "up"),
        ("c", "doc", 2, "json_value", "{}"),
        ("a", "day", 0, "time_value", "1969-12-31 00:00:00+00:00"),
        ("a", "exact", 0, "time_value", "1969-12-31 23:59:59.999999+00:00"),
    ]
    assert sum(t.num_rows for t in read(ipc_streams(wide))) == len(rows)


def test_a_wide_table_that_cannot_be_points_is_refused() -> None:
    table = pa.table({"entity_key": ["a"], "event_time": [NOW], "tags": [["x"]], "n": [1]})
    with pytest.raises(ValueError, match="'tags' is list"):
        melt(table)
    assert melt(table, attributes=["n"]).attributes == ("n",)
    for wrong in ({"entity": "asset"}, {"quality": "q"}, {"json": ["x"]}, {"attributes": ["x"]}):
        with pytest.raises(ValueError, match="no column"):
            melt(table, **{"attributes": ["n"], **wrong})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no column that is an attribute"):
        melt(table, attributes=[])
    # 2^63 fits no int attribute: said before anything is sent.
    wild = table.set_column(3, "n", pa.array([2**63], pa.uint64()))
    with pytest.raises(pa.ArrowInvalid):
        list(melt(wild, attributes=["n"]))
