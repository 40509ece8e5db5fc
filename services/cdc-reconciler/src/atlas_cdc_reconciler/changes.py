"""What a source hands to a sink: changes of rows, raw and in order, and the position behind."""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

import pyarrow as pa

from atlas_cdc_reconciler.lsn import LogPosition
from atlas_cdc_reconciler.tables import Column, ColumnType


class ChangeKind(Enum):
    """What happened to a row."""

    INSERT = b"I"
    UPDATE = b"U"
    DELETE = b"D"


class MessageError(ValueError):
    """Bytes that are no message of the source's protocol, or one that we do not know."""


class Unchanged(Enum):
    """The mark of a large value that an update left as it was, and that was not sent."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED
Row = list[Hashable]
"""Fields as the codec has them: None is NULL, UNCHANGED was not sent; equal if their values are."""


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column as the source describes it."""

    name: str
    type_oid: int | None
    """Its type in Postgres; None if the source does not say."""
    is_key: bool


class Codec(Protocol):
    """How a source writes its changes: the raw bytes of each are read here, and nowhere else.

    Fields come in the order of the relation's columns. All but `to_arrow` raise MessageError for
    bytes that are no such change.
    """

    @property
    def name(self) -> str:
        """What finds it again, for a dead letter: see source.codecs."""
        ...

    def insert_table(
        self, raws: Sequence[bytes], relation: "Relation", columns: Sequence[tuple[Column, int]]
    ) -> pa.Table:
        """Inserted rows as the warehouse's columns; with each, its place in the relation.

        The hot path. Raises FieldError too.
        """
        ...

    def insert(self, raw: bytes, relation: "Relation") -> Row:
        """The row that was inserted."""
        ...

    def update(self, raw: bytes, relation: "Relation") -> tuple[Row | None, Row]:
        """The old row or its key (NULL elsewhere), if it was sent, and the new row."""
        ...

    def delete(self, raw: bytes, relation: "Relation") -> Row:
        """The row that was deleted, or its key with NULL elsewhere."""
        ...

    def to_arrow(self, column_type: ColumnType, fields: Sequence[Hashable]) -> pa.Array:
        """One column of the warehouse from fields, UNCHANGED not among them. Raises FieldError."""
        ...


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the source describes it; a change of its schema makes a new one."""

    relation_id: int
    schema: str
    name: str
    columns: tuple[SourceColumn, ...]
    codec: Codec

    def columns_text(self) -> str:
        """The columns as text: a dead letter's raw bytes can be read with these alone."""
        return json.dumps([[c.name, c.type_oid, c.is_key] for c in self.columns])

    @staticmethod
    def columns_from(text: str) -> tuple[SourceColumn, ...]:
        """What `columns_text` wrote."""
        return tuple(SourceColumn(*column) for column in json.loads(text))


@dataclass(slots=True)
class Run:
    """Changes of one kind that follow each other in one table and one transaction.

    `raws` are the source's own messages: small to keep, exact in a dead letter, decoded by whole
    columns only when they are applied.
    """

    relation: Relation
    kind: ChangeKind
    commit: LogPosition
    """Of the transaction, as far as it is known while it is read."""
    raws: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole transactions, in commit order. Once applied, the sink stands at `position`."""

    runs: tuple[Run, ...]
    start: LogPosition
    """Where the sink has to stand: on any other position the batch does not fit."""
    position: LogPosition
    skipped: Counter[str]
    """Changes per table that the sink already has, for the books only."""

    @property
    def change_count(self) -> int:
        """Changes to apply."""
        return sum(len(run.raws) for run in self.runs)

    def counts(self) -> Counter[str]:
        """Changes to apply, per table."""
        counts: Counter[str] = Counter()
        for run in self.runs:
            counts[run.relation.name] += len(run.raws)
        return counts

    def change(self, ordinal: int) -> tuple[Run, bytes]:
        """The change with this number (0 is the first), and its run."""
        for run, first in self._numbered():
            if ordinal < first + len(run.raws):
                return run, run.raws[ordinal - first]
        raise IndexError(ordinal)

    def part(self, stop: int, without: Iterable[int]) -> list[Run]:
        """The changes before number `stop`, less those with the numbers in `without`."""
        left_out = set(without)
        runs = []
        for run, first in self._numbered():
            if first >= stop:
                break
            raws = run.raws[: stop - first]
            if left_out:
                raws = [raw for at, raw in enumerate(raws, first) if at not in left_out]
            if raws:
                runs.append(Run(run.relation, run.kind, run.commit, raws))
        return runs

    def cut(self, at: LogPosition) -> "tuple[Batch, Batch | None]":
        """What was committed before `at`, after which the sink stands there, and the rest."""
        if self.position <= at:
            return self, None
        before = tuple(run for run in self.runs if run.commit < at)
        after = tuple(run for run in self.runs if not run.commit < at)
        return (
            Batch(before, self.start, max(self.start, at), self.skipped),
            Batch(after, max(self.start, at), self.position, Counter()),
        )

    def _numbered(self) -> Iterator[tuple[Run, int]]:
        first = 0
        for run in self.runs:
            yield run, first
            first += len(run.raws)
