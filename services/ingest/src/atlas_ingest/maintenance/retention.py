"""Retention: partitions whose time has passed are retired, archived and dropped.

The database says what is due (`retention_plan`) and checks every step itself; this walks through
the plan. Each step leaves behind what the next plan starts from, so it may be killed anywhere.
"""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import class_row

from atlas_common import telemetry
from atlas_common.config import DatabaseConfig
from atlas_common.db import Connection, direct_connection
from atlas_ingest.config import MaintenanceConfig
from atlas_ingest.maintenance.archive import ArchiveError, ArchiveOrder, write_archive
from atlas_ingest.maintenance.partitions import Q

_ROUNDS_MAX = 4
"""Retired, archived, dropped, and once more to see that nothing is left."""
_EXPIRE_ROWS = 20_000
_log = telemetry.logger(__name__)


class Result(Enum):
    """What became of a step."""

    DONE = "done"
    POSTPONED = "postponed"
    """A transaction is in the way."""
    BLOCKED = "blocked"
    """Something is not configured."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is due."""

    step: str
    partition_name: str
    relation: str
    lower_bound: datetime
    upper_bound: datetime
    retention_class: str | None
    tenant_ids: list[int] | None
    needs_archive: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step, and what became of it."""

    step: Step
    result: Result
    detail: str


class Retention:
    """Does what is due, alone among all processes."""

    def __init__(self, database: DatabaseConfig, config: MaintenanceConfig) -> None:
        self._database = database
        self._directory = config.archive_directory
        self._unfinished: Mapping[str, int] = {}

    @property
    def unfinished(self) -> Mapping[str, int]:
        """Steps that the last walk could not do, by result."""
        return self._unfinished

    async def plan(self) -> list[Step]:
        """What is due; changes nothing. Raises ServiceError, psycopg.Error."""
        async with direct_connection(self._database, name="ingest retention") as connection:
            return await _plan(connection)

    async def walk(self) -> Sequence[Outcome] | None:
        """Do what is due. None: another process is at it. Raises ServiceError, psycopg.Error."""
        async with direct_connection(self._database, name="ingest retention") as connection:
            if not (await _fetch(connection, "lock_retention"))[0]:
                return None
            await connection.execute(b"SET statement_timeout = '1h'")  # Counting takes long.
            outcomes = await self._rounds(connection)
        last = [outcome for outcome in outcomes if outcome.result is not Result.DONE]
        self._unfinished = {
            result.value: sum(outcome.result is result for outcome in last)
            for result in Result
            if result is not Result.DONE
        }
        return outcomes

    async def _rounds(self, connection: Connection) -> list[Outcome]:
        """Plan and do, until a plan holds nothing that was not tried."""
        outcomes: list[Outcome] = []
        tried: set[tuple[str, str, str | None]] = set()
        for _ in range(_ROUNDS_MAX):
            steps = [step for step in await _plan(connection) if _key(step) not in tried]
            if not steps:
                break
            for step in steps:
                tried.add(_key(step))
                outcome = await self._do(connection, step)
                outcomes.append(outcome)
                _tell(outcome)
        return outcomes

    async def _do(self, connection: Connection, step: Step) -> Outcome:
        if step.needs_archive and self._directory is None:
            why = "maintenance.archive_directory is not set: nothing is archived, all is kept"
            return Outcome(step, Result.BLOCKED, why)
        doing = {
            "retire": self._retire,
            "archive": self._archive,
            "expire": self._expire,
            "drop": self._drop,
        }[step.step]
        try:
            return await doing(connection, step)
        except psycopg.errors.LockNotAvailable as error:
            return Outcome(step, Result.POSTPONED, str(error))
        except (ArchiveError, OSError, psycopg.Error) as error:
            if connection.closed:
                raise
            return Outcome(step, Result.FAILED, str(error))

    async def _retire(self, connection: Connection, step: Step) -> Outcome:
        (holder,) = await _fetch(connection, "retire_partition", name=step.partition_name)
        if holder is not None:
            return Outcome(step, Result.POSTPONED, holder)
        return Outcome(step, Result.DONE, f"now retired.{step.partition_name}")

    async def _archive(self, connection: Connection, step: Step) -> Outcome:
        assert step.retention_class is not None
        assert step.tenant_ids is not None
        assert self._directory is not None
        names = {"name": step.partition_name, "retention_class": step.retention_class}
        (part,) = await _fetch(connection, "next_archive_part", **names)
        schema, _, relation = step.relation.partition(".")
        order = ArchiveOrder(
            relation=(schema, relation.strip('"')),
            partition_name=step.partition_name,
            retention_class=step.retention_class,
            part=part,
            lower_bound=step.lower_bound,
            upper_bound=step.upper_bound,
            tenant_ids=step.tenant_ids,
        )
        stop = threading.Event()
        try:
            archive = await asyncio.to_thread(
                write_archive, self._database, self._directory, order, stop
            )
        except asyncio.CancelledError:
            stop.set()
            raise
        await _fetch(
            connection,
            "record_archive",
            **names,
            tenant_ids=step.tenant_ids,
            path=str(archive.path),
            row_count=archive.row_count,
            byte_count=archive.byte_count,
            checksum=archive.checksum,
        )
        return Outcome(
            step, Result.DONE, f"{archive.row_count} rows in {archive.path}, {archive.byte_count} B"
        )

    async def _expire(self, connection: Connection, step: Step) -> Outcome:
        await self._check_files(connection, step)
        total = 0
        logged_at = time.monotonic()
        while True:
            (deleted,) = await _fetch(
                connection,
                "expire_rows",
                name=step.partition_name,
                retention_class=step.retention_class,
                rows_max=_EXPIRE_ROWS,
            )
            total += deleted
            if not deleted:
                return Outcome(step, Result.DONE, f"{total} rows deleted")
            if time.monotonic() - logged_at > 10:
                logged_at = time.monotonic()
                _log.info("rows expire", partition=step.partition_name, rows=total)

    async def _drop(self, connection: Connection, step: Step) -> Outcome:
        await self._check_files(connection, step)
        await _fetch(connection, "drop_retired", name=step.partition_name)
        return Outcome(step, Result.DONE, "dropped")

    async def _check_files(self, connection: Connection, step: Step) -> None:
        """What is about to be deleted must still be where it was archived."""
        if not step.needs_archive:
            return
        cursor = await connection.execute(Q["archives_of"], {"name": step.partition_name})
        for path, byte_count in await cursor.fetchall():
            file = (self._directory or Path()) / path
            size = file.stat().st_size
            if size != byte_count:
                raise ArchiveError(f"{file} has {size} bytes, {byte_count} were written")


async def _plan(connection: Connection) -> list[Step]:
    cursor = connection.cursor(row_factory=class_row(Step))
    return await (await cursor.execute(Q["retention_plan"])).fetchall()


async def _fetch(connection: Connection, query: str, **values: Any) -> tuple[Any, ...]:
    row = await (await connection.execute(Q[query], values or None)).fetchone()
    assert row is not None
    return row


def _key(step: Step) -> tuple[str, str, str | None]:
    return step.step, step.partition_name, step.retention_class


def _tell(outcome: Outcome) -> None:
    told = _log.info if outcome.result is Result.DONE else _log.warning
    told(
        "retention step",
        step=outcome.step.step,
        partition=outcome.step.partition_name,
        retention_class=outcome.step.retention_class,
        result=outcome.result.value,
        detail=outcome.detail,
    )
