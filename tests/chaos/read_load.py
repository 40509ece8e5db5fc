"""Writers and readers of all kinds at the same time, each answer judged (see read_audit)."""

import asyncio
import itertools
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc.aio
import psycopg

from atlas.ingest.v1 import ingest_service_pb2 as ingest_pb
from atlas.ingest.v1 import ingest_service_pb2_grpc
from atlas.query.v1 import query_service_pb2 as pb
from atlas.type.v1 import consistency_pb2, value_pb2
from atlas_client.call import open_channel
from tests.integration.query_reading import STRONG, as_tenant, at_least, eventual, refusal
from tests.integration.waiting import eventually

from .read_arena import TENANTS, ReadArena, Reads
from .read_audit import Answer, Level, ReadAudit, Shown, Subject, lag_seconds

ENTITIES = 3
DEADLINE_SECONDS = 20.0
BOUNDS = (0.1, 0.5, 1.0, 3.0)
_PAUSE_SECONDS = 0.02
_HISTORY_VERSIONS = 20


@dataclass(frozen=True)
class _Ask:
    """A read about to be made."""

    level: Level
    consistency: consistency_pb2.Consistency
    bound_seconds: float | None
    held: dict[str, int]
    asked_at: float


@dataclass
class ReadLoad:
    """Every entity's readings are of version n at the event time `base` + n microseconds."""

    arena: ReadArena
    reads: Reads
    audit: ReadAudit
    random: random.Random
    keys: tuple[str, ...]
    base_us: int
    failures: Counter[str] = field(default_factory=Counter)
    """By code and reason."""
    served: int = 0
    tokens: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    """Of each tenant: the token of its last write, and the version that it wrote."""

    async def write(self, tenant: str, ingest: Any, clock: "psycopg.AsyncConnection[Any]") -> None:
        """One version after another."""
        truths = [self.audit.truth(Subject(tenant, key)) for key in self.keys]
        while True:
            (version,) = {truth.begin() for truth in truths}
            points = [point for key in self.keys for point in self._points(tenant, key, version)]
            request = ingest_pb.WriteRequest(
                points=points, request_id=str(uuid.uuid4()), ack=ingest_pb.ACK_LEVEL_COMMITTED
            )
            token = await self._written(tenant, ingest, request)
            moment = time.monotonic()
            row = await (await clock.execute("SELECT clock_timestamp()")).fetchone()
            assert row is not None
            for truth in truths:
                truth.committed(moment, row[0])
            self.tokens[tenant] = (token, version)
            await asyncio.sleep(_PAUSE_SECONDS)

    async def read(self, tenant: str) -> None:
        """Reads of every kind; the token of an answer goes into some of the next."""
        seen: tuple[bytes, dict[str, int]] | None = None
        for number in itertools.count():
            ask = self._ask(tenant, seen if number % 3 else None)
            kind = self.random.choice((self._entities, self._found, self._history))
            try:
                shown, metadata = await kind(tenant, ask)
            except grpc.aio.AioRpcError as error:
                self._failed(tenant, error)
            else:
                self._judge(ask, shown, metadata)
                seen = (metadata.token, _versions(shown)) if metadata.token else None
            await asyncio.sleep(_PAUSE_SECONDS)

    async def more(self, answers: int = 100) -> None:
        """Wait until so many more reads are answered."""
        before = self.served
        await eventually(lambda: self.served >= before + answers)

    async def more_at(self, *endpoints: str, seconds: float = 20.0) -> None:
        """Wait until each of these endpoints has answered more reads."""
        before = {name: self.audit.answers[name] for name in endpoints}
        await eventually(
            lambda: all(self.audit.answers[name] > before[name] + 5 for name in endpoints), seconds
        )

    def _ask(self, tenant: str, seen: tuple[bytes, dict[str, int]] | None) -> _Ask:
        level = self.random.choice(tuple(Level))
        token: bytes = b""
        held: dict[str, int] = {}
        if seen is not None:
            token, held = seen
        elif tenant in self.tokens:
            token, version = self.tokens[tenant]
            held = dict.fromkeys(self.keys, version)
        bound = self.random.choice(BOUNDS) if level is Level.EVENTUAL else None
        match level:
            case Level.TOKEN if token:
                consistency = at_least(token)
            case Level.EVENTUAL:
                consistency = eventual(bound)
                if token and self.random.random() < 0.3:
                    consistency.eventual.token = token
                else:
                    held = {}
            case _:
                level, consistency, held = Level.STRONG, STRONG, {}
        return _Ask(level, consistency, bound, held, time.monotonic())

    async def _entities(self, tenant: str, ask: _Ask) -> tuple[list[Shown], Any]:
        is_all = self.random.random() < 0.3
        scope = pb.ATTRIBUTE_SCOPE_ALL if is_all else pb.ATTRIBUTE_SCOPE_UNSPECIFIED
        answer = await self.reads.get(
            tenant,
            *self.keys,
            consistency=ask.consistency,
            scope=scope,
            timeout=DEADLINE_SECONDS,
        )
        return self._states(tenant, ask, answer), answer.metadata

    async def _found(self, tenant: str, ask: _Ask) -> tuple[list[Shown], Any]:
        request = pb.FindEntitiesRequest(
            filter=pb.Filter(exists=pb.Exists(attribute="pressure")),
            page_size=1000,
            consistency=ask.consistency,
        )
        answer = await self.reads.stub.FindEntities(
            request, metadata=as_tenant(tenant), timeout=DEADLINE_SECONDS
        )
        return self._states(tenant, ask, answer), answer.metadata

    async def _history(self, tenant: str, ask: _Ask) -> tuple[list[Shown], Any]:
        key = self.random.choice(self.keys)
        held = ask.held.get(key, 0)
        subject = Subject(tenant, key)
        begun = self.audit.truth(subject).begun
        first = max(1, min(begun, held or begun) - _HISTORY_VERSIONS)
        request = pb.GetHistoryRequest(
            entity_key=key, attributes=["state"], consistency=ask.consistency
        )
        request.start_time.FromMicroseconds(self.base_us + first)
        call = self.reads.stub.GetHistory(
            request, metadata=as_tenant(tenant), timeout=DEADLINE_SECONDS
        )
        messages = [message async for message in call]
        self.audit.judge_bytes(tenant, *(message.SerializeToString() for message in messages))
        readings = [reading for message in messages for reading in message.readings]
        versions = [self._version(tenant, reading) for reading in readings]
        if versions != list(range(first, first + len(versions))):
            self.audit.note(f"{tenant} {key}: a history from {first} with gaps: {versions}")
        # Nothing from there on: it has at most what came before.
        newest = versions[-1] if versions else first - 1
        shown = Shown(subject, frozenset({newest}), held, is_at_most=not versions)
        return [shown], messages[0].metadata

    def _states(self, tenant: str, ask: _Ask, answer: Any) -> list[Shown]:
        """Of every entity of this load, also one that the answer lacks."""
        self.audit.judge_bytes(tenant, answer.SerializeToString())
        versions = {
            state.entity_key: frozenset(self._version(tenant, each) for each in state.readings)
            for state in answer.entities
            if state.entity_key in self.keys
        }
        return [
            Shown(Subject(tenant, key), versions.get(key, frozenset()), ask.held.get(key, 0))
            for key in self.keys
        ]

    def _judge(self, ask: _Ask, shown: list[Shown], metadata: Any) -> None:
        self.served += 1
        as_of = metadata.as_of.ToDatetime(UTC) if metadata.HasField("as_of") else None
        self.audit.judge(
            Answer(
                ask.level,
                ask.asked_at,
                time.monotonic(),
                metadata.endpoint,
                lag_seconds(metadata),
                as_of,
                shown,
                ask.bound_seconds,
            )
        )

    def _failed(self, tenant: str, error: grpc.aio.AioRpcError) -> None:
        code, reason, _, _ = refusal(error)
        self.failures[f"{code.name} {reason or error.details()}"] += 1
        trailers = dict(error.trailing_metadata() or ())
        details = trailers.get("grpc-status-details-bin", b"")
        self.audit.judge_bytes(tenant, str(error.details()).encode(), bytes(details))

    def _version(self, tenant: str, reading: pb.Reading) -> int:
        """What a reading says it is; its value and its event time must say the same."""
        version = reading.event_time_us - self.base_us
        if reading.attribute == "pressure":
            expected: object = float(version)
            found: object = reading.value.double_value
        else:
            expected, found = self._text(tenant, version), reading.value.text_value
        if found != expected:
            self.audit.note(f"{tenant}: {reading} is not of version {version}")
        return version

    def _points(self, tenant: str, key: str, version: int) -> list[value_pb2.Point]:
        text = self._text(tenant, version)
        points = [
            value_pb2.Point(attribute="pressure", double_value=float(version)),
            value_pb2.Point(attribute="state", text_value=text),
            value_pb2.Point(attribute="serial", text_value=text),
        ]
        for point in points:
            point.entity_key, point.event_time_us = key, self.base_us + version
        return points

    def _text(self, tenant: str, version: int) -> str:
        return f"{self.audit.canaries[tenant]} {version}"

    @staticmethod
    async def _written(tenant: str, ingest: Any, request: ingest_pb.WriteRequest) -> bytes:
        """Repeated until it is known to be stored. The token."""
        async with asyncio.timeout(20):
            while True:
                try:
                    answer = await ingest.Write(request, metadata=as_tenant(tenant), timeout=5)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
                else:
                    token: bytes = answer.token
                    return token


def _versions(shown: Sequence[Shown]) -> dict[str, int]:
    """What the answer surely has: of a history that of one entity."""
    return {one.subject.entity: one.version for one in shown if not one.is_at_most}


@asynccontextmanager
async def audited(
    arena: ReadArena, reads: Reads, *, readers: int = 3, seed: int = 7
) -> AsyncIterator[ReadLoad]:
    """Load of both tenants while the block runs; fails if any answer breaks a promise."""
    audit = ReadAudit({tenant: f"canary-{uuid.uuid4().hex}" for tenant in TENANTS})
    serial = uuid.uuid4().hex[:8]
    keys = tuple(f"pump-{serial}-{number}" for number in range(ENTITIES))
    base_us = int((datetime.now(UTC) - timedelta(minutes=10)).timestamp() * 1e6)
    load = ReadLoad(arena, reads, audit, random.Random(seed), keys, base_us)
    async with (
        open_channel(arena.stack.services["ingest"].target, None) as channel,
        await psycopg.AsyncConnection.connect(
            arena.stack.database.admin_dsn, autocommit=True
        ) as clock,
        asyncio.TaskGroup() as tasks,
    ):
        ingest = ingest_service_pb2_grpc.IngestServiceStub(channel)
        running = [tasks.create_task(load.write(tenant, ingest, clock)) for tenant in TENANTS]
        await eventually(lambda: len(load.tokens) == len(TENANTS))
        await asyncio.to_thread(arena.stack.postgres.wait_caught_up)  # All know the entities.
        running += [
            tasks.create_task(load.read(tenant)) for tenant in TENANTS for _ in range(readers)
        ]
        if readers:
            await load.more(20)
        yield load
        for task in running:
            task.cancel()
    audit.assert_sound()
