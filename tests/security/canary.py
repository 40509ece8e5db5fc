"""What the canary's tenant puts in, by every door there is: unmistakable, to be found."""

import re
import time
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from confluent_kafka import Producer as KafkaProducer

from atlas.query.v1 import query_service_pb2 as query_pb
from atlas_client import (
    AggregateFunction,
    AtlasClient,
    Attribute,
    DataType,
    Point,
    analytics,
    strong,
)
from atlas_client.errors import AtlasError
from atlas_client.producer import Producer
from atlas_client.queued import queued_write

from .fortress import Fortress

CANARY = "kanarienvogel"
KEY = f"{CANARY}-pump"
VALUE = f"{CANARY}-value"
COUNT = 7_777_777_771
DOORS = ("write", "stream", "arrow", "kafka")
SONG = re.compile(rf"{CANARY}|{CANARY.encode().hex()}|{COUNT}", re.IGNORECASE)
"""Any of its names and values, in hexadecimal, too."""

_ATTRIBUTES = (
    Attribute("label", DataType.TEXT, hot=True),
    Attribute(f"{CANARY}.text", DataType.TEXT, hot=True, unit=f"{CANARY}s"),
    Attribute(f"{CANARY}.cold", DataType.TEXT, allowed_values=(VALUE,)),
    Attribute(f"{CANARY}.ratio", DataType.DOUBLE),
)


@dataclass(frozen=True)
class Sung:
    """What the canary was handed, which is of no use to others."""

    token: bytes
    page_token: str
    entity_ids: tuple[int, ...]
    attribute_ids: tuple[int, ...]
    job_id: int
    report_id: int


def points(door: str) -> list[Point]:
    """An entity of that door's."""
    key = f"{KEY}-{door}"
    return [
        Point(key, "rpm", COUNT),
        Point(key, "label", VALUE),
        Point(key, f"{CANARY}.text", VALUE),
        Point(key, f"{CANARY}.cold", VALUE),
        Point(key, f"{CANARY}.ratio", float(COUNT)),
    ]


async def sing(held: Fortress) -> Sung:
    """Put it in everywhere, and see that it is there."""
    async with held.client(held.token("acme"), "acme") as acme:
        await acme.upsert_attributes(_ATTRIBUTES)
        await acme.create_entities([f"{KEY}-made"])
        _publish(held)
        await acme.write(points("write"))
        async with Producer(acme, f"{CANARY}-producer") as producer:
            await producer.send_many(points("stream"))
        written = await acme.write_arrow(_table(points("arrow")))
        await _sing_wrong(acme)
        await _arrived(acme, f"{KEY}-kafka")
        await _bury_and_replay(held, acme)
        last = await acme.write([Point(f"{KEY}-write", "rpm", COUNT)])
        (highest,) = [
            row
            async for row in acme.aggregate(
                ["rpm"], [AggregateFunction.MAX], consistency=analytics(token=last.token)
            )
        ]
        assert str(COUNT) in repr(highest)
        return await _handed(acme, written.token)


async def sing_again(held: Fortress) -> None:
    """The same by the first door, with values of now."""
    async with held.client(held.token("acme"), "acme") as acme:
        await acme.write(points("write"))


async def _handed(acme: AtlasClient, token: bytes) -> Sung:
    keys = [f"{KEY}-{door}" for door in DOORS]
    own = await acme.get_entities(keys, include_cold=True, consistency=strong())
    assert not own.not_found
    for entity in own.entities:
        assert {COUNT, VALUE, float(COUNT)} <= set(entity.values.values())
    await acme.get_entities(keys)  # Into the cache.
    page = await acme._caller.unary(
        acme._query.FindEntities, query_pb.FindEntitiesRequest(page_size=1)
    )
    assert page.next_page_token
    job = await acme.projection.verify(entities=keys)
    reconciled = await acme.reconcile().summary()
    return Sung(
        token,
        page.next_page_token,
        tuple(entity.entity_id for entity in own.entities),
        tuple([attribute.attribute_id async for attribute in acme.list_attributes()]),
        job.job_id,
        reconciled.report_id,
    )


async def _sing_wrong(acme: AtlasClient) -> None:
    """What is refused is told to nobody else either, nor to the log."""
    for wrong in (
        Point(KEY, "rpm", VALUE),
        Point(KEY, f"{CANARY}.cold", f"{VALUE}-not-allowed"),
        Point(KEY, f"{CANARY}.unknown", VALUE),
        Point(f"{KEY}\0", "label", VALUE),
        Point(KEY, "label", f"{VALUE}\0"),
    ):
        with pytest.raises(AtlasError):
            await acme.write([wrong])
    with pytest.raises(AtlasError):
        await acme.upsert_attributes([Attribute(f"{CANARY}.text", DataType.INT)])
    with pytest.raises(AtlasError):
        await acme.get_entities([f"{KEY}\0"], consistency=strong())


def _table(rows: list[Point]) -> pa.Table:
    def column(kind: type) -> list[Any]:
        return [row.value if isinstance(row.value, kind) else None for row in rows]

    return pa.table(
        {
            "entity_key": [row.entity for row in rows],
            "attribute": [row.attribute for row in rows],
            "int_value": pa.array(column(int), pa.int64()),
            "text_value": pa.array(column(str), pa.string()),
            "double_value": pa.array(column(float), pa.float64()),
        }
    )


def _publish(held: Fortress) -> None:
    endpoints = held.stack.endpoints
    assert endpoints.topic is not None
    producer = KafkaProducer({"bootstrap.servers": endpoints.kafka, "log_level": 0})
    producer.produce(endpoints.topic, queued_write("acme", points("kafka")))
    # Of these one is kept as a dead letter: it is of no type that the attribute has.
    producer.produce(endpoints.topic, queued_write("acme", [Point(KEY, "rpm", VALUE)]))
    assert producer.flush(30) == 0


async def _arrived(acme: AtlasClient, key: str) -> None:
    ends = time.monotonic() + 120  # A group takes its time to form.
    while (await acme.get_entities([key], consistency=strong())).not_found:
        assert time.monotonic() < ends, f"{key} never arrived"


async def _bury_and_replay(held: Fortress, acme: AtlasClient) -> None:
    """A definition that the warehouse cannot hold, and a change that waits behind it."""
    with psycopg.connect(held.stack.database.admin_dsn, autocommit=True) as admin:
        for change in ("min_value = 'NaN'", "min_value = NULL"):
            admin.execute(
                f"UPDATE atlas.attributes SET {change} WHERE name = %s", [f"{CANARY}.ratio"]
            )
    last = await acme.write([Point(f"{KEY}-write", "rpm", 1)])
    wanted = analytics(token=last.token)
    async for _ in acme.aggregate(["rpm"], [AggregateFunction.MAX], consistency=wanted):
        pass
    async with held.client(held.token(scopes=["platform.admin"])) as operator:
        admin_ = operator.dead_letters
        letters = [each async for each in admin_.letters(tenant="acme", with_raw=True)]
        assert [letter for letter in letters if SONG.search(repr(letter))], letters
        assert not [each async for each in admin_.letters(tenant="globex", with_raw=True)]
        replayed = await admin_.replay(tenant="acme", operator="olga")
        assert (replayed.failed_count, replayed.waiting_count) == (1, 1)
        await admin_.discard("a drill", letter_ids=[letters[0].letter_id], operator="olga")
        replayed = await admin_.replay(tenant="acme", operator="olga")
        assert replayed.applied_count == 1
