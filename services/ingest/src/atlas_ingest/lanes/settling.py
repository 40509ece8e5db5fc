"""What became of batches whose flush was committed while nobody here could hear it."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from atlas_common import errors
from atlas_common.db import Database, tenant_transaction
from atlas_common.errors import ServiceError
from atlas_common.token import Position
from atlas_ingest.lanes.batch import Batch, Skipped, Stored
from atlas_ingest.lanes.load import Load
from atlas_ingest.points import SourceOffset
from atlas_ingest.store import Q

RETRY_AFTER_SECONDS = 0.5


class Settling:
    """Reads it from what the flush itself has written."""

    def __init__(self, primary: Database) -> None:
        self._primary = primary

    async def settle(self, load: Load, position: Position) -> None:
        """Answer the batches of a load that the database says is stored.

        Raises ServiceError, psycopg.Error; then nothing was answered.
        """
        requests = await self._lookup(
            "stored_requests",
            "request_ids",
            [
                (b.tenant_id, b.known_by.request_id)
                for b in load.batches
                # What is of no tenant is for nobody's eyes: its sender tries again, and is known.
                if b.known_by.request_id and b.tenant_id
            ],
        )
        producers = await self._lookup(
            "stored_sequences",
            "producer_ids",
            [
                (b.tenant_id, b.known_by.producer.producer_id)
                for b in load.batches
                if b.known_by.producer is not None
            ],
        )
        offsets = await self._offsets(
            {
                (b.known_by.source.topic, b.known_by.source.partition)
                for b in load.batches
                if b.known_by.source is not None
            }
        )
        for batch in load.batches:
            stored = (
                _stored(batch, position, requests, producers)
                if batch.known_by.source is None
                else _stored_message(batch.known_by.source, position, offsets)
            )
            if stored is None:
                batch.fail(outcome_unknown())
            else:
                batch.settle(stored)

    async def _offsets(self, partitions: set[tuple[str, int]]) -> dict[tuple[str, int], int]:
        if not partitions:
            return {}
        values = {"topics": list({topic for topic, _ in partitions})}
        async with self._primary.transaction(read_only=True) as connection:
            cursor = await connection.execute(Q["stored_offsets"], values)
            return {(topic, number): offset for topic, number, offset in await cursor.fetchall()}

    async def _lookup(
        self, query: str, parameter: str, names: Iterable[tuple[int, str]]
    ) -> dict[tuple[int, str], tuple[Any, ...]]:
        wanted: dict[int, set[str]] = defaultdict(set)
        for tenant_id, name in names:
            wanted[tenant_id].add(name)
        found = {}
        for tenant_id, of_tenant in wanted.items():
            values = {"tenant_id": tenant_id, parameter: list(of_tenant)}
            async with tenant_transaction(self._primary, tenant_id, read_only=True) as connection:
                cursor = await connection.execute(Q[query], values)
                for name, *rest in await cursor.fetchall():
                    found[tenant_id, name] = tuple(rest)
        return found


def _stored(
    batch: Batch,
    position: Position,
    requests: dict[tuple[int, str], tuple[Any, ...]],
    producers: dict[tuple[int, str], tuple[Any, ...]],
) -> Stored | None:
    """Where the batch is; None: that cannot be known."""
    known_by = batch.known_by
    if known_by.request_id:
        found = requests.get((batch.tenant_id, known_by.request_id))
        if found is None:
            return None  # Its COPY had not gone through.
        lane, epoch, sequence, body_hash, answer = found
        first = Position(lane, epoch, sequence)
        if first == position and body_hash == known_by.body_hash:
            return Stored(position)
        return Stored(position, Skipped(first, body_hash, answer))
    if known_by.producer is not None:
        found = producers.get((batch.tenant_id, known_by.producer.producer_id))
        if found is None or found[0] < known_by.producer.sequence:
            return None
        return Stored(Position(*found[1:]))
    return Stored(position) if batch.is_staged else None


def _stored_message(
    source: SourceOffset, position: Position, offsets: dict[tuple[str, int], int]
) -> Stored | None:
    """Where a message is; None: not in the database, whatever its flush has done."""
    next_offset = offsets.get((source.topic, source.partition), 0)
    return Stored(position) if source.offset < next_offset else None


def not_stored() -> ServiceError:
    """The write did not get as far as the database."""
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "the write was not stored: the connection to the database was lost",
        retry_after=RETRY_AFTER_SECONDS,
        stored="no",
    )


def outcome_unknown() -> ServiceError:
    """The write may have got into the database."""
    return errors.unavailable(
        "DEPENDENCY_UNAVAILABLE",
        "the connection to the database was lost while the write was under way; whether it is"
        " stored is not known: repeat it with the same request_id",
        retry_after=RETRY_AFTER_SECONDS,
        stored="unknown",
    )
