"""Writes points as ingest does, but by hand: for tests of what stands below and behind ingest."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg

Half = Literal["a", "b"]


@dataclass(frozen=True)
class RawPoint:
    """One row of staging; `value` goes to the column of its attribute's type."""

    tenant_id: int
    entity_id: int
    attribute_id: int
    event_time: datetime
    value: Any
    column: str = "value_double"
    batch_no: int = 1
    quality: int = 0


@dataclass(frozen=True)
class Flushed:
    """What stage_flush answered, and the position it made."""

    sequence: int
    flushed_at: datetime
    point_count: int
    duplicates: list[dict[str, Any]]
    changed: list[tuple[int, int, int]]
    """(tenant_id, entity_id, version)"""


class LaneWriter:
    """Owns one lane on an autocommit connection of the role atlas_ingest."""

    def __init__(self, connection: psycopg.Connection[Any], lane: int = 0) -> None:
        self.connection = connection
        self.lane = lane
        # A session that was closed a moment ago may own it still.
        connection.execute("SET lock_timeout = '10s'")
        connection.execute("SELECT pg_advisory_lock(lane_lock_class(), %s)", [lane])
        connection.execute("RESET lock_timeout")
        claim = connection.execute("SELECT * FROM claim_lane(%s::smallint)", [lane]).fetchone()
        assert claim is not None
        self.epoch, self.sequence = claim

    def stage(self, points: Iterable[RawPoint], half: Half = "a") -> None:
        """Put points into a half of the lane."""
        with self.connection.cursor() as cursor:
            for point in points:
                cursor.execute(
                    f"INSERT INTO staging.lane_{self.lane}_{half}_points (batch_no, tenant_id,"
                    f" entity_id, attribute_id, event_time, quality, {point.column})"
                    " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                    [
                        point.batch_no,
                        point.tenant_id,
                        point.entity_id,
                        point.attribute_id,
                        point.event_time,
                        point.quality,
                        point.value,
                    ],
                )

    def stage_request(
        self,
        tenant_id: int,
        request_id: str | None,
        *,
        batch_no: int = 1,
        half: Half = "a",
        body_hash: bytes = b"body",
        answer: bytes = b"answer",
    ) -> None:
        """Put a batch's ledger row into a half of the lane."""
        self.connection.execute(
            f"INSERT INTO staging.lane_{self.lane}_{half}_batches"
            " (batch_no, tenant_id, request_id, body_hash, answer) VALUES (%s, %s, %s, %s, %s)",
            [batch_no, tenant_id, request_id, body_hash, answer],
        )

    def flush(self, half: Half = "a") -> Flushed:
        """Move the half onward; psycopg.Error as stage_flush raises it."""
        row = self.connection.execute(
            "SELECT flushed_at, point_count, duplicates, changed_tenants, changed_entities,"
            " changed_versions FROM stage_flush(%s::smallint, %s, %s, %s)",
            [self.lane, half, self.epoch, self.sequence + 1],
        ).fetchone()
        assert row is not None
        self.sequence += 1
        changed = list(zip(*(column or [] for column in row[3:]), strict=True))
        return Flushed(self.sequence, row[0], row[1], row[2], changed)

    def write(self, points: Iterable[RawPoint]) -> Flushed:
        """Stage and flush."""
        self.stage(points)
        return self.flush()
