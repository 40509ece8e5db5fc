"""The bulk door: a stream of Arrow messages, each checked and sent on its way as a batch."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from atlas.ingest.v1 import ingest_service_pb2 as pb
from atlas_common import call, errors, sqlstate
from atlas_common.errors import ServiceError
from atlas_common.tenant import Tenant, current_tenant
from atlas_common.token import TokenSigner
from atlas_ingest import arrow, metrics
from atlas_ingest.arrow import ArrowColumns, ArrowInvalidError
from atlas_ingest.budget import Admission
from atlas_ingest.config import StreamConfig
from atlas_ingest.doors import arrow_convert
from atlas_ingest.doors.arrow_convert import Start
from atlas_ingest.doors.arrow_totals import Totals, in_stream
from atlas_ingest.optimizer import Submitted, WriteOptimizer
from atlas_ingest.points import Rejections
from atlas_ingest.refusal import BatchRefusedError
from atlas_ingest.staging import StagingMonitor
from atlas_ingest.write import Write

IN_FLIGHT_MAX = 4
"""Messages of one stream that are on their way while the next is decoded."""

ROWS_MAX = 2**31 - 1  # Errors name rows by 32 bits.
OVERLOAD_SECONDS_MAX = 30.0
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.02, 0.5
SETTLE_SECONDS_MAX = 10.0


class ArrowWriter:
    """Answers WriteArrow."""

    def __init__(
        self,
        optimizer: WriteOptimizer,
        signer: TokenSigner,
        monitor: StagingMonitor,
        config: StreamConfig,
    ) -> None:
        self._optimizer = optimizer
        self._signer = signer
        self._monitor = monitor
        self._config = config

    async def write(self, requests: AsyncIterator[pb.WriteArrowRequest]) -> pb.WriteArrowResponse:
        """Store the stream's messages one after another, some of them on their way at a time.

        Raises ServiceError: what is wrong with a message, or what kept it from being stored; its
        text and metadata say how much of the stream is stored.
        """
        messages = aiter(requests)
        start = arrow_convert.start_of(
            await _next(messages, self._config.start_seconds, "no start came")
        )
        tenant = current_tenant()
        stream = _Stream(self._optimizer, self._monitor, tenant, start)
        try:
            idle_seconds = self._config.idle_seconds
            while (request := await _next(messages, idle_seconds, "nothing was sent")) is not None:
                await stream.send(arrow_convert.ipc_stream_of(request))
            await stream.settle()
        except Exception as error:
            failure = error if isinstance(error, ServiceError) else sqlstate.to_service_error(error)
            if failure is None:
                raise
            raise await stream.ended_by(failure) from error
        totals = stream.totals
        token = self._signer.seal(tenant.id, totals.positions.values())
        return arrow_convert.response_of(totals, token=token, ack=start.ack)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message on its way; `first_row` counts from the beginning of the stream."""

    number: int
    first_row: int
    submitted: Submitted


class _Stream:
    """One call: what has been sent, what is on its way, what became of the rest."""

    def __init__(
        self, optimizer: WriteOptimizer, monitor: StagingMonitor, tenant: Tenant, start: Start
    ) -> None:
        self._optimizer = optimizer
        self._monitor = monitor
        self._tenant = tenant
        self._start = start
        self._in_flight: deque[_Sent] = deque()
        self._number = 0  # Of the message at work, from 1 on.
        self._rows = 0
        self.totals = Totals()

    async def send(self, ipc_stream: bytes) -> None:
        """Check a message and send it on its way; waits while too many are.

        Raises ServiceError, psycopg.Error.
        """
        self._number += 1
        try:
            extent = arrow.measure(ipc_stream)
        except ArrowInvalidError as error:
            raise _invalid(error) from None
        if self._rows + extent.rows > ROWS_MAX:
            raise errors.invalid_argument(
                "BATCH_TOO_LARGE", f"the stream has more than {ROWS_MAX} rows", field="ipc_stream"
            )
        while len(self._in_flight) >= IN_FLIGHT_MAX:
            await self._settle_oldest()
        await self._until_quota(extent.rows)
        size_bytes = max(len(ipc_stream), extent.decoded_bytes)
        with await self._admitted(extent.rows, size_bytes) as admission:
            now_us = time.time_ns() // 1_000
            columns, body_hash = await self._read(ipc_stream, now_us)
            if columns.text_bytes <= size_bytes:
                await self._submit(columns, size_bytes, body_hash, admission, now_us)
                return
        # Its dictionaries stand for more than they are. Nobody takes the share given back before
        # the larger one is asked for: the loop does not turn in between.
        with await self._admitted(extent.rows, columns.text_bytes) as admission:
            await self._submit(columns, columns.text_bytes, body_hash, admission, now_us)

    async def settle(self) -> None:
        """Wait for all that is on its way. Raises ServiceError."""
        while self._in_flight:
            await self._settle_oldest()

    async def ended_by(self, failure: ServiceError) -> ServiceError:
        """The error of the stream, once it is known what is stored of the rest."""
        number = self._number
        try:
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                while self._in_flight:
                    try:
                        await self._settle_oldest()
                    except ServiceError:
                        continue  # The first failure is the one that is told.
        except TimeoutError:
            pass
        unknown_messages = len(self._in_flight)
        return _told(failure, self._start, number, self.totals, unknown_messages=unknown_messages)

    async def _read(self, ipc_stream: bytes, now_us: int) -> tuple[ArrowColumns, bytes]:
        # In a thread: pyarrow and hashlib let go of the interpreter, and documents may take long.
        try:
            return await asyncio.to_thread(_read, ipc_stream, self._start, now_us)
        except ArrowInvalidError as error:
            raise _invalid(error) from None

    async def _submit(
        self,
        columns: ArrowColumns,
        size_bytes: int,
        body_hash: bytes,
        admission: Admission,
        now_us: int,
    ) -> None:
        start = self._start
        write = Write(
            columns=columns,
            size_bytes=size_bytes,
            partial_success=start.partial_success,
            validate_only=start.validate_only,
            ack=start.ack,
            request_id=start.part_id(self._number),
            body_hash=body_hash,
        )
        try:
            submitted = await self._optimizer.submit(self._tenant, write, admission, now_us)
        except BatchRefusedError as error:
            raise _shifted(error, self._rows) from None
        self._in_flight.append(_Sent(self._number, self._rows, submitted))
        self._rows += len(columns)

    async def _admitted(self, rows: int, size_bytes: int) -> Admission:
        """Room for a message, waited for while others have it: a stream is not broken half way.

        Raises ServiceError RESOURCE_EXHAUSTED when there is none for too long.
        """
        loop = asyncio.get_running_loop()
        gives_up_at = loop.time() + OVERLOAD_SECONDS_MAX
        pause = _PAUSE_SECONDS_MIN
        while True:
            try:
                return self._optimizer.admit(rows, size_bytes)
            except ServiceError as error:
                if error.reason != "OVERLOADED":
                    raise
                left = call.remaining()
                if loop.time() + pause > gives_up_at or (left is not None and left <= 2 * pause):
                    raise
            if self._in_flight:
                await self._settle_oldest()  # What is in the way may well be our own.
            else:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret.
                pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    async def _until_quota(self, rows: int) -> None:
        """Hold the sender up while the tenant's quota of points is used up.

        Raises ServiceError RESOURCE_EXHAUSTED when that takes too long.
        """
        left = call.remaining()
        seconds_max = OVERLOAD_SECONDS_MAX if left is None else min(OVERLOAD_SECONDS_MAX, left / 2)
        await self._optimizer.meters.points_in_time(self._tenant, rows, seconds_max)

    async def _settle_oldest(self) -> None:
        sent = self._in_flight[0]
        try:
            ingested = await sent.submitted.ingested()
        except ServiceError:
            self._number = sent.number
            self._in_flight.popleft()
            raise
        self._in_flight.popleft()
        answer = ingested.answer
        self.totals.add(answer, sent.first_row, ingested.position, duplicate=ingested.duplicate)
        if not ingested.duplicate and not self._start.validate_only:
            metrics.points_accepted.add(answer.accepted_count)
            metrics.points_rejected.add(answer.rejected_count)
            self._monitor.rejected_points += answer.rejected_count


async def _next(
    messages: AsyncIterator[pb.WriteArrowRequest], seconds: float, problem: str
) -> pb.WriteArrowRequest | None:
    """The next message, None after the last. Raises ServiceError DEADLINE_EXCEEDED."""
    try:
        async with asyncio.timeout(seconds):
            return await anext(messages, None)
    except TimeoutError:
        raise errors.deadline_exceeded(
            "DEADLINE_EXCEEDED", f"{problem} within {seconds:g} s: open another stream"
        ) from None


def _read(ipc_stream: bytes, start: Start, now_us: int) -> tuple[ArrowColumns, bytes]:
    return arrow.read(ipc_stream, start.defaults(now_us)), start.body_hash(ipc_stream)


def _invalid(error: ArrowInvalidError) -> ServiceError:
    return errors.invalid_argument(error.reason, f"ipc_stream {error}", field="ipc_stream")


def _shifted(error: BatchRefusedError, first_row: int) -> BatchRefusedError:
    """The refusal of a message with its rows counted from the beginning of the stream."""
    return BatchRefusedError(
        Rejections(error.rejections.count, in_stream(error.rejections.errors, first_row)),
        error.metadata["entity_key"],
        error.metadata["attribute"],
        of="rows",
        outcome="nothing of its message was stored",
    )


def _told(
    failure: ServiceError, start: Start, number: int, totals: Totals, *, unknown_messages: int
) -> ServiceError:
    """Say in the error how much of the stream is stored."""
    stored = Totals() if start.validate_only else totals
    unknown = f", {unknown_messages} more may be" if unknown_messages else ""
    failure.message = (
        f"message {number}: {failure.message}; {stored.messages} other messages with"
        f" {stored.accepted} rows are stored{unknown}"
    )
    failure.metadata |= {
        "message_number": str(number),
        "stored_messages": str(stored.messages),
        "stored_rows": str(stored.accepted),
        "unknown_messages": str(unknown_messages),
    }
    return failure
