"""`atlas import`: a file into the platform, batch after batch, repeatably."""

import asyncio
import csv
import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from atlas_client.client import AtlasClient
from atlas_client.errors import AtlasError
from atlas_client.importing.cells import TimeUnit
from atlas_client.importing.mapping import Shape
from atlas_client.importing.points import (
    Batch,
    BatchCutter,
    Rejected,
    TypeSurvey,
    cells_of,
    rejected,
)
from atlas_client.importing.source import Progress, Table, content_hash
from atlas_client.records import Attribute, WriteResult
from atlas_client.values import DataType

_WRITES_IN_FLIGHT_MAX = 4
_WRITE_TIMEOUT_SECONDS = 60.0
_TYPES_PER_CALL = 1000
REJECTED_SHOWN_MAX = 20


@dataclass(slots=True)
class ImportReport:
    """What became of the file."""

    points_stored: int = 0
    """Stored by this run or, for `duplicate_points` of them, by an earlier one."""
    duplicate_points: int = 0
    points_rejected: int = 0
    batches: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)
    """The first ones."""
    attributes_created: dict[str, DataType] = field(default_factory=dict)
    token: bytes = b""
    """Holds all that was stored."""

    def reject(self, one: Rejected) -> None:
        """Count a rejected point, and keep it if it is among the first."""
        self.points_rejected += 1
        self.reasons[one.reason] += 1
        if len(self.rejected) < REJECTED_SHOWN_MAX:
            self.rejected.append(one)


Notice = Callable[[str, Progress, ImportReport], None]
"""Called after each batch with the name of the step."""


class Importer:
    """Imports one file."""

    def __init__(
        self,
        client: AtlasClient,
        path: Path,
        table: Table,
        shape: Shape,
        *,
        unit: TimeUnit = TimeUnit.SECONDS,
        create_attributes: bool = True,
        hot: frozenset[str] = frozenset(),
        rejects_file: Path | None = None,
        notice: Notice = lambda _step, _progress, _report: None,
    ) -> None:
        self._client = client
        self._session = client.session()
        self._path = path
        self._table = table
        self._shape = shape
        self._unit = unit
        self._create_attributes = create_attributes
        self._hot = hot
        self._rejects_file = rejects_file
        self._notice = notice
        self.report = ImportReport()
        """Also after an error: what was stored until then."""

    async def run(self) -> ImportReport:
        """Import the file.

        Raises UnreadableFileError and MappingError, AtlasError when the platform refuses, and
        OSError when the rejects cannot be written. What was stored before stays, and is not stored
        again by the next run.
        """
        import_id = await asyncio.to_thread(self._import_id)
        types = await self._types()
        progress = Progress()
        cutter = BatchCutter(types, self._unit)
        batches = cutter.cut(self._table.read(self._shape.columns, progress), self._shape)
        async with AsyncExitStack() as stack:
            rejects = stack.enter_context(RejectsFile(self._rejects_file))
            writes: deque[asyncio.Task[_Stored]] = deque()
            stack.push_async_callback(_cancel_all, writes)
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                if len(writes) == _WRITES_IN_FLIGHT_MAX:
                    self._account(await writes.popleft(), rejects)
                writes.append(asyncio.create_task(self._store(batch, import_id)))
                self._notice("importing", progress, self.report)
            while writes:
                self._account(await writes.popleft(), rejects)
            self._notice("importing", progress, self.report)
        self.report.token = self._session.token
        return self.report

    def _import_id(self) -> bytes:
        # What a cell means is part of what is imported: another mapping is another import.
        meaning = json.dumps([repr(self._shape), self._unit]).encode()
        return hashlib.sha256(content_hash(self._path) + meaning).digest()

    async def _types(self) -> dict[str, DataType]:
        types = {each.name: each.data_type async for each in self._client.list_attributes()}
        if not self._create_attributes:
            return types
        survey = TypeSurvey(types, texts_are_text=self._table.is_typed and self._shape.is_wide)
        wanted = set(self._shape.values) if self._shape.is_wide else {self._shape.attribute_name}
        if not wanted <= types.keys():
            progress = Progress()
            tables = self._table.read(self._shape.columns, progress)
            while (rows := await asyncio.to_thread(next, tables, None)) is not None:
                await asyncio.to_thread(survey.look, cells_of(rows, self._shape))
                self._notice("looking at types", progress, self.report)
        missing = [
            Attribute(name, data_type, hot=name in self._hot)
            for name, data_type in survey.types.items()
        ]
        for start in range(0, len(missing), _TYPES_PER_CALL):
            await self._client.upsert_attributes(missing[start : start + _TYPES_PER_CALL])
        self.report.attributes_created = survey.types
        return types | survey.types

    async def _store(self, batch: Batch, import_id: bytes) -> "_Stored":
        if not batch.points:
            return _Stored(batch, None, batch.rejected)
        request_id = batch.request_id(import_id)
        try:
            result = await self._session.write(
                batch.points,
                request_id=request_id,
                partial_success=True,
                timeout=_WRITE_TIMEOUT_SECONDS,
            )
        except AtlasError as error:
            if error.reason != "REQUEST_ID_REUSED":
                raise
            message = (
                "this part of the file was imported before, when the catalog was another: rows that"
                " were rejected then go into a file of their own (see --rejects)"
            )
            again = [rejected(cell, error.reason, message) for cell in batch.cells]
            return _Stored(batch, None, batch.rejected + again)
        refused = await self._refused(batch, result)
        return _Stored(batch, result, sorted(batch.rejected + refused, key=lambda one: one.row))

    async def _refused(self, batch: Batch, result: WriteResult) -> list[Rejected]:
        """All that the platform refused: an answer tells the first 100, checks tell the rest."""
        refused: list[Rejected] = []
        start, errors = 0, result.errors
        while errors:
            for error in errors:
                cell = batch.cells[start + error.index]
                refused.append(rejected(cell, error.reason, error.message))
            if len(refused) >= result.rejected_count:
                break
            start += errors[-1].index + 1
            checked = await self._client.write(
                batch.points[start:],
                partial_success=True,
                validate_only=True,
                timeout=_WRITE_TIMEOUT_SECONDS,
            )
            errors = checked.errors
        return refused

    def _account(self, stored: "_Stored", rejects: "RejectsFile") -> None:
        report = self.report
        report.batches += 1
        if stored.result is not None:
            report.points_stored += stored.result.accepted_count
            if stored.result.duplicate:
                report.duplicate_points += stored.result.accepted_count
        for one in stored.rejected:
            report.reject(one)
            rejects.write(one)


@dataclass(frozen=True, slots=True)
class _Stored:
    batch: Batch
    result: WriteResult | None
    rejected: list[Rejected]


class RejectsFile:
    """What was rejected, as a CSV that can be mended and imported; nowhere without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: Any = None
        self._writer: Any = None

    def __enter__(self) -> "RejectsFile":
        if self._path is not None:
            self._file = self._path.open("w", newline="", encoding="utf-8")
            self._writer = csv.writer(self._file)
            self._writer.writerow(
                ["row", "entity", "attribute", "time", "value", "reason", "message"]
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, one: Rejected) -> None:
        """Write a line."""
        if self._writer is not None:
            self._writer.writerow(
                [one.row, one.entity, one.attribute, one.time, one.value, one.reason, one.message]
            )


async def _cancel_all(writes: "deque[asyncio.Task[_Stored]]") -> None:
    for write in writes:
        write.cancel()
    await asyncio.gather(*writes, return_exceptions=True)
