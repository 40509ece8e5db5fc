"""What a source hands to a sink: changes of rows, raw and in order, and the position behind."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from atlas_cdc_reconciler.lsn import Lsn


class ChangeKind(Enum):
    """What happened to a row; the values are the messages' first bytes in pgoutput."""

    INSERT = b"I"
    UPDATE = b"U"
    DELETE = b"D"


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column as the source describes it."""

    name: str
    type_oid: int
    is_key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the source describes it; a change of its schema makes a new one."""

    relation_id: int
    schema: str
    name: str
    columns: tuple[SourceColumn, ...]


@dataclass(slots=True)
class Run:
    """Changes of one kind that follow each other in one table and one transaction.

    `raws` are the source's own messages: small to keep, exact in a dead letter, decoded by whole
    columns only when they are applied.
    """

    relation: Relation
    kind: ChangeKind
    commit_lsn: Lsn
    raws: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Batch:
    """Whole transactions, in commit order. Once applied, the sink stands at `position`."""

    runs: tuple[Run, ...]
    position: Lsn
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
                runs.append(Run(run.relation, run.kind, run.commit_lsn, raws))
        return runs

    def _numbered(self) -> Iterator[tuple[Run, int]]:
        first = 0
        for run in self.runs:
            yield run, first
            first += len(run.raws)
