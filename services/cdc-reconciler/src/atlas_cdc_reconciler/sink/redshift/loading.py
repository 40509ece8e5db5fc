"""The first copy on its way: rows go into the bucket as they come, into the tables at the end."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from atlas_cdc_reconciler.changes import Relation
from atlas_cdc_reconciler.letters import Fault, LetterClass
from atlas_cdc_reconciler.lsn import LogPosition
from atlas_cdc_reconciler.sink.redshift import letters
from atlas_cdc_reconciler.sink.redshift.letters import Buried
from atlas_cdc_reconciler.sink.redshift.objects import Attempt, StagedFiles
from atlas_cdc_reconciler.sink.redshift.staging import staged_table, unfit
from atlas_cdc_reconciler.source import CopiedRows, copy
from atlas_cdc_reconciler.tables import TABLES

T = TypeVar("T")
_JSON_CODEC = "json"
"""Of rows that came whole, and are too large for Redshift: their raw bytes are gone by then."""


class _Run(Protocol):
    async def __call__(self, work: Callable[[], T]) -> T: ...


@dataclass(slots=True)
class Copied:
    """What was copied of a table so far."""

    files: StagedFiles
    dead_count: int = 0


class RedshiftLoad:
    """As sink.Load."""

    def __init__(self, run: _Run, attempt: Attempt, at: LogPosition) -> None:
        self._run = run
        self._at = at
        self._letter_count = 0
        self.attempt = attempt
        self.tables = {name: Copied(StagedFiles(f"stage_copied_{name}")) for name in TABLES}
        self.letter_files = StagedFiles(f"stage_{letters.LETTERS}")
        self.part_files = StagedFiles(f"stage_{letters.PARTS}")

    async def append(self, copied: CopiedRows) -> None:
        """As Load.append."""
        await self._run(lambda: self._append(copied))

    def _append(self, copied: CopiedRows) -> None:
        table, rows = copied.table, copied.rows
        relation = copied.relation or copy.relation(table)
        dead = [(relation.codec.name, raw, reason) for raw, reason in copied.rejected]
        reasons = unfit(table.columns, rows)
        if reasons:
            dead += [
                (_JSON_CODEC, _as_json(rows, index), reason) for index, reason in reasons.items()
            ]
            rows = rows.take([at for at in range(rows.num_rows) if at not in reasons])
        so_far = self.tables[table.name]
        if rows.num_rows:
            numbers = range(so_far.files.row_count, so_far.files.row_count + rows.num_rows)
            self.attempt.put_rows(so_far.files, staged_table(table.columns, rows, numbers))
        if dead:
            so_far.dead_count += len(dead)
            self._bury(relation, dead)

    def _bury(self, relation: Relation, dead: list[tuple[str, bytes, str]]) -> None:
        buried = [
            Buried(
                number,
                self._at.offset,
                self._at.lsn.value,
                relation.name,
                "INSERT",
                codec,
                relation.columns_text(),
                Fault(LetterClass.COPY, reason),
                raw,
            )
            for number, (codec, raw, reason) in enumerate(dead, self._letter_count)
        ]
        self._letter_count += len(dead)
        for letter in buried:
            letter.tell()
        now_us = int(time.time() * 1_000_000)
        self.attempt.put_rows(self.letter_files, letters.letters_table(buried, now_us))
        self.attempt.put_rows(self.part_files, letters.parts_table(buried))


def _as_json(rows: pa.Table, index: int) -> bytes:
    (row,) = rows.slice(index, 1).to_pylist()
    plain: dict[str, Any] = row
    return json.dumps(plain, ensure_ascii=False, default=str).encode()
