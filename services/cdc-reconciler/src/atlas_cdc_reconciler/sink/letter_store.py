"""Dead letters in the warehouse: how they get there, and how they are read again."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from atlas_cdc_reconciler.changes import ChangeKind, Relation, Run
from atlas_cdc_reconciler.letters import Letter, LetterClass, LetterFilter
from atlas_cdc_reconciler.lsn import LogPosition, Lsn
from atlas_cdc_reconciler.sink.holds import Holds
from atlas_cdc_reconciler.sink.queries import Q
from atlas_cdc_reconciler.sink.work import Buried
from atlas_cdc_reconciler.source.codecs import CODECS


@dataclass(frozen=True, slots=True)
class Source:
    """A change as it came: what a letter needs besides what is wrong with it."""

    relation: Relation
    kind: ChangeKind
    commit: LogPosition
    raw: bytes


def keep(
    connection: duckdb.DuckDBPyConnection,
    holds: Holds,
    buried: Sequence[Buried],
    sources: Sequence[Source],
) -> None:
    """Store letters, in the order of the source; in the open transaction."""
    if not buried:
        return
    ((first,),) = connection.execute(Q["letter_number"]).fetchall()
    for letter_id, each in enumerate(buried, first):
        if each.chain.chain_id is None:
            each.chain.chain_id = letter_id
    # Many of them share a description.
    described = {id(source.relation): source.relation for source in sources}
    texts = {key: relation.columns_text() for key, relation in described.items()}
    rows = pa.table(
        {
            "letter_id": pa.array(range(first, first + len(buried)), pa.int64()),
            "chain_id": pa.array([each.chain.chain_id for each in buried], pa.int64()),
            "letter_class": [each.letter_class.value for each in buried],
            "reason": [each.reason for each in buried],
            "table_name": [source.relation.name for source in sources],
            "kind": [source.kind.name for source in sources],
            "tenant_id": pa.array([each.tenant_id for each in buried], pa.int32()),
            "row_keys": pa.array([list(each.keys) for each in buried], pa.list_(pa.string())),
            "log_offset": pa.array([source.commit.offset for source in sources], pa.uint64()),
            "commit_lsn": pa.array([source.commit.lsn.value for source in sources], pa.uint64()),
            "codec": [source.relation.codec.name for source in sources],
            "source_columns": [texts[id(source.relation)] for source in sources],
            "raw": pa.array([source.raw for source in sources], pa.binary()),
        }
    )
    connection.register("cdc_buried", rows)
    try:
        connection.execute(Q["bury"])
    finally:
        connection.unregister("cdc_buried")
    connection.execute(Q["set_letter_number"], {"next_id": first + len(buried)})
    for table in holds.tables.values():
        for into, chain in table.merges:
            if into.chain_id is not None and chain.chain_id not in (None, into.chain_id):
                parameters = {"into_chain": into.chain_id, "chain": chain.chain_id}
                connection.execute(Q["join_chains"], parameters)
        table.merges.clear()
    holds.letter_count += len(buried)
    holds.byte_count += sum(len(source.raw) for source in sources)


def parameters_of(matching: LetterFilter) -> dict[str, object]:
    """Of the queries that take a filter."""
    letter_class = matching.letter_class
    return {
        "tenant_id": matching.tenant_id,
        "table_name": matching.table,
        "letter_class": "" if letter_class is None else letter_class.value,
        "reason": matching.reason,
        "letter_ids": list(matching.letter_ids),
    }


def letter_of(row: Sequence[object]) -> Letter:
    """A letter from a row of `letters_page`."""
    (letter_id, letter_class, reason, table, kind, tenant_id, tenant, keys, chain_id, *rest) = row
    offset, lsn, codec, columns, byte_count, attempts, first_us, last_us, raw = rest
    return Letter(
        letter_id=letter_id,  # type: ignore[arg-type]  # The query's columns have these types.
        letter_class=LetterClass(str(letter_class)),
        reason=str(reason),
        table=str(table),
        kind=str(kind),
        tenant_id=tenant_id,  # type: ignore[arg-type]
        tenant=str(tenant),
        row_keys=tuple(keys),  # type: ignore[arg-type]
        chain_id=chain_id,  # type: ignore[arg-type]
        offset=offset,  # type: ignore[arg-type]
        lsn=lsn,  # type: ignore[arg-type]
        codec=str(codec),
        source_columns=str(columns),
        byte_count=byte_count,  # type: ignore[arg-type]
        attempts=attempts,  # type: ignore[arg-type]
        first_attempt_us=first_us,  # type: ignore[arg-type]
        last_attempt_us=last_us,  # type: ignore[arg-type]
        raw=raw,  # type: ignore[arg-type]
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """A letter about to be tried again."""

    letter_id: int
    tenant_id: int | None
    source: Source


class Relations:
    """Descriptions of tables as letters have them; one object for equal ones."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], Relation] = {}

    def of(self, table: str, codec: str, columns: str) -> Relation:
        """How a letter is to be read."""
        key = (table, codec, columns)
        if key not in self._known:
            self._known[key] = Relation(0, "", table, Relation.columns_from(columns), CODECS[codec])
        return self._known[key]


def kept_of(row: Sequence[object], relations: Relations) -> Kept:
    """A letter from a row of `chosen_page`."""
    letter_id, table, kind, tenant_id, offset, lsn, codec, columns, raw = row
    relation = relations.of(str(table), str(codec), str(columns))
    at = LogPosition(int(str(offset)), Lsn(int(str(lsn))))
    source = Source(relation, ChangeKind[str(kind)], at, raw)  # type: ignore[arg-type]
    return Kept(int(str(letter_id)), tenant_id, source)  # type: ignore[arg-type]


def runs_of(letters: Sequence[Kept]) -> list[Run]:
    """The letters as changes, in their order."""
    runs: list[Run] = []
    for letter in letters:
        source = letter.source
        last = runs[-1] if runs else None
        if last is None or last.relation is not source.relation or last.kind is not source.kind:
            runs.append(Run(source.relation, source.kind, source.commit))
        runs[-1].raws.append(source.raw)
    return runs
