"""A queue of QueuedWrite as a source: each message is stored once, then deleted.

A message is known by its request_id, or by its MessageId if it has none; so it may come as often as
it likes. It stays invisible to others while it is under way, however long that takes.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import boto3
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError

from atlas_common import telemetry
from atlas_common.errors import ServiceError
from atlas_ingest.config import SqsConfig
from atlas_ingest.sources import metrics
from atlas_ingest.sources.backoff import Backoff
from atlas_ingest.sources.faults import FAILURES_MAX, given_up, is_suspect, refusal_of
from atlas_ingest.sources.feed import Submitting
from atlas_ingest.sources.message import Incoming, Refusal

BINARY_ATTRIBUTE = "queued_write"
_RECEIVE_MAX = 10  # What SQS gives at most.
_THREADS = 8
_AWS_ERRORS = (BotoCoreError, ClientError)
_log = telemetry.logger(__name__)
_T = TypeVar("_T")
_Message = dict[str, Any]


class SqsSource:
    """Reads a queue while run() runs."""

    def __init__(self, config: SqsConfig, intake: Submitting) -> None:
        self._config = config
        self._intake = intake
        self._client = boto3.client(
            "sqs",
            region_name=config.region,
            endpoint_url=config.endpoint_url,
            config=ClientConfig(
                connect_timeout=5,
                read_timeout=config.wait_seconds + 10,
                max_pool_connections=_THREADS,
                retries={"mode": "standard", "max_attempts": 3},
            ),
        )

    async def run(self) -> None:
        """Read until cancelled; what is under way then comes again."""
        self._threads = ThreadPoolExecutor(_THREADS, "atlas-sqs")
        try:
            await self._receive_forever()
        finally:
            # Not waited for: a receive under way ends when its poll does.
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _receive_forever(self) -> None:
        room = asyncio.Semaphore(self._config.in_flight_receives_max)
        backoff = Backoff()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await room.acquire()
                try:
                    messages = await self._receive()
                except _AWS_ERRORS as error:
                    room.release()
                    _log.warning("cannot receive", queue=self._config.queue_url, error=str(error))
                    await asyncio.sleep(backoff.next_seconds())
                    continue
                backoff.reset()
                if messages:
                    storing = tasks.create_task(self._store(messages))
                    storing.add_done_callback(lambda _: room.release())
                else:
                    room.release()

    async def _receive(self) -> list[_Message]:
        answer = await self._call(
            lambda: self._client.receive_message(
                QueueUrl=self._config.queue_url,
                MaxNumberOfMessages=_RECEIVE_MAX,
                WaitTimeSeconds=self._config.wait_seconds,
                VisibilityTimeout=self._config.visibility_seconds,
                MessageSystemAttributeNames=["SentTimestamp"],
                MessageAttributeNames=[BINARY_ATTRIBUTE],
            )
        )
        messages: list[_Message] = answer.get("Messages", [])
        return messages

    async def _store(self, messages: Sequence[_Message]) -> None:
        """See each message stored, then delete them all."""
        holding = asyncio.create_task(self._hold(messages))
        try:
            async with asyncio.TaskGroup() as tasks:
                for message in messages:
                    tasks.create_task(self._store_one(*_incoming(message)))
            await self._delete(messages)
        except _AWS_ERRORS as error:
            # They come again, and are known by then.
            _log.warning("cannot delete", queue=self._config.queue_url, error=str(error))
        finally:
            holding.cancel()

    async def _store_one(self, message: Incoming, refusal: Refusal | None) -> None:
        """Return once it is stored or kept as a dead letter, however often that has to be tried."""
        backoff = Backoff()
        failures = 0
        while True:
            try:
                await (await self._intake.submit(message, refusal))
            except Exception as error:  # noqa: BLE001 - whatever it is, the message is not stored.
                refusal = refusal or refusal_of(error)
                if refusal is None and is_suspect(error):
                    failures += 1
                    refusal = given_up(error, failures) if failures >= FAILURES_MAX else None
                metrics.setbacks.add(1)
                _log.warning(
                    "message tried again",
                    message=message.message_id,
                    kind=type(error).__name__,
                    error=str(error) if isinstance(error, ServiceError) else "",
                )
            else:
                return
            await asyncio.sleep(backoff.next_seconds())

    async def _hold(self, messages: Sequence[_Message]) -> None:
        """Keep the messages invisible to others, until cancelled."""
        while True:
            await asyncio.sleep(self._config.visibility_seconds / 2)
            with suppress(*_AWS_ERRORS):  # The next time, or they come twice.
                await self._call(
                    lambda: self._client.change_message_visibility_batch(
                        QueueUrl=self._config.queue_url,
                        Entries=[
                            {**entry, "VisibilityTimeout": self._config.visibility_seconds}
                            for entry in _entries(messages)
                        ],
                    )
                )

    async def _delete(self, messages: Sequence[_Message]) -> None:
        answer = await self._call(
            lambda: self._client.delete_message_batch(
                QueueUrl=self._config.queue_url, Entries=_entries(messages)
            )
        )
        if answer.get("Failed"):
            _log.warning("not all were deleted: they come again", count=len(answer["Failed"]))

    async def _call(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _incoming(message: _Message) -> tuple[Incoming, Refusal | None]:
    """The message, and why it is none, if that is seen already."""
    raw, refusal = _raw(message)
    sent_us = int(message["Attributes"]["SentTimestamp"]) * 1_000
    return Incoming("sqs", raw, sent_us, message_id=message["MessageId"]), refusal


def _raw(message: _Message) -> tuple[bytes, Refusal | None]:
    attribute = message.get("MessageAttributes", {}).get(BINARY_ATTRIBUTE)
    if attribute is not None and "BinaryValue" in attribute:
        return bytes(attribute["BinaryValue"]), None
    body: str = message["Body"]
    try:
        return base64.b64decode(body, validate=True), None
    except (binascii.Error, ValueError):
        return body.encode(), Refusal(
            "INVALID_FIELD",
            f"the body is not base64, and there is no binary attribute {BINARY_ATTRIBUTE}",
        )


def _entries(messages: Sequence[_Message]) -> list[dict[str, Any]]:
    return [
        {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
        for number, message in enumerate(messages)
    ]
