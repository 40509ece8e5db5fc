"""A queue as a source, with moto in place of AWS: each message is stored once, and goes."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import boto3
import pytest
from typing_extensions import override

from atlas_devstack.database import Database
from atlas_ingest.config import SqsConfig
from atlas_ingest.sources.intake import Intake
from atlas_ingest.sources.sqs import BINARY_ATTRIBUTE, SqsSource

from .ingest_rig import Rig, point, start_rig
from .source_rig import all_stored, dead_letters, encoded, numbers, queued
from .waiting import eventually

REGION = "eu-central-1"


@pytest.fixture(autouse=True)
def _credentials(aws_credentials: None) -> None:
    """For every client."""


class Queue:
    """A queue of one test's own."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint = endpoint
        self.client: Any = boto3.client("sqs", region_name=REGION, endpoint_url=endpoint)
        self.url: str = self.client.create_queue(QueueName=name)["QueueUrl"]

    def send(self, *messages: bytes) -> None:
        for message in messages:
            self.send_text(base64.b64encode(message).decode())

    def send_text(self, body: str, **attributes: bytes) -> None:
        self.client.send_message(
            QueueUrl=self.url,
            MessageBody=body,
            MessageAttributes={
                name: {"DataType": "Binary", "BinaryValue": value}
                for name, value in attributes.items()
            },
        )

    def left(self) -> int:
        """Messages that are there, visible or not."""
        counts = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])
        return sum(
            int(counts["Attributes"][f"ApproximateNumberOfMessages{kind}"])
            for kind in ("", "NotVisible", "Delayed")
        )

    async def is_empty(self) -> bool:
        return await asyncio.to_thread(self.left) == 0

    def config(self, **fields: Any) -> SqsConfig:
        return SqsConfig(
            queue_url=self.url, region=REGION, endpoint_url=self.endpoint, wait_seconds=1, **fields
        )


@pytest.fixture
def queue(aws: str, request: pytest.FixtureRequest) -> Queue:
    return Queue(aws, request.node.name[:80])


@pytest.fixture
async def rig(database: Database) -> AsyncIterator[Rig]:
    async with start_rig(database, interval_ms=5) as rig:
        yield rig


@asynccontextmanager
async def reading(rig: Rig, config: SqsConfig) -> AsyncIterator[None]:
    task = asyncio.create_task(SqsSource(config, rig.service.intake).run())
    try:
        yield
    finally:
        if task.done():
            await task  # Tells what it died of.
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def letters_since(rig: Rig, before: int) -> list[tuple[Any, ...]]:
    """(tenant_id, reason, raw) of the queues' dead letters but for the first."""
    return [(row[0], row[2], row[4]) for row in (await dead_letters(rig, "sqs"))[before:]]


async def test_messages_are_stored_and_deleted(rig: Rig, queue: Queue) -> None:
    for tenant in rig.client.tenants:
        queue.send(*(queued(tenant, number) for number in range(20)))
        queue.send_text("see the attribute", **{BINARY_ATTRIBUTE: queued(tenant, 20)})
    async with reading(rig, queue.config()):
        for tenant in rig.client.tenants:
            await all_stored(rig, tenant, 21)
        await eventually(queue.is_empty)


async def test_a_request_id_is_stored_once_however_often_it_is_sent(rig: Rig, queue: Queue) -> None:
    for tenant in rig.client.tenants:
        await rig.client.write(tenant, [point("count", int_value=0)], request_id="r0")
        queue.send(*(queued(tenant, n, request_id=f"r{n}") for n in (0, 1, 1, 1)))
    async with reading(rig, queue.config()):
        await eventually(queue.is_empty)
    for tenant in rig.client.tenants:
        assert await numbers(rig, tenant) == [0, 1]


async def test_what_can_never_be_stored_is_kept_as_it_came(rig: Rig, queue: Queue) -> None:
    acme, globex = rig.client.tenants
    before = len(await dead_letters(rig, "sqs"))
    await rig.client.write(acme, [point("count", int_value=0)], request_id="taken")
    partly = encoded(globex, [point("count", int_value=0), point("nope")])
    reused = queued(acme, 9, request_id="taken")
    queue.send_text("this is not base64!")
    queue.send(b"\xff", queued("nobody-here", 1), partly, reused, queued(acme, 1))
    async with reading(rig, queue.config()):
        await eventually(queue.is_empty)
    assert await numbers(rig, acme) == [0, 1]
    assert await numbers(rig, globex) == [0]
    ids = {tenant: await rig.tenant_id(tenant) for tenant in rig.client.tenants}
    assert sorted(await letters_since(rig, before)) == sorted(
        [
            (0, "INVALID_FIELD", b"this is not base64!"),
            (0, "INVALID_FIELD", b"\xff"),
            (0, "TENANT_UNKNOWN", queued("nobody-here", 1)),
            (ids[globex], "ATTRIBUTE_UNKNOWN", partly),
            (ids[acme], "REQUEST_ID_REUSED", reused),
        ]
    )


async def test_messages_that_take_long_stay_ours_and_come_once(rig: Rig, queue: Queue) -> None:
    """The flush stands still for longer than a message is invisible; a second reader looks on."""
    before = len(await dead_letters(rig, "sqs"))
    for tenant in rig.client.tenants:
        queue.send(*(queued(tenant, number) for number in range(5)))
    config = queue.config(visibility_seconds=2)
    async with reading(rig, config):
        with rig.flushes_held():
            await eventually(rig.waiting_flushes)
            received: list[Any] = []

            async def looked_on() -> None:
                """More than one visibility timeout, asking all the time."""
                for _ in range(3):
                    answer = await asyncio.to_thread(
                        queue.client.receive_message, QueueUrl=queue.url, WaitTimeSeconds=1
                    )
                    received.extend(answer.get("Messages", []))

            await looked_on()
            assert received == []
        await eventually(queue.is_empty)
    for tenant in rig.client.tenants:
        await all_stored(rig, tenant, 5)
    assert await letters_since(rig, before) == []


class Unfinished(SqsSource):
    """Ends before it deletes anything."""

    def __init__(self, config: SqsConfig, intake: Intake) -> None:
        super().__init__(config, intake)
        self.stored = asyncio.Event()

    @override
    async def _delete(self, messages: Any) -> None:
        self.stored.set()
        await asyncio.Event().wait()


async def test_a_message_received_twice_is_stored_once(rig: Rig, queue: Queue) -> None:
    """The reader ends between the flush and the deletion."""
    for tenant in rig.client.tenants:
        queue.send(*(queued(tenant, number) for number in range(5)))
    queue.send(b"\xff")
    before = len(await dead_letters(rig, "sqs"))
    source = Unfinished(queue.config(visibility_seconds=2), rig.service.intake)
    task = asyncio.create_task(source.run())
    await source.stored.wait()
    for tenant in rig.client.tenants:
        await eventually(partial(_all_there, rig, tenant))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(queue.left) == 11
    async with reading(rig, queue.config()):
        await eventually(queue.is_empty)
    for tenant in rig.client.tenants:
        await all_stored(rig, tenant, 5)
    assert await letters_since(rig, before) == [(0, "INVALID_FIELD", b"\xff")]


async def _all_there(rig: Rig, tenant: str) -> bool:
    return len(await numbers(rig, tenant)) == 5
